"""Sampling many continuations at once from a key–value cache.

One loop serves every model of the project: `pretrain.fast.gpt.decoder` makes our GPT a `CachedModel`, `sft.models`
any causal language model of transformers. Prompts are padded on the left, a row that has stopped leaves the batch,
and no position is computed twice.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Cache(Protocol):
    """Keys and values of the positions a model has seen, allocated once."""

    def select_rows(self, rows: Tensor) -> None:
        """Make row j what row `rows[j]` is, for `rows` (n,): some rows go, or are repeated."""


class CachedModel(Protocol):
    """What `generate` needs of a model."""

    context_length: int

    @property
    def device(self) -> torch.device: ...

    def new_cache(self, batch_size: int, length: int) -> Cache:
        """An empty cache for `batch_size` rows of at most `length` positions."""

    def step(self, ids: Tensor, positions: Tensor, key_mask: Tensor | None, cache: Any) -> Tensor:
        """Append `ids` (B, T) at `positions` (B, T) and return the last position's logits (B, V).

        `key_mask` (B, S) is False where a cached or new key is padding; S counts both. None where nothing is.
        """


class LanguageModel(Protocol):
    """What `generate_without_cache` needs of a model: any function of the ids that knows its context."""

    context_length: int

    def __call__(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V) of ids (B, T), T at most `context_length`."""


def select_rows(states: Tensor, rows: Tensor, filled: int, dim: int = 0) -> Tensor:
    """Row j of the result is row `rows[j]` of `states` (…, S, D), whose first `filled` positions matter.

    Rows are counted along `dim`. Copies only what stands elsewhere, in place, as long as there is room: most rows
    stay where they are.
    """
    matter = states.narrow(-2, 0, filled)
    if len(rows) > states.shape[dim]:
        shape = list(states.shape)
        shape[dim] = len(rows)
        more = states.new_empty(shape)
        more.narrow(-2, 0, filled).copy_(matter.index_select(dim, rows))
        return more
    moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero().squeeze(1)
    matter.index_copy_(dim, moved, matter.index_select(dim, rows[moved]))
    return states.narrow(dim, 0, len(rows))


