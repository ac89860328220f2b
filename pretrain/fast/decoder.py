"""A GPT's forward pass for sampling: the function that `GPT.forward` is, with a key–value cache.

One new token is little arithmetic, and starting operations takes most of its time. So what can be done before
is done once, in `start`: weights are laid out as the products want them, queries, keys and values in one
product, and the keys and values of all layers lie in one tensor. A step is then a loop over few operations.

Shapes as in `pretrain.model`: B sequences, T new positions, S cached and new ones, C width, H heads, D = C/H.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.sampling import keep_rows

if TYPE_CHECKING:
    from pretrain.model import GPT, Block


class Product:
    """Linear layers of one input as a single product, the first of them scaled, in the dtype of the activations."""

    def __init__(self, layers: Sequence[nn.Linear], dtype: torch.dtype, scale: float = 1.0) -> None:
        factors = [scale, *[1.0] * (len(layers) - 1)]
        weights = [layer.weight * factor for layer, factor in zip(layers, factors, strict=True)]
        self.weight = torch.cat(weights).to(dtype).T.contiguous()
        self.bias: Tensor | None = None
        if layers[0].bias is not None:
            biases = [layer.bias * factor for layer, factor in zip(layers, factors, strict=True)]
            self.bias = torch.cat(biases).to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.mm(x, self.weight) if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """Add the product of x to the residual stream, in place."""
        if self.bias is not None:
            residual.add_(self.bias)
        residual.addmm_(x, self.weight)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    x = x.float()
    return x * x.square().mean(-1, keepdim=True).add_(eps).rsqrt_() * gain


def norm_function(norm: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """LayerNorm or RMSNorm of activations in `dtype`, computed in float32."""
    if not isinstance(norm, nn.LayerNorm):
        return lambda x: rms_norm(x, norm.weight, norm.eps).to(dtype)
    layer_norm = partial(
        torch.layer_norm, normalized_shape=norm.normalized_shape, weight=norm.weight, bias=norm.bias, eps=norm.eps
    )
    return layer_norm if dtype == torch.float32 else lambda x: layer_norm(x.float()).to(dtype)


class Layer:
    """A block's weights, ready for use."""

    def __init__(self, block: "Block", dtype: torch.dtype) -> None:
        attention, feed_forward = block.attention, block.feed_forward
        self.attention_norm = norm_function(block.attention_norm, dtype)
        self.feed_forward_norm = norm_function(block.feed_forward_norm, dtype)
        self.modern, self.activation = attention.modern, feed_forward.activation
        # Queries come out already divided by √D: by their projection, or by the gain of their norm.
        scale = attention.scale
        projections = [attention.query, attention.key, attention.value]
        self.projections = Product(projections, dtype, 1.0 if self.modern else scale)
        self.out, self.down = Product([attention.out], dtype), Product([feed_forward.down], dtype)
        if self.modern:
            self.up = Product([feed_forward.gate, feed_forward.up], dtype)
            gains = [attention.query_norm.weight * scale, attention.key_norm.weight]
            self.gains = torch.stack(gains)[:, None, None, None]
            self.eps = attention.query_norm.eps
        else:
            self.up = Product([feed_forward.up], dtype)

    def feed_forward(self, residual: Tensor) -> None:
        """Add what the feed-forward layer makes of the residual stream (B·T, C) to it."""
        hidden = self.up(self.feed_forward_norm(residual))
        if self.modern:
            gate, up = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * up
        elif self.activation == "relu":
            hidden = F.relu(hidden)
        else:
            hidden = F.gelu(hidden, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        self.down.add_to(residual, hidden)


class Decoding:
    """A batch of texts in the making: the cache that `pretrain.sampling.generate` hands back to `GPT.step`."""

    def __init__(self, model: "GPT", batch_size: int, length: int) -> None:
        config, dtype = model.config, model.compute_dtype
        self.dtype, self.modern = dtype, config.family == "modern"
        self.layers = [Layer(block, dtype) for block in cast("Iterable[Block]", model.blocks)]
        self.norm, self.embedding = norm_function(model.norm, dtype), model.embedding.weight
        self.head = (self.embedding if config.tied else model.head.weight)[: config.vocab_size].to(dtype)
        # By position: its embedding, or the cosines and signed sines that rotate a head's two halves.
        self.by_position = (
            torch.cat([model.cos, model.cos, -model.sin, model.sin], dim=-1) if self.modern else model.positions.weight
        )
        head_width = config.width // config.heads
        shape = (config.layers, 2, batch_size, config.heads, length, head_width)
        self.states = torch.empty(shape, dtype=dtype, device=model.device)
        """Keys and values: (layers, 2, B, H, positions, D), of which the first `filled` positions are written."""
        self.filled = 0

    def keep(self, rows: Tensor) -> None:
        """See `pretrain.sampling.Cache.keep`."""
        self.states = keep_rows(self.states, rows, self.filled, dim=2)

    def step(self, ids: Tensor, positions: Tensor, key_mask: Tensor | None) -> Tensor:
        """See `pretrain.sampling.CachedModel.step`."""
        batch, length = ids.shape
        layers, _, _, heads, _, head_width = self.states.shape
        end = self.filled + length
        written = self.states.narrow(4, self.filled, length).unbind(0)
        seen = self.states.narrow(4, 0, end).view(2 * layers, batch * heads, end, head_width).unbind(0)
        bias = attention_bias(key_mask, length, end, heads, self.states)
        self.filled = end

        x = torch.embedding(self.embedding, ids)
        at_positions = torch.embedding(self.by_position, positions)
        if self.modern:
            cos, sin = at_positions[:, None].chunk(2, dim=-1)
        else:
            x = x + at_positions
        x = x.to(self.dtype).view(batch * length, -1)
        for layer, slot, keys, values in zip(self.layers, written, seen[::2], seen[1::2], strict=True):
            projected = layer.projections(layer.attention_norm(x)).view(batch, length, 3, heads, head_width)
            projected = projected.permute(2, 0, 3, 1, 4)  # (3, B, H, T, D)
            if self.modern:
                matched = rms_norm(projected[:2], layer.gains, layer.eps)
                matched = (matched * cos + matched.roll(head_width // 2, -1) * sin).to(self.dtype)
                query = matched[0]
                slot[0].copy_(matched[1])
                slot[1].copy_(projected[2])
            else:
                query = projected[0]
                slot.copy_(projected[1:])
            scores = torch.bmm(query.reshape(batch * heads, length, head_width), keys.mT)
            if bias is not None:
                scores += bias
            mixed = torch.bmm(scores.softmax(-1), values)
            if length > 1:
                mixed = mixed.view(batch, heads, length, head_width).transpose(1, 2)
            layer.out.add_to(x, mixed.reshape(batch * length, -1))
            layer.feed_forward(x)
        last = x if length == 1 else x.view(batch, length, -1)[:, -1]
        return F.linear(self.norm(last), self.head).float()


def attention_bias(key_mask: Tensor | None, queries: int, keys: int, heads: int, like: Tensor) -> Tensor | None:
    """What is added to the scores (B·H, T, S): -1e9 where a query must not look; None where it may look anywhere."""
    causal = like.new_full((queries, keys), -1e9).triu(keys - queries + 1) if queries > 1 else None
    if key_mask is None:
        return causal
    bias = like.new_zeros(key_mask.shape).masked_fill_(~key_mask, -1e9)[:, None, None]
    if causal is not None:
        bias = bias + causal
    return bias.expand(-1, heads, -1, -1).flatten(0, 1)
