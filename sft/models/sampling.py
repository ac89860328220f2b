"""Sampling responses from any transformers causal language model.

`generate` of `pretrain.sampling` is the loop; this is the model it drives: `HFCachedModel` writes keys and
values into tensors that are allocated once, and drops the rows of responses that have stopped.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from data.console import UserError
from pretrain.fast.body import Linear
from pretrain.fast.decoder import KVDecoder
from pretrain.sampling import CachedModel, select_rows
from sft.models.forward import LogProbs
from sft.models.loading import context_length


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values in tensors (B, heads, length, head_dim) allocated at the first update.

    A growing cache copies everything it holds for every new token; this one writes the new token only.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.filled = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, heads, T, head_dim); return all that is filled, as views."""
        if not self.is_initialized:
            # The first states tell the data type (it follows autocast) and the number of heads.
            self.dtype, self.device = key_states.dtype, key_states.device
            batch, heads, _, _ = key_states.shape
            self.keys = key_states.new_empty(batch, heads, self.length, key_states.shape[-1])
            self.values = value_states.new_empty(batch, heads, self.length, value_states.shape[-1])
            self.is_initialized = True
        end = self.filled + key_states.shape[-2]
        self.keys[:, :, self.filled : end] = key_states
        self.values[:, :, self.filled : end] = value_states
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self, *args: Any) -> int:
        return self.filled

    def batch_select_indices(self, indices: Tensor) -> None:
        """Make row j what row `indices[j]` is."""
        self.keys = select_rows(self.keys, indices, self.filled)
        self.values = select_rows(self.values, indices, self.filled)


class RowCache(DynamicCache):
    """A transformers cache that can drop rows: what `pretrain.sampling.generate` hands back to `step`."""

    def select_rows(self, rows: Tensor) -> None:
        """Make row j what row `rows[j]` is."""
        for layer in self.layers:
            if not isinstance(layer, DynamicLayer):
                raise UserError(f"cannot sample in batches from a model with a {type(layer).__name__} in its cache")
            layer.batch_select_indices(rows)


class HFCachedModel:
    """A transformers causal language model under the protocol `pretrain.sampling.CachedModel`.

    Models whose layers all attend to everything get the preallocated cache and a mask made here, once a step;
    others (sliding windows, linear attention) keep transformers' own cache and masks.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.context_length = context_length(model)
        self.device: torch.device = model.device
        self.preallocates = all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
        self.attention = model.config._attn_implementation
        # Attention with linear biases (ALiBi) counts positions off the mask, and needs it as it is.
        counts_positions = "position_ids" not in inspect.signature(model.forward).parameters
        counts_positions |= bool(getattr(model.config, "alibi", False))
        self.makes_mask = self.preallocates and self.attention in ("eager", "sdpa") and not counts_positions

    def new_cache(self, batch_size: int, length: int) -> RowCache:
        """An empty cache for rows of at most `length` positions."""
        cache = RowCache(config=self.model.config)
        if self.preallocates:
            cache.layers = [PreallocatedLayer(length) for _ in cache.layers]
        return cache

    def step(self, ids: Tensor, positions: Tensor, key_mask: Tensor | None, cache: Any) -> Tensor:
        """See `pretrain.sampling.CachedModel.step`."""
        if key_mask is None:
            key_mask = ids.new_ones(len(ids), cache.get_seq_length() + ids.shape[1], dtype=torch.bool)
        output = self.model(
            input_ids=ids,
            attention_mask=self._attention_mask(key_mask, ids.shape[1]) if self.makes_mask else key_mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _attention_mask(self, key_mask: Tensor, queries: int) -> Tensor:
        """(B, 1, T, S): which key each of the last T positions may see, as the attention in use wants it."""
        visible = key_mask[:, None, None, :]
        if queries > 1:
            keys = key_mask.shape[1]
            key = torch.arange(keys, device=key_mask.device)
            query = key[keys - queries :, None]
            # A padding position sees itself: a row that sees nothing would be NaN, and NaN spreads.
            visible = (visible & (key <= query)) | (key == query)
        if self.attention == "sdpa":
            return visible
        hidden = torch.finfo(self.model.dtype).min
        return torch.zeros_like(visible, dtype=self.model.dtype).masked_fill_(~visible, hidden)


def sampler(lm: PreTrainedModel | LogProbs, dtype: torch.dtype = torch.float32) -> CachedModel:
    """A causal language model as it is now, for `pretrain.sampling.generate`: fast where that is the same function.

    lm: the model, or its `LogProbs`, which knows already whether it is. dtype: of the activations while prompts are
    read, where the model is fast.
    """
    logprobs = lm if isinstance(lm, LogProbs) else LogProbs(lm)
    body, model = logprobs.hidden_states.body, logprobs.lm
    if body is None or not logprobs.plain_head or model.device.type != "cpu":
        return HFCachedModel(model)
    return KVDecoder(body, Linear(model.get_output_embeddings()), context_length(model), dtype)