def filter_logits(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Set to -inf all logits (B, V) outside the `top_k` largest and outside the nucleus of mass `top_p`.

    The nucleus (Holtzman et al., arXiv 1904.09751) is the smallest set of most probable tokens whose
    probability reaches `top_p`; it always holds at least one token.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        smallest_kept = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    if top_p is not None and top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        mass_before = probabilities.cumsum(-1) - probabilities
        outside = (mass_before >= top_p).scatter(-1, order, mass_before >= top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def sample_tokens(
    logits: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
    noise: Tensor | None = None,
) -> Tensor:
    """One token id a row, (B,), from logits (B, V); temperature 0 takes the most probable.

    noise: (B,) in [0, 1), what decides each row; None draws it from `generator`. Probabilities are added up in
    float64 on a CPU and in float32 elsewhere: not every device has float64.
    """
    if temperature == 0:
        return logits.argmax(-1)
    scaled = logits.float() if temperature == 1 else logits.float() / temperature
    scaled = filter_logits(scaled, top_k, top_p)
    # Inverse transform: one random number a row, where a draw for every token would take longer than the model.
    mass = scaled.softmax(-1)
    mass = (mass.double() if mass.device.type == "cpu" else mass).cumsum(-1)
    if noise is None:
        noise = torch.rand(len(mass), dtype=mass.dtype, device=mass.device, generator=generator)
    return draw(mass, noise)


def draw(mass: Tensor, noise: Tensor) -> Tensor:
    """The first place of each row of cumulated `mass` (B, V) that is above `noise` (B,), in [0, 1), of the whole."""
    total = mass[:, -1:]
    level = noise.to(mass)[:, None] * total
    if mass.dtype == torch.float32:
        level = level.minimum(total * (1 - 2**-23))  # which rounds up to the total what is nearly 1
    return torch.searchsorted(mass, level, right=True).squeeze(1)


@torch.inference_mode()
def generate(
    model: CachedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_ids: Collection[int] = (),
    stop_twice: int | None = None,
    ends: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
) -> list[list[int]]:
    """Sample a continuation of at most `max_new_tokens` ids for every prompt.

    A continuation ends with its first id of `stop_ids`, which it includes, or where `stop_twice` comes twice in a
    row, the prompt's last id counted, or where `ends` says so: given the continuations so far (n, T) of the rows that
    have no end yet, it returns (n,) bool, whether each ends now. Prompts may differ in length; an empty prompt is an
    error (ValueError). Where prompt and continuation outgrow the model's context, the model continues from the later
    half of what it has seen. A prompt that is given several times runs through the model once. The draws depend on
    `generator` and on the batch, so equal calls give equal text; with `noise` (B, `max_new_tokens`), float64 in [0, 1)
    on any device, those of a row depend on its own numbers alone, whatever else is in the batch.
    """
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("a prompt must hold at least one token")
    if not prompts or max_new_tokens <= 0:
        return [[] for _ in prompts]
    device = model.device
    stops = torch.tensor(sorted(stop_ids), device=device)
    if noise is not None and device.type != "cpu":
        noise = noise.float().to(device)
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    copies = torch.tensor([places[tuple(prompt)] for prompt in prompts], device=device)
    fresh, prompt_mask = _pad_left([list(prompt)[-model.context_length :] for prompt in places], device)
    distinct, length = fresh.shape
    texts = torch.empty(length + max_new_tokens, len(prompts), dtype=torch.long, device=device)
    texts[:length] = fresh[copies].T
    key_mask = None
    if not prompt_mask.all():
        key_mask = torch.cat([prompt_mask, prompt_mask.new_ones(distinct, max_new_tokens)], dim=1)
    room = min(model.context_length, len(texts))
    cache = model.new_cache(distinct, room)
    positions = _positions(fresh, prompt_mask)
    active = torch.arange(len(prompts), device=device)
    lengths = torch.full_like(active, max_new_tokens)
    first, before = 0, texts[length - 1]
    drawn: list[Tensor] = []  # not in `texts` yet
    for end in range(length, len(texts)):
        if end - first > room:
            # The context is full: start again from its later half, as one prompt.
            _write(drawn, texts[:end], active)
            first = end - room // 2 - 1
            fresh, cache = texts[first:end, active].T, model.new_cache(len(active), room)
            positions = _positions(fresh, None if key_mask is None else key_mask[:, first:end])
        logits = model.step(fresh, positions, None if key_mask is None else key_mask[:, first:end], cache)
        if len(logits) < len(active):  # the distinct prompts are read: from here on every continuation has a row
            cache.select_rows(copies)
            logits, positions = logits[copies], positions[copies]
            key_mask = None if key_mask is None else key_mask[copies]
        row_noise = None if noise is None else noise[active, end - length]
        token = sample_tokens(logits, temperature, top_k, top_p, generator, row_noise)
        drawn.append(token)
        fresh, positions = token[:, None], positions[:, -1:].add_(1)
        if not stop_ids and stop_twice is None and ends is None:
            continue
        going_on = ~torch.isin(token, stops)
        if ends is not None:
            _write(drawn, texts[: end + 1], active)
            going_on &= ~ends(texts[length : end + 1, active].T)
        if stop_twice is not None:
            going_on &= (token != stop_twice) | (before != stop_twice)
        before = token
        if not going_on.all():
            _write(drawn, texts[: end + 1], active)
            lengths[active[~going_on]] = end + 1 - length
            rows = _fill_gaps(going_on)
            if rows.numel() == 0:
                break
            cache.select_rows(rows)
            active, fresh, positions, before = active[rows], fresh[rows], positions[rows], before[rows]
            key_mask = None if key_mask is None else key_mask[rows]
    _write(drawn, texts, active)
    continuations = texts[length:].T.tolist()
    return [ids[:count] for ids, count in zip(continuations, lengths.tolist(), strict=True)]


@torch.inference_mode()
def generate_without_cache(
    model: LanguageModel,
    ids: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue ids (B, T) to (B, T + `max_new_tokens`) by the plain loop: what `generate` is measured against.

    For every new token all that fits into the context runs through the model again, so the work grows with
    the square of the length; and any model will do, also one that has no cache.
    """
    for _ in range(max_new_tokens):
        logits = model(ids[:, -model.context_length :])[:, -1]
        token = sample_tokens(logits, temperature, top_k, top_p, generator)
        ids = torch.cat([ids, token[:, None]], dim=1)
    return ids


def _write(drawn: list[Tensor], texts: Tensor, active: Tensor) -> None:
    """Put the tokens (B,) of the last draws under each other at the end of `texts` (T, …), and forget them."""
    if drawn:
        texts[-len(drawn) :].index_copy_(1, active, torch.stack(drawn))
        drawn.clear()


def _fill_gaps(going_on: Tensor) -> Tensor:
    """The rows that continue (n,), the last of them in the places of those that stopped: the fewest moves."""
    remaining = going_on.nonzero().squeeze(1)
    rows = torch.arange(len(remaining), device=going_on.device)
    rows[~going_on[: len(rows)]] = remaining[remaining >= len(rows)]
    return rows


def _pad_left(prompts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids (B, T), padded on the left with 0, and the mask (B, T) that is False on the padding."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return ids, torch.arange(longest, device=device) >= longest - lengths[:, None]


def _positions(ids: Tensor, mask: Tensor | None) -> Tensor:
    """Positions (B, T) of ids (B, T), of which the padding, where `mask` (B, T) is False, does not count."""
    mask = torch.ones_like(ids) if mask is None else mask.long()
    return (mask.cumsum(1) - 1).clamp(min=0)
