"""A transformers model of the GPT-2 or the Llama kind as the same function over packed tokens."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Model, LlamaModel, MistralModel, PreTrainedModel, Qwen2Model, Qwen3Model
from transformers.pytorch_utils import Conv1D

from pretrain.fast.functions import Attention, GeluTanh, RMSNorm, Rotation
from pretrain.fast.layout import Layout

Angles = tuple[Tensor, Tensor] | None
"""Cosines and signed sines of rotary positions, (N, 1, D) each."""


class Body:
    """The hidden states of a model without its head; its parameters are the model's own.

    Subclasses say what a layer of their kind computes.
    """

    def __init__(self, model: PreTrainedModel, layers: Any, heads: int, key_heads: int) -> None:
        self.model: Any = model
        self.layers = list(layers)
        self.heads, self.key_heads = heads, key_heads
        config = model.config
        self.head_width: int = getattr(config, "head_dim", None) or config.hidden_size // heads

    def __call__(
        self,
        ids: Tensor,
        mask: Tensor,
        wanted: Tensor,
        dtype: torch.dtype,
        keep: Callable[[Layout, int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """Hidden states (n, C), in float32, of the n tokens `wanted`, row by row.

        ids, mask, wanted: (B, T); nothing is computed where `mask` is False. dtype: of the activations. `keep` is
        shown the keys and values (N, key_heads * D) of every layer, by its number.
        """
        layout = layout_of(mask, wanted)
        ids = ids.flatten()[layout.source]
        x, angles = self.embed(ids, layout.positions)
        for number, layer in enumerate(self.layers):
            normed = self.attention_norm(layer, x, dtype)
            keys, values = self.keys_and_values(layer, normed, angles)
            if keep is not None:
                keep(layout, number, keys, values)
            groups = layout.all
            if number == len(self.layers) - 1:
                # Nobody sees what becomes of the others: their keys and values are all that is needed of them.
                x, normed, groups = x.index_select(0, layout.chosen), normed.index_select(0, layout.chosen), layout.last
                if angles is not None:
                    angles = angles[0].index_select(0, layout.chosen), angles[1].index_select(0, layout.chosen)
            queries = self.queries(layer, normed, angles)
            mixed = Attention.apply(queries, keys, values, groups, self.heads, self.key_heads, self.scale(layer))
            x = x + self.attention_out(layer, mixed)
            x = x + self.feed_forward(layer, x, dtype)
        x = self.final_norm(x)
        return x[: layout.count] if layout.restore is None else x[layout.restore]

    # ---- what a kind of model is ----

    def embed(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, Angles]:
        """The residual stream (N, C) as it begins, in float32."""
        raise NotImplementedError

    def attention_norm(self, layer: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        raise NotImplementedError

    def queries(self, layer: Any, x: Tensor, angles: Angles) -> Tensor:
        raise NotImplementedError

    def keys_and_values(self, layer: Any, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def scale(self, layer: Any) -> float:
        raise NotImplementedError

    def attention_out(self, layer: Any, mixed: Tensor) -> Tensor:
        raise NotImplementedError

    def feed_forward(self, layer: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        raise NotImplementedError

    def final_norm(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class GPT2Body(Body):
    """LayerNorm, learned positions, one matrix for queries, keys and values."""

    def __init__(self, model: GPT2Model) -> None:
        super().__init__(model, model.h, model.config.n_head, model.config.n_head)
        tanh = model.config.activation_function in ("gelu_new", "gelu_pytorch_tanh")
        first: Any = model.h[0]
        self.activation: Any = GeluTanh.apply if tanh else first.mlp.act

    def embed(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, Angles]:
        return F.embedding(ids, self.model.wte.weight) + F.embedding(positions, self.model.wpe.weight), None

    def attention_norm(self, layer: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        return layer_norm(layer.ln_1, x, dtype)

    def queries(self, layer: Any, x: Tensor, angles: Angles) -> Tensor:
        return conv1d(layer.attn.c_attn, x, slice(0, x.shape[1]))

    def keys_and_values(self, layer: Any, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor]:
        keys, values = conv1d(layer.attn.c_attn, x, slice(x.shape[1], None)).chunk(2, -1)
        return keys, values

    def scale(self, layer: Any) -> float:
        return layer.attn.scaling

    def attention_out(self, layer: Any, mixed: Tensor) -> Tensor:
        return conv1d(layer.attn.c_proj, mixed)

    def feed_forward(self, layer: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        hidden = self.activation(conv1d(layer.mlp.c_fc, layer_norm(layer.ln_2, x, dtype)))
        return conv1d(layer.mlp.c_proj, hidden)

    def final_norm(self, x: Tensor) -> Tensor:
        return layer_norm(self.model.ln_f, x, x.dtype)


class LlamaBody(Body):
    """RMSNorm, rotary positions, a gated feed-forward layer; in Qwen3 queries and keys are normalised."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        super().__init__(model, model.layers, config.num_attention_heads, config.num_key_value_heads)

    def embed(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, Angles]:
        x = F.embedding(ids, self.model.embed_tokens.weight)
        cos, sin = (angle[0, :, None] for angle in self.model.rotary_emb(x, positions[None]))
        first, second = sin.chunk(2, -1)
        return x, (cos, torch.cat([-first, second], dim=-1))

    def attention_norm(self, layer: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        return rms_norm(layer.input_layernorm, x, dtype)

    def queries(self, layer: Any, x: Tensor, angles: Angles) -> Tensor:
        attention = layer.self_attn
        return self._rotated(linear(attention.q_proj, x), self.heads, getattr(attention, "q_norm", None), angles)

    def keys_and_values(self, layer: Any, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor]:
        attention = layer.self_attn
        norm = getattr(attention, "k_norm", None)
        return self._rotated(linear(attention.k_proj, x), self.key_heads, norm, angles), linear(attention.v_proj, x)

    def scale(self, layer: Any) -> float:
        return layer.self_attn.scaling

    def attention_out(self, layer: Any, mixed: Tensor) -> Tensor:
        return linear(layer.self_attn.o_proj, mixed)

    def feed_forward(self, layer: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        normed, mlp = rms_norm(layer.post_attention_layernorm, x, dtype), layer.mlp
        return linear(mlp.down_proj, mlp.act_fn(linear(mlp.gate_proj, normed)) * linear(mlp.up_proj, normed))

    def final_norm(self, x: Tensor) -> Tensor:
        return rms_norm(self.model.norm, x, x.dtype)

    @staticmethod
    def _rotated(projected: Tensor, heads: int, norm: Any, angles: Angles) -> Tensor:
        assert angles is not None
        dtype, x = projected.dtype, projected.view(len(projected), heads, -1)
        if norm is not None:
            x = rms_norm(norm, x, angles[0].dtype)
        return Rotation.apply(x, *angles, dtype).flatten(1)


# ---- layers, with float32 parameters and activations in their own dtype ----


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer, or one that an adapter has taken the place of."""
    if not isinstance(layer, nn.Linear):
        return _adapted(layer, x)
    return F.linear(x, layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))


def conv1d(layer: nn.Module, x: Tensor, columns: slice = slice(None)) -> Tensor:
    """Some output columns of GPT-2's linear layer, whose weight is (in, out), or of an adapter in its place."""
    if not isinstance(layer, Conv1D):
        return _adapted(layer, x)[:, columns]
    return torch.addmm(layer.bias[columns].to(x.dtype), x, layer.weight[:, columns].to(x.dtype))


def _adapted(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, x.dtype, enabled=x.dtype != torch.float32):
        output: Tensor = layer(x)
    return output.to(x.dtype)


def layer_norm(norm: nn.LayerNorm, x: Tensor, dtype: torch.dtype) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(dtype)


def rms_norm(norm: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    return RMSNorm.apply(x, norm.weight, norm.variance_epsilon, dtype)


KINDS: dict[type, Callable[[Any], Body]] = {
    GPT2Model: GPT2Body,
    LlamaModel: LlamaBody,
    MistralModel: LlamaBody,
    Qwen2Model: LlamaBody,
    Qwen3Model: LlamaBody,
}


def packed_body(model: Any) -> Body | None:
    """The packed form of a transformers model without head, or None where there is none that computes the same."""
    config = model.config
    whole = getattr(config, "layer_types", None) or ["full_attention"]
    if type(model) not in KINDS or set(whole) != {"full_attention"} or getattr(config, "sliding_window", None):
        return None
    if not _is_plain(model):
        return None
    body = KINDS[type(model)](model)
    return body if _computes_the_same(body, model) else None


def _is_plain(module: nn.Module) -> bool:
    """Whether a module and its parts do what their classes say: no quantised weights, no hooks.

    An adapter in the place of a linear layer is called as it is, and may do anything.
    """
    adapted = getattr(module, "base_layer", None)
    if isinstance(adapted, nn.Linear | Conv1D):
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
    try:
        ours = body(ids, mask, mask, torch.float32)
    except (AttributeError, TypeError):  # put together in another way
        return False
    expected = theirs.last_hidden_state[mask]
    return ours.shape == expected.shape and torch.allclose(
        ours, expected, atol=1e-4 * expected.abs().max().item(), rtol=0
    )


_last_layout: list[tuple[Tensor, Tensor, Layout]] = []


def layout_of(mask: Tensor, wanted: Tensor) -> Layout:
    """The layout of a batch; policy, value and reference see the same batch one after the other."""
    if not (_last_layout and _last_layout[0][0] is mask and _last_layout[0][1] is wanted):
        _last_layout[:] = [(mask, wanted, Layout(mask, wanted))]
    return _last_layout[0][2]
