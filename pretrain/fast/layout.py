"""Maps between padded batches, the flat token sequence, and the per-group rectangles used by attention.

Shapes: N tokens of all rows, Q of them whose output is wanted, D head width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP = 16
"""Rows of like length that attention computes as one batch of matrices."""
STRIP = 64
"""Queries that meet the keys together. Of later keys than the strip's last query sees, nothing is computed."""
WIDTH_STEP, TOKEN_STEP = 16, 128
"""Sizes are rounded up to multiples of these: a CPU makes its kernels for every size, and keeps them."""


def round_up(number: int, step: int) -> int:
    return -(-number // step) * step


@dataclass
class Rectangle:
    """Some rows as a rectangle (count, width), and where its places lie among the tokens."""

    width: int
    first: int
    end: int
    """The rows' tokens are first … end, but for those with `taken`."""
    source: Tensor | None
    """(count * width,) the token at every place, any token of the row beyond its end. None: the tokens as they lie."""
    filled: Tensor | None
    """(tokens of all rows,) their places."""
    taken: Tensor | None = None
    """(tokens of all rows,) the tokens, where rows share some."""

    def matrices(self, tokens: Tensor, heads: int) -> Tensor:
        """Tokens (N, heads * D) as (count * heads, width, D)."""
        if self.source is None:
            return self._split(tokens[self.first : self.end], heads)
        return self._split(tokens.index_select(0, self.source), heads)

    def padded_with_zeros(self, tokens: Tensor, heads: int) -> Tensor:
        """As `matrices`, with zeros in the places beyond a row's end."""
        tokens = tokens[self.first : self.end]
        if self.source is None or self.filled is None:
            return self._split(tokens, heads)
        places = tokens.new_zeros(len(self.source), tokens.shape[1]).index_copy_(0, self.filled, tokens)
        return self._split(places, heads)

    def write(self, matrices: Tensor, heads: int, tokens: Tensor) -> None:
        """The inverse of `matrices`: write into `tokens` (N, heads * D), and add where rows share tokens."""
        places = matrices.view(-1, heads, self.width, matrices.shape[-1]).transpose(1, 2).reshape(-1, tokens.shape[1])
        if self.taken is not None and self.filled is not None:
            tokens.index_add_(0, self.taken, places.index_select(0, self.filled))
        elif self.filled is None:
            tokens[self.first : self.end] = places
        else:
            torch.index_select(places, 0, self.filled, out=tokens[self.first : self.end])

    def _split(self, places: Tensor, heads: int) -> Tensor:
        head_width = places.shape[1] // heads
        return places.view(-1, self.width, heads, head_width).transpose(1, 2).reshape(-1, self.width, head_width)


@dataclass
class Group:
    """Rows of like length: what attends, what it attends to, and in which strips."""

    count: int
    keys: Rectangle
    queries: Rectangle
    strips: list[tuple[int, int, int, int, Tensor]]
    """First and end of the queries; the keys that all of them see, and those that some do; what is added to the scores
    of the keys between, (1 or count, 1, queries, keys): -1e9 where a key lies in a query's future. That hides the
    places beyond a row's end too: they come last."""


class Layout:
    """The rows of `mask` (B, T), shortest first, as N tokens, of which those `wanted` (B, T) are given out.

    N is rounded up to a multiple of `token_step`: the last tokens may belong to no row.
    """

    def __init__(self, mask: Tensor, wanted: Tensor, token_step: int = TOKEN_STEP) -> None:
        order = mask.sum(1).argsort(stable=True)
        mask, wanted = mask[order], wanted[order]
        lengths, wanted_lengths = mask.sum(1), wanted.sum(1)
        taken = mask.flatten().nonzero().squeeze(1)
        index = torch.arange(mask.shape[1], device=mask.device)
        source = (order[:, None] * mask.shape[1] + index).flatten()[taken]
        starts, wanted_starts = lengths.cumsum(0) - lengths, wanted_lengths.cumsum(0) - wanted_lengths
        positions = torch.arange(len(taken), device=mask.device) - starts.repeat_interleave(lengths)
        chosen = wanted.flatten()[taken].nonzero().squeeze(1)
        self._set_tokens(source, positions, chosen, token_step)
        self.restore = _restore(order, wanted_lengths, wanted_starts)
        """(count,) of those chosen, in the order of the rows as they were given. None: they are."""
        at = positions[chosen]
        for rows in _groups_of(0, len(mask)):
            keys = _rectangle(starts[rows], lengths[rows])
            index = torch.arange(keys.width, device=mask.device)
            self.all.append(Group(len(lengths[rows]), keys, keys, _strips(index[None], keys.width)))
            if wanted_lengths[rows].max() > 0:
                self.last.append(_group(keys, _rectangle(wanted_starts[rows], wanted_lengths[rows]), at))

    def _set_tokens(self, source: Tensor, positions: Tensor, chosen: Tensor, token_step: int) -> None:
        self.count = len(chosen)
        """Tokens that are given out."""
        extra = round_up(len(source), token_step) - len(source)
        self.source = F.pad(source, (0, extra))
        """(N,) places in a flattened (B, T)."""
        self.positions = F.pad(positions, (0, extra))
        """(N,) places within the row."""
        self.chosen = F.pad(chosen, (0, round_up(len(chosen), token_step) - len(chosen)))
        """(Q,) the tokens that are given out, and some of no interest."""
        self.all: list[Group] = []
        """Groups in which every token attends."""
        self.last: list[Group] = []
        """Groups in which those chosen attend."""


class BranchedLayout(Layout):
    """Texts that begin alike, with their beginning once: of `segments` (B, T) that of each token, -1 for none.

    Segment 0 is a row's beginning, and each of 1, 2, … continues it and is given out; a token sees the beginning and
    its own segment, and its position is that within the two. Rows begin at their left end.
    """

    def __init__(self, segments: Tensor, token_step: int = TOKEN_STEP) -> None:
        taken = (segments.flatten() >= 0).nonzero().squeeze(1)
        of_token = torch.stack([taken // segments.shape[1], segments.flatten()[taken]])
        pieces, lengths = torch.unique_consecutive(of_token, dim=1, return_counts=True)
        (rows, numbers), places = pieces, lengths.cumsum(0) - lengths
        begins = numbers == 0
        beginnings = lengths.new_zeros(len(segments)).index_copy_(0, rows[begins], lengths[begins])
        before = torch.where(begins, 0, beginnings[rows])
        # The beginnings, then what continues them, each the shortest first.
        order = (before + lengths + ~begins * 2 * segments.shape[1]).argsort(stable=True)
        rows, lengths, before, places = rows[order], lengths[order], before[order], places[order]
        starts, first = lengths.cumsum(0) - lengths, int(begins.sum())
        within = torch.arange(len(taken), device=segments.device) - starts.repeat_interleave(lengths)
        positions = within + before.repeat_interleave(lengths)
        count = int(lengths[:first].sum())
        self._set_tokens(
            taken[within + places.repeat_interleave(lengths)],
            positions,
            torch.arange(count, len(taken), device=segments.device),
            token_step,
        )
        number = (~begins).cumsum(0) - 1
        self.restore = _restore(number[order[first:]], lengths[first:], starts[first:] - count)
        begin = starts.new_zeros(len(segments)).index_copy_(0, rows[:first], starts[:first])[rows]
        for some in _groups_of(0, first):
            keys = _rectangle(starts[some], lengths[some])
            index = torch.arange(keys.width, device=segments.device)
            self.all.append(Group(len(lengths[some]), keys, keys, _strips(index[None], keys.width)))
        for some in _groups_of(first, len(order)):
            keys = _joined_rectangle(begin[some], before[some], starts[some], lengths[some])
            self.all.append(_group(keys, _rectangle(starts[some], lengths[some]), positions))
            self.last.append(_group(keys, _rectangle(starts[some] - count, lengths[some]), positions[count:]))


def _groups_of(first: int, end: int) -> list[slice]:
    return [slice(start, min(start + GROUP, end)) for start in range(first, end, GROUP)]


def _restore(order: Tensor, lengths: Tensor, starts: Tensor) -> Tensor | None:
    """Places of the tokens of rows at `starts`, the rows in the order in which they were before `order`."""
    back = order.argsort()
    if torch.equal(back, torch.arange(len(back), device=back.device)):
        return None
    lengths, starts = lengths[back], starts[back]
    within = torch.arange(int(lengths.sum()), device=back.device) - (lengths.cumsum(0) - lengths).repeat_interleave(
        lengths
    )
    return starts.repeat_interleave(lengths) + within


def _group(keys: Rectangle, queries: Rectangle, positions: Tensor) -> Group:
    """positions: of the tokens that the queries are taken from, within the row."""
    at = positions[queries.first : queries.end] if queries.source is None else positions[queries.source]
    at = at.view(-1, queries.width)
    return Group(len(at), keys, queries, _strips(at, keys.width))


def _rectangle(starts: Tensor, lengths: Tensor) -> Rectangle:
    """Rows of tokens that lie one behind the other, as a rectangle."""
    longest = int(lengths.max())
    width = round_up(longest, WIDTH_STEP)
    first, end = int(starts[0]), int(starts[-1] + lengths[-1])
    if width == longest and int(lengths.min()) == longest:
        return Rectangle(width, first, end, None, None)
    index = torch.arange(width, device=starts.device)
    source = starts[:, None] + torch.minimum(index, (lengths[:, None] - 1).clamp(min=0))
    filled = (index < lengths[:, None]).flatten().nonzero().squeeze(1)
    return Rectangle(width, first, end, source.flatten().clamp(max=end - 1), filled)


def _joined_rectangle(begin: Tensor, before: Tensor, starts: Tensor, lengths: Tensor) -> Rectangle:
    """Rows of `before` tokens from `begin` on, which several may share, and `lengths` from `starts` on."""
    ends = before + lengths
    width = round_up(int(ends.max()), WIDTH_STEP)
    index = torch.arange(width, device=starts.device)
    place = torch.minimum(index, ends[:, None] - 1)
    source = torch.where(place < before[:, None], begin[:, None] + place, (starts - before)[:, None] + place).flatten()
    filled = (index < ends[:, None]).flatten().nonzero().squeeze(1)
    return Rectangle(width, 0, 0, source, filled, source[filled])


def _strips(positions: Tensor, keys: int) -> list[tuple[int, int, int, int, Tensor]]:
    """Strips of queries at `positions` (1 or count, R) in rows of so many keys."""
    strips = []
    index = torch.arange(keys, device=positions.device)
    for first in range(0, positions.shape[1], STRIP):
        at = positions[:, first : first + STRIP]
        free, seen = int(at.min()), min(keys, round_up(int(at.max()) + 1, WIDTH_STEP))
        bias = torch.zeros(*at.shape, seen - free, device=at.device)
        bias.masked_fill_(index[free:seen] > at[..., None], -1e9)
        strips.append((first, first + at.shape[1], free, seen, bias[:, None]))
    return strips
