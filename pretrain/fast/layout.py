"""Maps between padded batches, the flat token sequence, and the per-group rectangles used by attention.

Shapes: N tokens of all rows, Q of them whose output is wanted, D head width.
"""

from dataclasses import dataclass
from itertools import pairwise

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
    """The rows' tokens are first … end."""
    source: Tensor | None
    """(count * width,) the token at every place, any token of the row beyond its end. None: the tokens as they lie."""
    filled: Tensor | None
    """(end - first,) the places of the tokens first … end."""

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
        """The inverse of `matrices`: write into `tokens` (N, heads * D)."""
        places = matrices.view(-1, heads, self.width, matrices.shape[-1]).transpose(1, 2).reshape(-1, tokens.shape[1])
        if self.filled is None:
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

    N is rounded up to a multiple of `token_step`: the last tokens may belong to no row. With `segments` and
    `position_ids` (B, T), rows that begin at their left end, a token sees no more than segment 0 and its own, and has
    the position that it is given: texts that begin alike, one behind the other, with their beginning once.
    """

    def __init__(
        self,
        mask: Tensor,
        wanted: Tensor,
        token_step: int = TOKEN_STEP,
        segments: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> None:
        order = mask.sum(1).argsort(stable=True)
        mask, wanted = mask[order], wanted[order]
        lengths, wanted_lengths = mask.sum(1), wanted.sum(1)
        taken = mask.flatten().nonzero().squeeze(1)
        index = torch.arange(mask.shape[1], device=mask.device)
        source = (order[:, None] * mask.shape[1] + index).flatten()[taken]
        starts, wanted_starts = lengths.cumsum(0) - lengths, wanted_lengths.cumsum(0) - wanted_lengths
        positions = torch.arange(len(taken), device=mask.device) - starts.repeat_interleave(lengths)
        chosen = wanted.flatten()[taken].nonzero().squeeze(1)

        self.count = len(chosen)
        """Tokens that are given out."""
        extra = round_up(len(taken), token_step) - len(taken)
        self.source = F.pad(source, (0, extra))
        """(N,) places in a flattened (B, T)."""
        given = positions if position_ids is None else position_ids[order].flatten()[taken]
        self.positions = F.pad(given, (0, extra))
        """(N,) places within the row, or what is given."""
        self.chosen = F.pad(chosen, (0, round_up(len(chosen), token_step) - len(chosen)))
        """(Q,) the tokens that are given out, and some of no interest."""
        self.restore = self._restore(order, wanted_lengths, wanted_starts)
        """(count,) of those chosen, in the order of the rows as they were given. None: they are."""
        self.all: list[Group] = []
        """Groups in which every token attends."""
        self.last: list[Group] = []
        """Groups in which those chosen attend."""
        at = positions[chosen]
        bounds = [*range(0, len(mask), GROUP), len(mask)]
        for first, end in pairwise(bounds):
            rows = slice(first, end)
            keys = _rectangle(starts[rows], lengths[rows])
            index = torch.arange(keys.width, device=mask.device)
            parts = None if segments is None else _to_width(segments[order[rows]], keys.width)
            places = index[None] if parts is None else index.expand_as(parts)
            self.all.append(Group(end - first, keys, keys, _strips(places, keys.width, parts)))
            if wanted_lengths[rows].max() > 0:
                queries = _rectangle(wanted_starts[rows], wanted_lengths[rows])
                those = at[queries.first : queries.end] if queries.source is None else at[queries.source]
                strips = _strips(those.view(end - first, -1), keys.width, parts)
                self.last.append(Group(end - first, keys, queries, strips))

    @staticmethod
    def _restore(order: Tensor, lengths: Tensor, starts: Tensor) -> Tensor | None:
        back = order.argsort()
        if torch.equal(back, torch.arange(len(back), device=back.device)):
            return None
        lengths, starts = lengths[back], starts[back]
        within = torch.arange(int(lengths.sum()), device=back.device) - (lengths.cumsum(0) - lengths).repeat_interleave(
            lengths
        )
        return starts.repeat_interleave(lengths) + within


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


def _to_width(segments: Tensor, width: int) -> Tensor:
    """Segments (count, T) of rows of at most `width` tokens, as (count, width); -1 where there is no token."""
    return F.pad(segments[:, :width], (0, max(0, width - segments.shape[1])), value=-1)


def _strips(positions: Tensor, keys: int, segments: Tensor | None = None) -> list[tuple[int, int, int, int, Tensor]]:
    """Strips of queries at `positions` (1 or count, R) that attend to so many keys, of `segments` (count, keys)."""
    strips = []
    index = torch.arange(keys, device=positions.device)
    for first in range(0, positions.shape[1], STRIP):
        at = positions[:, first : first + STRIP]
        free, seen = int(at.min()), min(keys, round_up(int(at.max()) + 1, WIDTH_STEP))
        if segments is not None:
            free = 0
        hidden = index[free:seen] > at[..., None]
        if segments is not None:
            theirs, own = segments[:, None, :seen], segments.gather(1, at)[..., None]
            hidden = hidden | ((theirs != 0) & (theirs != own))
        bias = torch.zeros(hidden.shape, device=at.device).masked_fill_(hidden, -1e9)
        strips.append((first, first + at.shape[1], free, seen, bias[:, None]))
    return strips
