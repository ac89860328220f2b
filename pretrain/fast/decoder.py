"""The one decoder with a key–value cache: prompts in one pass without padding, then a token at a time.

One new token is little arithmetic, and starting operations takes most of its time. So what can be prepared is
prepared in `KVDecoder.new_cache`: weights laid out as the products want them, layers of one input fused into one
product, rotary positions in a table. Sampling starts with a new cache, and the weights that it prepares are those
of that moment: a model may learn between two calls of `generate`, and is sampled as it is.

Shapes: B rows, C width, H heads, K key heads, D head width, S positions in the cache.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.fast.body import Body, BodyLayer, Linear, Norm
from pretrain.fast.functions import GeluTanh
from pretrain.fast.layout import TOKEN_STEP, Layout
from pretrain.sampling import select_rows


class FusedLinear:
    """Linear layers of one input as a single product, the first of them scaled, in the dtype of the activations."""

    def __init__(self, layers: Sequence[Linear], dtype: torch.dtype, first_factor: float = 1.0) -> None:
        self.layers, self.first_factor = layers, first_factor
        parts = [layer.affine() for layer in layers]
        self.weight: Tensor | None = None
        """(in, out). None where an adapter is not a matrix: then the layers are called one by one."""
        self.bias: Tensor | None = None
        if all(parts):
            weights, biases = zip(*parts, strict=True)
            scaled = [weights[0] * first_factor, *weights[1:]]
            self.weight = torch.cat([weight.T for weight in scaled]).to(dtype).T.contiguous()
            if any(bias is not None for bias in biases):
                biases = [w.new_zeros(w.shape[1]) if b is None else b for w, b in zip(weights, biases, strict=True)]
                self.bias = torch.cat([biases[0] * first_factor, *biases[1:]]).to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, in) to the outputs of all layers behind each other, (B, out)."""
        if self.weight is None:
            first, *others = (layer(x) for layer in self.layers)
            return torch.cat([first * self.first_factor, *others], dim=-1)
        return torch.mm(x, self.weight) if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """Add the product of x to the residual stream, in place."""
        if self.weight is None:
            residual.add_(self(x))
            return
        if self.bias is not None:
            residual.add_(self.bias)
        residual.addmm_(x, self.weight)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    x = x.float()
    return x * x.square().mean(-1, keepdim=True).add_(eps).rsqrt_() * gain


