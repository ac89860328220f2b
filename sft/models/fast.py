"""Transformers' models of the GPT-2 and the Llama kind, described for the fast forward pass and the fast decoder."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Model, LlamaModel, MistralModel, Qwen2Model, Qwen3Model
from transformers.pytorch_utils import Conv1D

from pretrain.fast.body import Body, BodyLayer, Linear, Norm
from pretrain.fast.functions import GeluTanh
from pretrain.fast.layout import Layout


def gpt2_body(model: GPT2Model) -> Body:
    """LayerNorm, learned positions, one matrix for queries, keys and values."""
    config = model.config
    width, heads = config.hidden_size, config.n_head
    tanh = config.activation_function in ("gelu_new", "gelu_pytorch_tanh")

    def described(layer: Any) -> BodyLayer:
        joint = layer.attn.c_attn
        return BodyLayer(
            attention_norm=Norm(layer.ln_1, layer.ln_1.eps, centred=True),
            query=Linear(joint, slice(0, width), transposed=True),
            keys_values=(Linear(joint, slice(width, None), transposed=True),),
            head_norms=None,
            softmax_scale=layer.attn.scaling,
            out=Linear(layer.attn.c_proj, transposed=True),
            feed_forward_norm=Norm(layer.ln_2, layer.ln_2.eps, centred=True),
            up=(Linear(layer.mlp.c_fc, transposed=True),),
            activation=GeluTanh.apply if tanh else layer.mlp.act,
            down=Linear(layer.mlp.c_proj, transposed=True),
        )

    norm = Norm(model.ln_f, model.ln_f.eps, centred=True)
    layers = [described(layer) for layer in model.h]
    return Body(layers, norm, model.wte, model.wpe, None, heads, heads, width // heads)


def llama_body(model: Any) -> Body:
    """RMSNorm, rotary positions, a gated feed-forward layer; in Qwen3 queries and keys are normalised."""
    config = model.config
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads

    def norm(module: Any) -> Norm:
        return Norm(module, module.variance_epsilon)

    def described(layer: Any) -> BodyLayer:
        attention, mlp = layer.self_attn, layer.mlp
        normalised = hasattr(attention, "q_norm")
        return BodyLayer(
            attention_norm=norm(layer.input_layernorm),
            query=Linear(attention.q_proj),
            keys_values=(Linear(attention.k_proj), Linear(attention.v_proj)),
            head_norms=(norm(attention.q_norm), norm(attention.k_norm)) if normalised else None,
            softmax_scale=attention.scaling,
            out=Linear(attention.o_proj),
            feed_forward_norm=norm(layer.post_attention_layernorm),
            up=(Linear(mlp.gate_proj), Linear(mlp.up_proj)),
            activation=mlp.act_fn,
            down=Linear(mlp.down_proj),
        )

    def rotation(positions: Tensor) -> Tensor:
        cos, sin = (angle[0] for angle in model.rotary_emb(model.embed_tokens.weight, positions[None]))
        first, second = sin.chunk(2, -1)
        return torch.cat([cos, -first, second], dim=-1)

    layers = [described(layer) for layer in model.layers]
    key_heads = config.num_key_value_heads
    return Body(layers, norm(model.norm), model.embed_tokens, None, rotation, heads, key_heads, head_width)


LLAMAS: tuple[type, ...] = (LlamaModel, MistralModel, Qwen2Model, Qwen3Model)
KINDS: dict[type, Callable[[Any], Body]] = {GPT2Model: gpt2_body, **dict.fromkeys(LLAMAS, llama_body)}


def packed_body(model: Any) -> Body | None:
    """The packed form of a transformers model without head, or None where there is none that computes the same."""
    config = model.config
    whole = getattr(config, "layer_types", None) or ["full_attention"]
    if type(model) not in KINDS or set(whole) != {"full_attention"} or getattr(config, "sliding_window", None):
        return None
    # Angles that follow the longest text of a batch cannot be looked up by position.
    changing = getattr(getattr(model, "rotary_emb", None), "rope_type", None) in ("dynamic", "longrope")
    if changing or not _is_plain(model) or model.dtype != torch.float32:  # rounding would hide a difference
        return None
    try:
        body = KINDS[type(model)](model)
        return body if _computes_the_same(body, model) else None
    except (AttributeError, TypeError):  # put together in another way
        return None


def _is_plain(module: nn.Module) -> bool:
    """Whether a module and its parts do what their classes say: no quantised weights, no hooks.

    An adapter in the place of a linear layer is called as it is, and may do anything.
    """
    adapted = getattr(module, "base_layer", None)
    if type(adapted) in (nn.Linear, Conv1D):  # not one of few bits, which is an nn.Linear too
        return True
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    children = list(module.children())
    if children:
        return type(module).__module__.startswith(("torch.nn.", "transformers.")) and all(map(_is_plain, children))
    known = type(module) in (nn.Linear, Conv1D, nn.Embedding, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")
    return known or next(module.parameters(), None) is None


@torch.no_grad()
def _computes_the_same(body: Body, model: Any) -> bool:
    """Two rows of unequal length through both, in float32."""
    device = next(model.parameters()).device
    ids = torch.arange(10, device=device).view(2, 5) % model.config.vocab_size
    mask = torch.arange(5, device=device) < torch.tensor([[3], [5]], device=device)
    positions = torch.arange(5, device=device).expand(2, 5)
    theirs = model(input_ids=ids, attention_mask=mask.long(), position_ids=positions, use_cache=False)
    ours = body(ids, Layout(mask, mask), torch.float32)
    expected = theirs.last_hidden_state[mask]
    return ours.shape == expected.shape and torch.allclose(
        ours, expected, atol=1e-4 * expected.abs().max().item(), rtol=0
    )
