"""Sampling responses from any transformers causal language model.

`generate` of `pretrain.sampling` is the loop; this is the model it drives: `HFCachedModel` writes keys and
values into tensors that are allocated once, and drops the rows of responses that have stopped.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicIndexedLayer, DynamicLayer, LinearAttentionCacheLayerMixin

from data.console import console, is_main_process
from pretrain.fast.body import Linear
from pretrain.fast.decoder import KVDecoder
from pretrain.machine import full_precision_matmul
from pretrain.sampling import CachedModel, select_rows
from sft.models.batch import FILLER, position_ids
from sft.models.forward import LogProbs
from sft.models.loading import context_length, first_position
from sft.models.reading import accepted, close, probe_rows


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

    read = 0
    """Positions that it holds, which a cache without attention does not know."""

    def select_rows(self, rows: Tensor) -> None:
        """Make row j what row `rows[j]` is."""
        for layer in self.layers:
            whole: Any = layer
            if isinstance(layer, LinearAttentionCacheLayerMixin | DynamicIndexedLayer):
                whole.reorder_cache(rows)  # which takes all of its states along
            else:
                whole.batch_select_indices(rows)


class HFCachedModel:
    """A transformers causal language model under the protocol `pretrain.sampling.CachedModel`.

    Models whose layers all attend to everything get the preallocated cache and a mask made here, once a step;
    others (sliding windows, linear attention) keep transformers' own cache and masks. Whether that is right for a
    model is found out by `sampler`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.call: Callable[..., Any] = model
        """Called in the place of the model, with its arguments: FSDP gathers weights around another module's call."""
        self.first = first_position(model)
        self.context_length = context_length(model)
        self.device: torch.device = model.device
        layers = DynamicCache(config=model.config).layers
        self.preallocates = all(type(layer) is DynamicLayer for layer in layers)
        self.attends = not layers or any(isinstance(layer, DynamicLayer) for layer in layers)
        """Without attention (Mamba) a mask is of the prompts alone: what is read later is never padding."""
        self.attention = model.config._attn_implementation
        parameters = inspect.signature(model.forward).parameters
        self.cache_name = "cache_params" if "cache_params" in parameters else "past_key_values"  # Mamba's
        # Attention with linear biases (ALiBi) counts positions off the mask, and needs it as it is.
        counts_positions = "position_ids" not in parameters
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
            key_mask = ids.new_ones(len(ids), cache.read + ids.shape[1], dtype=torch.bool)
        cache.read += ids.shape[1]
        mask = self._attention_mask(key_mask, ids.shape[1]) if self.makes_mask else key_mask.long()
        output = self.call(
            input_ids=ids,
            attention_mask=mask if self.attends or ids.shape[1] > 1 else None,
            **{self.cache_name: cache},
            **accepted(self.model, position_ids=positions + self.first, use_cache=True, logits_to_keep=1),
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


class Texts:
    """Token ids (B, S) that were read so far, in the place of a cache."""

    def __init__(self, batch_size: int, device: torch.device) -> None:
        self.ids = torch.empty(batch_size, 0, dtype=torch.long, device=device)

    def select_rows(self, rows: Tensor) -> None:
        """See `pretrain.sampling.Cache.select_rows`."""
        self.ids = self.ids[rows]


class Rereader:
    """Any causal language model under the protocol `CachedModel`: reads whole texts again for every token."""

    def __init__(self, logprobs: LogProbs) -> None:
        self.logprobs, self.context_length = logprobs, context_length(logprobs.lm)

    @property
    def device(self) -> torch.device:
        return self.logprobs.lm.device

    def new_cache(self, batch_size: int, length: int) -> Texts:
        """See `pretrain.sampling.CachedModel.new_cache`."""
        return Texts(batch_size, self.device)

    def step(self, ids: Tensor, positions: Tensor, key_mask: Tensor | None, cache: Texts) -> Tensor:
        """See `pretrain.sampling.CachedModel.step`."""
        cache.ids = torch.cat([cache.ids, ids], dim=1)
        texts = cache.ids if key_mask is None else [row[real] for row, real in zip(cache.ids, key_mask, strict=True)]
        return self.logprobs.next_logits([row.tolist() for row in texts])


@torch.no_grad()
def _cache_is_right(logprobs: LogProbs) -> bool:
    """Whether the logits are those of single texts, with padding on the left, and while rows go, come and move."""
    lm, texts = logprobs.lm, probe_rows(logprobs.lm)
    width, fresh = max(map(len, texts)), texts[0][:2]
    ids = torch.tensor([[FILLER] * (width - len(text)) + text for text in texts], device=lm.device)
    mask = torch.tensor([[0] * (width - len(text)) + [1] * (len(text) + len(fresh)) for text in texts]).bool()
    mask = mask.to(lm.device)
    positions = position_ids(mask)[:, :width]
    try:
        model = HFCachedModel(lm)
        cache = model.new_cache(len(texts), width + len(fresh))
        with full_precision_matmul():
            logits = model.step(ids, positions, mask[:, :width], cache)
            if not close(lm, logits, torch.stack([logprobs.read.alone(text)[-1] for text in texts])):
                return False
            for order in ([2, 0, 2], [1, 0]):  # of three texts, and of what is left of them
                rows = torch.tensor(order, device=lm.device)
                cache.select_rows(rows)
                mask, positions, token = mask[rows], positions[rows][:, -1:] + 1, fresh[0]
                texts = [[*texts[row], token] for row in order]
                width += 1
                logits = model.step(ids.new_full((len(order), 1), token), positions, mask[:, :width], cache)
                if not close(lm, logits, torch.stack([logprobs.read.alone(text)[-1] for text in texts])):
                    return False
    except Exception:  # whatever a model may raise that has another cache, or none
        return False
    return True


@functools.cache
def _say_once(kind: str) -> None:
    if is_main_process():
        console.print(
            f"{kind}: its cache cannot be used for texts of unlike lengths, so every token is sampled from the whole "
            "text, which is right and slower"
        )


def sampler(lm: PreTrainedModel | LogProbs, dtype: torch.dtype = torch.float32) -> CachedModel:
    """A causal language model as it is now, for `pretrain.sampling.generate`: fast where that is the same function.

    lm: the model, or its `LogProbs`, which knows already whether it is. dtype: of the activations while prompts are
    read, where the model is fast. Where a model's cache cannot be used, every token costs a pass over the whole text,
    and one line on the terminal says so.
    """
    logprobs = lm if isinstance(lm, LogProbs) else LogProbs(lm)
    body, model = logprobs.hidden_states.body, logprobs.lm
    if body is not None and logprobs.plain_head and model.device.type == "cpu":
        return KVDecoder(body, Linear(model.get_output_embeddings()), context_length(model), dtype)
    if logprobs.cache_is_right is None:
        logprobs.cache_is_right = body is not None or _cache_is_right(logprobs)
        if not logprobs.cache_is_right:
            _say_once(type(model).__name__)
    return HFCachedModel(model) if logprobs.cache_is_right else Rereader(logprobs)
