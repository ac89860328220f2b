"""In how many bits weights are kept, and which activations: what makes models smaller on one device."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from data.console import UserError
from rlhf.ppo.adapters import trainable
from rlhf.ppo.config import PPOConfig

CHUNK = 1 << 24
"""Numbers of weights, about, that `MasterAdam` steps at once: it needs four bytes more for each."""


def shrinks(config: PPOConfig) -> bool:
    """Whether models take less memory after they are placed than as they are loaded."""
    return config.frozen_dtype != "float32" or config.weights_dtype != "float32" or config.shard is not None


@torch.no_grad()
def to_bfloat16(weights: Iterable[Tensor]) -> None:
    """Round float32 weights, in place, so that every layer that shares one sees it; quantised ones stay.

    Buffers stay as they are: angles of rotary positions need the digits.
    """
    for weight in weights:
        if weight.dtype == torch.float32:
            weight.data = weight.data.to(torch.bfloat16)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The transformer layers of a model, in its order: what can be recomputed, or gathered, one at a time."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def checkpoint_layers(model: nn.Module, role: str) -> None:
    """Keep only what goes into each layer for the backward pass, which computes the rest again.

    By transformers' layers, in place. Its own switch works in training mode alone, where dropout would be. UserError
    for a model that has no such layers.
    """
    layers = layers_of(model)
    if not layers:
        raise UserError(
            f"transformers knows no layers of the {role} that could be computed again: leave gradient_checkpointing off"
        )
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


class Masters:
    """float32 copies of the weights that learn, which are themselves rounded to bfloat16; see `MasterAdam`."""

    def __init__(self, weights: Iterable[Tensor] = ()) -> None:
        """Rounds the weights, in place."""
        self.copies: dict[Tensor, Tensor] = {}
        for weight in weights:
            if weight.dtype == torch.float32:
                self.copies[weight] = nn.Parameter(weight.detach().clone())
                to_bfloat16([weight])

    def of(self, weight: Tensor) -> Tensor:
        """The copy that the optimizer steps, or the weight itself where it has none."""
        return self.copies.get(weight, weight)

    def learned(self, module: nn.Module) -> dict[str, Tensor]:
        """What a module has learned, by name, in all its digits: see `trainable`."""
        return {name: self.of(weight) for name, weight in trainable(module).items()}

    @torch.no_grad()
    def written(self, weights: Iterable[Tensor]) -> None:
        """Round what the copies hold into the weights."""
        for weight in weights:
            if weight in self.copies:
                weight.copy_(self.copies[weight])


class MasterAdam(torch.optim.Adam):
    """Adam on the float32 copies of bfloat16 weights, whose gradients it takes (Micikevicius et al., arXiv 1710.03740).

    Steps that are smaller than a bfloat16 number's last digit add up in the copies instead of being lost.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], masters: Masters, *args: Any, **kwargs: Any) -> None:
        """groups: of the weights themselves."""
        self.masters, self.weights = masters, [weight for group in groups for weight in group["params"]]
        ours = [group | {"params": [masters.of(weight) for weight in group["params"]]} for group in groups]
        super().__init__(ours, *args, **kwargs)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for weight in self.weights:
            weight.grad = None

    def step(self, closure: Any = None) -> Any:
        """A step of all weights that have a gradient, some weights at a time. It takes the gradients away."""
        gradients = {weight: weight.grad for weight in self.weights}
        self.zero_grad()
        for part in self._parts():
            copies = [self.masters.of(weight) for weight in part]
            for weight, copy in zip(part, copies, strict=True):
                gradient = gradients.pop(weight)
                copy.grad = None if gradient is None else gradient.to(copy.dtype)
            super().step()
            for copy in copies:
                copy.grad = None
            self.masters.written(part)

    def _parts(self) -> Iterator[list[Tensor]]:
        part: list[Tensor] = []
        for weight in self.weights:
            if part and sum(each.numel() for each in part) + weight.numel() > CHUNK:
                yield part
                part = []
            part.append(weight)
        yield part
