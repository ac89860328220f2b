"""A transformer's hidden states without padding: one forward pass for every kind of model of the project.

A `Body` is a description, of linear layers and norms that belong to a model: `pretrain.fast.gpt` describes our GPT,
`sft.models.fast` those of transformers. `pretrain.fast.decoder` samples from the same description.

Shapes: N tokens of all rows, C width, D head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.fast.functions import FusedRMSNorm, PackedAttention, Rotation
from pretrain.fast.layout import Layout


class Linear:
    """Some outputs of a linear layer, in the dtype of its input; an adapter in the layer's place is called as it is."""

    def __init__(self, module: Any, outputs: slice = slice(None), transposed: bool = False) -> None:
        """transposed: the weight is (in, out), as in transformers' GPT-2."""
        self.module, self.outputs, self.transposed = module, outputs, transposed
        self.adapted = hasattr(module, "base_layer")

    def __call__(self, x: Tensor) -> Tensor:
        """x (N, in) to (N, out)."""
        if self.adapted:
            with torch.autocast(x.device.type, x.dtype, enabled=x.dtype != torch.float32):
                output: Tensor = self.module(x)
            return output[:, self.outputs].to(x.dtype)
        bias: Any = getattr(self.module, "bias", None)
        bias = None if bias is None else bias[self.outputs].to(x.dtype)
        if self.transposed:
            return torch.addmm(bias, x, self.module.weight[:, self.outputs].to(x.dtype))
        return F.linear(x, self.module.weight[self.outputs].to(x.dtype), bias)

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight (in, out) and bias (out,) as they are now; None where an adapter computes something else."""
        if self.adapted:
            return self._probe()
        weight, bias = self.module.weight, getattr(self.module, "bias", None)
        weight = weight[:, self.outputs] if self.transposed else weight[self.outputs].T
        return weight, None if bias is None else bias[self.outputs]

    def _probe(self) -> tuple[Tensor, Tensor] | None:
        """The matrix that an adapted layer is, found by asking it."""
        weight = self.module.base_layer.weight
        size = weight.shape[0 if self.transposed else 1]
        inputs = torch.cat([torch.eye(size), torch.zeros(1, size), torch.linspace(-1, 2, size)[None]]).to(weight)
        *_, bias, check = outputs = self(inputs)
        matrix = outputs[:size] - bias
        expected = inputs[-1] @ matrix + bias
        close = torch.allclose(check, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
        return (matrix, bias) if close else None


@dataclass
class Norm:
    """LayerNorm, or RMSNorm where not `centred`, of a module's weights."""

    module: Any
    eps: float
    centred: bool = False

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Of float32 or wider, given out in `dtype`."""
        if self.centred:
            return F.layer_norm(x, x.shape[-1:], self.module.weight, self.module.bias, self.eps).to(dtype)
        return FusedRMSNorm.apply(x, self.module.weight, self.eps, dtype)


@dataclass
class BodyLayer:
    """A layer's parts, each added to the residual stream: attention, then feed-forward."""

    attention_norm: Norm
    query: Linear
    keys_values: tuple[Linear, ...]
    """Two layers, or one that gives keys and values behind each other."""
    head_norms: tuple[Norm, Norm] | None
    """Of each head's queries and keys."""
    softmax_scale: float
    out: Linear
    feed_forward_norm: Norm
    up: tuple[Linear, ...]
    """With two, the first is a gate: activation(gate(x)) · up(x)."""
    activation: Callable[[Tensor], Tensor]
    down: Linear


@dataclass
class Body:
    """A model without its head; the parameters stay the model's own, as does the gradient."""

    layers: list[BodyLayer]
    norm: Norm
    embedding: nn.Embedding
    positions: nn.Embedding | None
    """Learned positions."""
    rotation: Callable[[Tensor], Tensor] | None
    """Rotary positions: of positions (N,) the cosines and signed sines (N, 2 D), for halves that rotate together."""
    heads: int
    key_heads: int
    head_width: int

    def __call__(
        self,
        ids: Tensor,
        layout: Layout,
        dtype: torch.dtype,
        keep: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """Hidden states (n, C), in float32, of the n tokens that `layout` gives out, row by row.

        ids: (B, T), as the masks that `layout` was made of. dtype: of the activations; the residual stream is float32.
        `keep` is shown the keys and values (N, key_heads * D) of every layer, by its number.
        """
        x = self.embed(ids.flatten()[layout.source], layout.positions)
        angles = None
        if self.rotation is not None:
            angles = self.rotation(layout.positions)[:, None]
        for number, layer in enumerate(self.layers):
            normed = layer.attention_norm(x, dtype)
            keys, values = self._keys_and_values(layer, normed, angles)
            if keep is not None:
                keep(number, keys, values)
            groups = layout.all
            if number == len(self.layers) - 1:
                # Nobody sees what becomes of the others: their keys and values are all that is needed of them.
                x, normed, groups = x.index_select(0, layout.chosen), normed.index_select(0, layout.chosen), layout.last
                angles = None if angles is None else angles.index_select(0, layout.chosen)
            queries = self._placed(layer.query(normed), self.heads, layer.head_norms and layer.head_norms[0], angles)
            mixed = PackedAttention.apply(
                queries, keys, values, groups, self.heads, self.key_heads, layer.softmax_scale
            )
            x = x + layer.out(mixed)
            x = x + self._feed_forward(layer, layer.feed_forward_norm(x, dtype))
        x = self.norm(x, x.dtype)
        return x[: layout.count] if layout.restore is None else x[layout.restore]

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """The residual stream (N, C) as it begins, in float32."""
        x = torch.embedding(self.embedding.weight, ids)
        return x if self.positions is None else x + torch.embedding(self.positions.weight, positions)

    def _keys_and_values(self, layer: BodyLayer, x: Tensor, angles: Tensor | None) -> tuple[Tensor, Tensor]:
        projected = [part(x) for part in layer.keys_values]
        keys, values = projected if len(projected) == 2 else projected[0].chunk(2, -1)
        return self._placed(keys, self.key_heads, layer.head_norms and layer.head_norms[1], angles), values

    @staticmethod
    def _placed(projected: Tensor, heads: int, norm: Norm | None, angles: Tensor | None) -> Tensor:
        """Queries or keys, normalised and rotated."""
        if angles is None:
            return projected
        dtype, x = projected.dtype, projected.view(len(projected), heads, -1)
        if norm is not None:
            x = norm(x, angles.dtype)
        cos, sin = angles.chunk(2, -1)
        return Rotation.apply(x, cos, sin, dtype).flatten(1)

    @staticmethod
    def _feed_forward(layer: BodyLayer, x: Tensor) -> Tensor:
        if len(layer.up) == 1:
            return layer.down(layer.activation(layer.up[0](x)))
        gate, up = layer.up
        return layer.down(layer.activation(gate(x)) * up(x))
