"""Operations of a transformer with their gradients written out: fewer passes over memory, and less of it kept.

Each is tested against automatic differentiation. Inputs and outputs are in the activations' dtype; what needs
precision is computed in float32 (or in the dtype of wider inputs).
"""

import math
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pretrain.fast.layout import Group

GELU_SCALE, GELU_CUBE = 2 * math.sqrt(2 / math.pi), 0.044715
GELU_CHUNK = 1 << 18
"""Elements at once: what lies between stays in the cache."""


class PackedAttention(Function):
    """softmax(q kᵀ · softmax_scale) v within each row, of tokens (N, heads * D); k and v may have fewer heads."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, groups: list[Group], heads: int, key_heads: int, softmax_scale: float
    ) -> Tensor:
        """q: (Q, heads * D), k, v: (N, key_heads * D) -> (Q, heads * D)."""
        out = torch.zeros_like(q, memory_format=torch.contiguous_format)
        kept: list[Tensor] = []
        for group in groups:
            queries = group.queries.matrices(q, heads) * softmax_scale
            keys, values = group.keys.matrices(k, key_heads), group.keys.matrices(v, key_heads)
            mixed = torch.empty_like(queries)
            shares = []
            for first, end, free, seen, bias in group.strips:
                rows = _by_key_head(queries[:, first:end], key_heads, heads)
                scores = torch.bmm(rows, keys[:, :seen].mT)
                scores.view(group.count, heads, end - first, seen)[..., free:].add_(bias.to(scores.dtype))
                shares.append(scores.softmax(-1))
                mixed[:, first:end] = torch.bmm(shares[-1], values[:, :seen]).view(-1, end - first, mixed.shape[-1])
            group.queries.write(mixed, heads, out)
            kept += [queries, keys, values, *shares]
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(*kept)
        ctx.groups, ctx.heads, ctx.key_heads, ctx.tokens = groups, heads, key_heads, len(k)
        ctx.softmax_scale = softmax_scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        heads, key_heads = ctx.heads, ctx.key_heads
        width = gradient.shape[1] // heads * key_heads
        dq = torch.zeros_like(gradient, memory_format=torch.contiguous_format)
        dk, dv = gradient.new_zeros(ctx.tokens, width), gradient.new_zeros(ctx.tokens, width)
        saved = iter(ctx.saved_tensors)
        for group in ctx.groups:
            queries, keys, values, *shares = islice(saved, 3 + len(group.strips))
            upstream = group.queries.padded_with_zeros(gradient, heads)
            d_queries, d_keys, d_values = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
            for (first, end, _, seen, _), share in zip(group.strips, shares, strict=True):
                rows = _by_key_head(queries[:, first:end], key_heads, heads)
                d_mixed = _by_key_head(upstream[:, first:end], key_heads, heads)
                d_values[:, :seen] += torch.bmm(share.mT, d_mixed)
                d_share = torch.bmm(d_mixed, values[:, :seen].mT)
                d_scores = torch._softmax_backward_data(d_share, share, -1, share.dtype)
                d_queries[:, first:end] = torch.bmm(d_scores, keys[:, :seen]).view(-1, end - first, keys.shape[-1])
                d_keys[:, :seen] += torch.bmm(d_scores.mT, rows)
            group.queries.write(d_queries * ctx.softmax_scale, heads, dq)
            group.keys.write(d_keys, key_heads, dk)
            group.keys.write(d_values, key_heads, dv)
        return dq, dk, dv, None, None, None, None


def _by_key_head(matrices: Tensor, key_heads: int, heads: int) -> Tensor:
    """(count * heads, R, D) as (count * key_heads, heads / key_heads * R, D): one matrix for each matrix of keys."""
    if heads == key_heads:
        return matrices
    return matrices.reshape(-1, heads // key_heads * matrices.shape[1], matrices.shape[2])


class GeluTanh(Function):
    """GELU by its tanh formula, as x · sigmoid(2u), u = √(2/π) (x + 0.044715 x³): a sigmoid is quicker than tanh.

    The derivative is computed on the way, while everything is in the cache, and kept in the place of x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        flat = x.reshape(-1)
        out = torch.empty_like(flat)
        slope = torch.empty_like(flat) if ctx.needs_input_grad[0] else None
        buffers = [torch.empty(min(GELU_CHUNK, len(flat)), dtype=wide, device=x.device) for _ in range(3)]
        scale = torch.tensor(GELU_SCALE, dtype=wide, device=x.device)
        for first in range(0, len(flat), GELU_CHUNK):
            part = slice(first, first + GELU_CHUNK)
            value, square, gate = (buffer[: len(flat[part])] for buffer in buffers)
            value.copy_(flat[part])
            torch.mul(value, value, out=square)
            torch.add(scale, square, alpha=GELU_SCALE * GELU_CUBE, out=gate).mul_(value).sigmoid_()
            out[part] = value.mul_(gate)
            if slope is not None:
                # gate + x gate (1 - gate) 2u'
                torch.add(scale, square, alpha=3 * GELU_SCALE * GELU_CUBE, out=square)
                slope[part] = gate.addcmul_(value.addcmul_(value, gate, value=-1), square)
        if slope is not None:
            ctx.save_for_backward(slope.view_as(x))
        return out.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0]


class FusedRMSNorm(Function):
    """x / √(mean x² + eps) · gain over the last dimension, given out in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.to(gain.dtype)
        size = x.shape[-1]
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(size).add_(eps).rsqrt_()
        ctx.save_for_backward(x, gain, inverse)
        return (wide * inverse).mul_(gain).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, inverse = ctx.saved_tensors
        gradient = gradient.to(gain.dtype)
        unit = x * inverse
        products = (gradient * unit).flatten(0, -2)
        mean = torch.mv(products, gain).view(inverse.shape).div_(x.shape[-1])
        dx = (gradient * gain).addcmul_(unit, mean, value=-1).mul_(inverse)
        return dx.to(x.dtype), products.sum(0), None, None


class Rotation(Function):
    """Rotary positions: x · cos + halves of x exchanged · sin, x (N, heads, D), given out in `dtype`.

    cos, sin: (N, 1, D); sin with the sign of the first half changed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        half = gradient.shape[-1] // 2
        wide = gradient.to(cos.dtype)
        dx = torch.addcmul(wide * cos, wide.roll(half, -1), sin.roll(half, -1))
        return dx.to(ctx.dtype), None, None, None


class TokenLogprobs(Function):
    """Log-probabilities of chosen tokens and entropies, both (N,) in nats, float32, of logits (N, V).

    The softmax is computed once, and kept for the gradients.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
        shares = scaled.softmax(-1)
        # The largest share is exp(largest logit - normaliser).
        normaliser = scaled.amax(-1) - shares.amax(-1).log()
        entropy = normaliser - torch.linalg.vecdot(shares, scaled)
        ctx.save_for_backward(shares, targets, entropy)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        ctx.set_materialize_grads(False)
        return scaled.gather(-1, targets[:, None]).squeeze(-1) - normaliser, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logprobs: Tensor | None, of_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        shares, targets, entropy = ctx.saved_tensors
        gradient = None
        if of_logprobs is not None:
            scaled = (of_logprobs / ctx.temperature)[:, None]
            gradient = (shares * -scaled).scatter_add_(-1, targets[:, None], scaled)
        if of_entropy is not None:
            scaled = (of_entropy / ctx.temperature)[:, None]
            slopes = -scaled * (torch.special.xlogy(shares, shares) + shares * entropy[:, None])
            gradient = slopes if gradient is None else gradient + slopes
        return None if gradient is None else gradient.to(ctx.dtype), None, None