def norm_function(norm: Norm, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """LayerNorm or RMSNorm of activations in `dtype`, computed in float32."""
    weight, eps = norm.module.weight, norm.eps
    if not norm.centred:
        return lambda x: rms_norm(x, weight, eps).to(dtype)
    shape, bias = weight.shape, norm.module.bias
    if dtype == torch.float32:
        return lambda x: torch.layer_norm(x, shape, weight, bias, eps)
    return lambda x: torch.layer_norm(x.float(), shape, weight, bias, eps).to(dtype)


class DecoderLayer:
    """A layer's weights, ready for use: queries come out already scaled for the softmax."""

    def __init__(self, layer: BodyLayer, body: Body, dtype: torch.dtype) -> None:
        self.attention_norm = norm_function(layer.attention_norm, dtype)
        self.feed_forward_norm = norm_function(layer.feed_forward_norm, dtype)
        self.gains: Tensor | None = None
        """(H + K, 1 or D) of the norms of queries and keys."""
        factor = layer.softmax_scale
        if layer.head_norms is not None:
            query_norm, key_norm = layer.head_norms
            gains = [(query_norm.module.weight * factor).expand(body.heads, -1)]
            self.gains = torch.cat([*gains, key_norm.module.weight.expand(body.key_heads, -1)])
            self.eps, factor = query_norm.eps, 1.0
        self.projections = FusedLinear([layer.query, *layer.keys_values], dtype, factor)
        self.out, self.down = FusedLinear([layer.out], dtype), FusedLinear([layer.down], dtype)
        self.up, self.gated = FusedLinear(layer.up, dtype), len(layer.up) == 2
        # Without a gradient torch's own is as quick, and one operation.
        tanh = layer.activation == GeluTanh.apply
        self.activation = (lambda x: F.gelu(x, approximate="tanh")) if tanh else layer.activation

    def feed_forward(self, residual: Tensor) -> None:
        """Add what the feed-forward layer makes of the residual stream (B, C) to it."""
        hidden = self.up(self.feed_forward_norm(residual))
        if self.gated:
            gate, up = hidden.chunk(2, dim=-1)
            hidden = self.activation(gate) * up
        else:
            hidden = self.activation(hidden)
        self.down.add_to(residual, hidden)


class KVCache:
    """What sampling has in hand: prepared weights, and the keys and values of what has been read."""

    def __init__(self, body: Body, head: Linear, dtype: torch.dtype, batch_size: int, length: int) -> None:
        """dtype: of the activations, and of keys and values."""
        device = body.embedding.weight.device
        self.head = FusedLinear([head], dtype)
        self.embedding = body.embedding.weight
        self.positions = None if body.positions is None else body.positions.weight
        self.layers = [DecoderLayer(layer, body, dtype) for layer in body.layers]
        self.norm = norm_function(body.norm, dtype)
        self.position_table: Tensor | None = None
        """(positions, 2 D): the cosines and signed sines that rotate a head's two halves."""
        if body.rotation is not None:
            self.position_table = body.rotation(torch.arange(length, device=device))
        shape = (len(body.layers), 2, batch_size, body.key_heads, length, body.head_width)
        self.states = torch.empty(shape, dtype=dtype, device=device)
        """Keys and values: (layers, 2, B, K, positions, D), of which the first `filled` positions are written."""
        self.filled = 0

    def select_rows(self, rows: Tensor) -> None:
        """See `pretrain.sampling.Cache.select_rows`."""
        self.states = select_rows(self.states, rows, self.filled, dim=2)


class KVDecoder:
    """A body and its head under the protocol `pretrain.sampling.CachedModel`."""

    def __init__(self, body: Body, head: Linear, context_length: int, dtype: torch.dtype) -> None:
        """dtype: of the activations. Token by token a CPU computes in float32 all the same: its kernels of bfloat16
        are made for every size, and the batch shrinks with every row that stops.
        """
        self.body, self.head, self.context_length, self.dtype = body, head, context_length, dtype

    @property
    def device(self) -> torch.device:
        return self.body.embedding.weight.device

    @torch.no_grad()
    def new_cache(self, batch_size: int, length: int) -> KVCache:
        """See `pretrain.sampling.CachedModel.new_cache`; prepares the weights as they are now."""
        dtype = torch.float32 if self.device.type == "cpu" else self.dtype
        return KVCache(self.body, self.head, dtype, batch_size, length)

    def step(self, ids: Tensor, positions: Tensor, key_mask: Tensor | None, cache: KVCache) -> Tensor:
        """See `pretrain.sampling.CachedModel.step`; ValueError for several tokens at once into a cache in use.

        Call it where torch keeps no gradients: the cache is written in place.
        """
        if ids.shape[1] == 1:
            hidden = self._next(ids, positions, key_mask, cache)
        elif cache.filled == 0:
            hidden = self._read(ids, key_mask, cache)
        else:
            raise ValueError(f"{ids.shape[1]} tokens at once: only an empty cache takes more than one")
        return cache.head(hidden).float()

    def _read(self, ids: Tensor, key_mask: Tensor | None, cache: KVCache) -> Tensor:
        """The hidden states (B, C) after whole prompts (B, T)."""
        rows, length = ids.shape
        mask = torch.ones_like(ids, dtype=torch.bool) if key_mask is None else key_mask
        last = torch.zeros_like(mask)
        last[:, -1] = True
        layout = Layout(mask, last, 1 if self.dtype == torch.float32 else TOKEN_STEP)
        real = int(mask.sum())

        def keep(layer: int, *states: Tensor) -> None:
            for slot, tokens in zip(cache.states[layer], states, strict=True):
                padded = tokens.new_zeros(rows * length, tokens.shape[1])
                padded.index_copy_(0, layout.source[:real], tokens[:real])
                slot[:, :, :length] = padded.view(rows, length, self.body.key_heads, -1).transpose(1, 2)

        hidden = self.body(ids, layout, self.dtype, keep)
        cache.filled = length
        return hidden.to(cache.states.dtype)

    def _next(self, ids: Tensor, positions: Tensor, key_mask: Tensor | None, cache: KVCache) -> Tensor:
        """The hidden states (B, C) after one more token (B, 1) each."""
        heads, key_heads, head_width = self.body.heads, self.body.key_heads, self.body.head_width
        rows, matched, dtype = ids.shape[0], heads + key_heads, cache.states.dtype
        cache.filled = end = cache.filled + 1
        written = cache.states.select(4, end - 1).transpose(1, 2).unbind(0)  # (B, 2, K, D)
        seen = cache.states.narrow(4, 0, end).view(2 * len(written), rows * key_heads, end, head_width).unbind(0)
        bias = cos = sin = None
        if key_mask is not None:
            bias = cache.states.new_zeros(key_mask.shape).masked_fill_(~key_mask, -1e9)[:, None, None]
        if cache.position_table is not None:
            cos, sin = torch.embedding(cache.position_table, positions).chunk(2, dim=-1)

        x = torch.embedding(cache.embedding, ids)
        if cache.positions is not None:
            x = x + torch.embedding(cache.positions, positions)
        x = x.to(dtype).view(rows, -1)
        for layer, slot, keys, values in zip(cache.layers, written, seen[::2], seen[1::2], strict=True):
            projected = layer.projections(layer.attention_norm(x))  # (B, (H + 2 K) D)
            if cos is None or sin is None:
                query, fresh = projected.split_with_sizes((heads * head_width, 2 * key_heads * head_width), 1)
                slot.copy_(fresh.view(rows, 2, key_heads, head_width))
            else:
                rotated, value = projected.view(rows, -1, head_width).split_with_sizes((matched, key_heads), 1)
                if layer.gains is not None:
                    rotated = rms_norm(rotated, layer.gains, layer.eps)
                rotated = (rotated * cos + rotated.roll(head_width // 2, -1) * sin).to(dtype)
                query, key = rotated.split_with_sizes((heads, key_heads), 1)
                slot.select(1, 0).copy_(key)
                slot.select(1, 1).copy_(value)
            scores = torch.bmm(query.reshape(rows * key_heads, -1, head_width), keys.mT)
            if bias is not None:
                scores.view(rows, key_heads, -1, end).add_(bias)
            mixed = torch.bmm(scores.softmax(-1), values)
            layer.out.add_to(x, mixed.view(rows, -1))
            layer.feed_forward(x)
        return cache.norm(x)
