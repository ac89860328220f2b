"""LoRA and its kin, through peft: small trainable adapters on frozen weights, which all networks share.

Policy and reference are two trees of modules over one set of tensors, and only the policy's has the adapter. So the
reference is the policy with its adapter disabled, without switching anything; the value has an adapter of its own on
the policy's or the reward model's tensors.
"""

import copy
import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from data.console import UserError
from sft.models.loading import is_quantised
from sft.models.reading import accepted, body_of, close


def share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model's modules over the very same parameters, which it freezes.

    UserError for quantised weights that serve one tree of modules alone.
    """
    model.requires_grad_(False)
    # bitsandbytes' 8-bit layers take at their first call what their weights hold, and no other layer finds it there.
    before = _fingerprint(model) if is_quantised(model) else None
    states = [vars(state) for module in model.modules() if hasattr(state := getattr(module, "state", None), "__dict__")]
    tensors = [*model.parameters(), *(x for state in states for x in state.values() if isinstance(x, Tensor))]
    shared = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})  # what the memo holds is not copied
    if before is not None and not close(model, _fingerprint(shared), before):
        raise UserError(
            f"the quantised weights of a {type(model).__name__} cannot be shared by policy and reference: use another "
            "kind of quantisation, such as bitsandbytes in 4 bits"
        )
    return shared


def check_peft(peft_config: Any) -> None:
    """Raise UserError where peft is not installed, or where this is not a configuration of an adapter of weights."""
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise UserError('peft_config needs the package peft: pip install "shakespeare-rlhf[peft]"') from error
    if not isinstance(peft_config, PeftConfig):
        raise UserError(f"peft_config is a {type(peft_config).__name__}: give one of peft's, such as LoraConfig(r=16)")
    if peft_config.is_prompt_learning:
        raise UserError(
            f"{type(peft_config).__name__} adds tokens to the prompt: use an adapter of weights, such as LoRA"
        )


def add_adapter(model: PreTrainedModel, peft_config: Any, role: str) -> Any:
    """Put a trainable adapter into the model, in place, and return peft's model around it.

    Raises UserError where peft cannot, or where the adapter would change the weights that the reference shares.
    """
    from peft import get_peft_model

    weights = dict(model.named_parameters())
    tied = _tied(model)
    before = _fingerprint(model)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")  # refused below
            adapted = get_peft_model(model, copy.deepcopy(peft_config))  # peft writes into it
    except (ValueError, TypeError) as error:  # no such layer, or none of a kind that it can adapt
        raise UserError(f"peft cannot adapt the {role}: {error}") from error
    for name, module in model.named_modules():
        inner = getattr(module, "base_layer", None) or getattr(module, "original_module", None)
        if inner is not None and tied & {id(weight) for weight in inner.parameters()}:
            raise UserError(
                f"this adapter changes '{name}' of the {role}, whose weights another layer has too, so it could not be "
                "merged: leave that layer out, or untie the weights (tie_word_embeddings=False)"
            )
    trained = [name for name, weight in weights.items() if weight.requires_grad]
    with adapted.disable_adapter():
        changed = not torch.allclose(before, _fingerprint(model), atol=1e-5, rtol=1e-4)
    if trained or changed:
        what = f"trains {trained[0]}" if trained else "changes the weights when it is made"
        raise UserError(
            f"this adapter {what}, which the reference shares: leave bias at 'none' and init_lora_weights at True"
        )
    return adapted


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapters, if it has any, added to the weights: then a copy, or else the model itself."""
    adapted = [name for name, module in model.named_modules() if hasattr(module, "base_layer")]
    if not adapted:
        return model
    model = copy.deepcopy(model)
    for name in adapted:
        layer: Any = model.get_submodule(name)
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    return model


def _tied(model: PreTrainedModel) -> set[int]:
    """Identities of the weights that several layers share."""
    counts = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    return {weight for weight, count in counts.items() if count > 1}


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """The weights that are learned, by name: all there is to save of a run."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


@torch.no_grad()
def _fingerprint(model: PreTrainedModel) -> Tensor:
    """Hidden states (1, 3, width) of a few tokens; the model is in evaluation mode."""
    ids = torch.arange(3, device=model.device)[None]
    body = body_of(model)
    states: Tensor = body(input_ids=ids, **accepted(body, use_cache=False)).last_hidden_state
    return states
