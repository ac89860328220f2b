"""Sampling from packed models: the prompts in one packed pass, then a token at a time from a cache.

Token by token everything is in float32 and in torch's own kernels: those of bfloat16 are made anew for every size,
and the batch shrinks with every row that stops.
"""

import torch
from torch import Tensor, nn

from pretrain.fast.layout import Layout
from pretrain.sampling import keep_rows
from sft.models.fast import Body


class PackedCache:
    """Keys and values (layers, 2, rows, key_heads, positions, D), of which `filled` positions have been read."""

    def __init__(self, states: Tensor) -> None:
        self.states = states
        self.filled = 0

    def keep(self, rows: Tensor) -> None:
        """See `pretrain.sampling.Cache.keep`."""
        self.states = keep_rows(self.states, rows, self.filled, dim=2)


class PackedSampler:
    """A packed model under the protocol `pretrain.sampling.CachedModel`."""

    def __init__(self, body: Body, head: nn.Linear, context_length: int, dtype: torch.dtype) -> None:
        """dtype: of the activations while prompts are read."""
        self.body, self.head = body, head
        self.context_length, self.dtype = context_length, dtype

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def start(self, batch_size: int, length: int) -> PackedCache:
        """See `pretrain.sampling.CachedModel.start`."""
        shape = (len(self.body.layers), 2, batch_size, self.body.key_heads, length, self.body.head_width)
        return PackedCache(torch.empty(shape, device=self.device))

    def step(self, ids: Tensor, positions: Tensor, key_mask: Tensor | None, cache: PackedCache) -> Tensor:
        """See `pretrain.sampling.CachedModel.step`. Several tokens at once: only into an empty cache."""
        if cache.filled == 0:
            return self.head(self._read(ids, key_mask, cache))
        return self.head(self._next(ids[:, 0], positions[:, 0], key_mask, cache))

    def _read(self, ids: Tensor, key_mask: Tensor | None, cache: PackedCache) -> Tensor:
        """The hidden states (B, C) after whole prompts (B, T)."""
        rows, length = ids.shape
        mask = torch.ones_like(ids, dtype=torch.bool) if key_mask is None else key_mask
        last = torch.zeros_like(mask)
        last[:, -1] = True
        real = int(mask.sum())

        def keep(layout: Layout, layer: int, *states: Tensor) -> None:
            for slot, tokens in zip(cache.states[layer], states, strict=True):
                padded = tokens.new_zeros(rows * length, tokens.shape[1])
                padded.index_copy_(0, layout.source[:real], tokens[:real])
                slot[:, :, :length] = padded.view(rows, length, self.body.key_heads, -1).transpose(1, 2)

        hidden = self.body(ids, mask, last, self.dtype, keep)
        cache.filled = length
        return hidden

    def _next(self, ids: Tensor, positions: Tensor, key_mask: Tensor | None, cache: PackedCache) -> Tensor:
        """The hidden states (B, C) after one more token (B,) each."""
        body, rows, place, end = self.body, len(ids), cache.filled, cache.filled + 1
        bias = None
        if key_mask is not None:
            bias = cache.states.new_zeros(key_mask.shape).masked_fill_(~key_mask, -1e9)[:, None, None]
        x, angles = body.embed(ids, positions)
        for layer, states in zip(body.layers, cache.states, strict=True):
            normed = body.attention_norm(layer, x, x.dtype)
            for slot, tokens in zip(states, body.keys_and_values(layer, normed, angles), strict=True):
                slot[:, :, place] = tokens.view(rows, body.key_heads, -1)
            keys, values = states[:, :, :, :end].flatten(1, 2)
            queries = body.queries(layer, normed, angles).mul_(body.scale(layer))
            scores = torch.bmm(queries.reshape(len(keys), -1, keys.shape[-1]), keys.mT)
            if bias is not None:
                scores.view(rows, body.key_heads, -1, end).add_(bias)
            mixed = torch.bmm(scores.softmax(-1), values).view(rows, -1)
            x = x + body.attention_out(layer, mixed)
            x = x + body.feed_forward(layer, x, x.dtype)
        cache.filled = end
        return body.final_norm(x)
