"""Rankings as batches of tokens: each prompt and each of its responses once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any, Literal

import torch
from datasets import Dataset
from torch import Tensor

from data.console import UserError
from reward.rankings import Ranking

ZERO = -1
"""In the place of a response: a score of 0."""

Loss = Literal["pairs", "plackett-luce", "calibrated"]
"""See `ranking_losses`; calibrated: see `RankingCollator`."""

JudgeBeginnings = Callable[[Ranking, Sequence[int]], list[bool]]
"""(ranking, token ids of one of its responses) -> of each token whether the response would be right, ended there."""


@dataclass
class RankingRow:
    """One ranking as one sequence of tokens: the prompt, then each distinct completion, which sees only the prompt.

    A pair compares the completions `chosen[i]` and `rejected[i]`, places in `completion_ids`; each pair stands once.
    The loss is multiplied by `weight`. `beginnings`: what a judge says of those of each completion, where there is one.
    """

    prompt_ids: list[int]
    completion_ids: list[list[int]]
    chosen: list[int]
    rejected: list[int]
    weight: float
    beginnings: list[list[bool]] = field(default_factory=list)

    @classmethod
    def of(cls, ranking: Ranking, judge: JudgeBeginnings | None = None) -> "RankingRow":
        """Completions of the same tokens run through the model once, and those of no pair not at all."""
        pairs = ranking.pairs()
        compared = sorted({index for pair in pairs for index in pair})
        places: dict[tuple[int, ...], int] = {}
        place = {index: places.setdefault(tuple(ranking.completion_ids[index]), len(places)) for index in compared}
        compared_places = dict.fromkeys((place[better], place[worse]) for better, worse in pairs)
        return cls(
            prompt_ids=ranking.prompt_ids,
            completion_ids=[list(ids) for ids in places],
            chosen=[better for better, _ in compared_places],
            rejected=[worse for _, worse in compared_places],
            weight=ranking.weight,
            beginnings=[judge(ranking, ids) for ids in places] if judge else [],
        )

    @property
    def longest(self) -> int:
        """Tokens of the prompt and the longest completion."""
        return len(self.prompt_ids) + max(map(len, self.completion_ids))

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + [token for ids in self.completion_ids for token in ids]

    @property
    def segments(self) -> list[int]:
        """0 for a token of the prompt, 1, 2, … for those of the completions."""
        of_completions = [number for number, ids in enumerate(self.completion_ids, start=1) for _ in ids]
        return [0] * len(self.prompt_ids) + of_completions

    @property
    def positions(self) -> list[int]:
        """A completion's positions continue the prompt's."""
        prompt = len(self.prompt_ids)
        return [*range(prompt), *(prompt + place for ids in self.completion_ids for place in range(len(ids)))]

    @property
    def ends(self) -> list[int]:
        """The place of each completion's last token."""
        return [len(self.prompt_ids) + end - 1 for end in accumulate(map(len, self.completion_ids))]


def ranking_dataset(rankings: Sequence[Ranking], context_length: int, judge: JudgeBeginnings | None = None) -> Dataset:
    """One `RankingRow` per ranking.

    Rankings of nothing but ties have no pair and are left out. UserError if there is no pair at all, or a
    sequence is longer than the model's context.
    """
    rows = [row for ranking in rankings if (row := RankingRow.of(ranking, judge)).chosen]
    if not rows:
        raise UserError("the rankings hold no pair: every response is tied with every other")
    longest = max(row.longest for row in rows)
    if longest > context_length:
        raise UserError(
            f"a prompt and its response have {longest} tokens, the model's context is {context_length}: "
            "shorten --prompt-length or --response-length"
        )
    return Dataset.from_list([asdict(row) for row in rows])


class RankingCollator:
    """Rows of `ranking_dataset` → a batch of R sequences of at most T tokens, the shortest first, padded on the right.

    `input_ids`, `position_ids`, `segments` (R, T), see `RankingRow`; segment −1 is padding. `ends` (N,): where the N
    completions end, in the flattened rows. `owners` (R, T): which of the N a token belongs to, −1 where to none.
    `chosen`, `rejected` (P,): the places in `ends` that each of the P pairs compares, -1 a response whose score is 0.
    `terms` (P,): the term of the loss that a pair belongs to, of M; `weights` (M,): what each term is multiplied by.
    See `ranking_losses`. `beginnings` (R, T): 1 where the response would be right if it ended with this token, 0 where
    it would not, −1 elsewhere; `response_weights` (N,): the weight of the ranking that a response is of.

    With the loss "calibrated" every pair is a term, and so is each response with one of score 0, which stands between
    the first group of every ranking and the others: so scores of different prompts compare, and tell on which side of
    it a response is (Fürnkranz et al., Machine Learning 73, 2008, calibrated label ranking).
    """

    def __init__(self, pad_id: int, width_step: int = 1, loss: Loss = "pairs") -> None:
        """Rows are padded to a multiple of `width_step` tokens: a CPU keeps a kernel for every shape it has met."""
        self.pad_id, self.width_step, self.loss = pad_id, width_step, loss

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        ordered = sorted((RankingRow(**row) for row in rows), key=lambda row: len(row.segments))
        width = math.ceil(len(ordered[-1].segments) / self.width_step) * self.width_step
        ends: list[int] = []
        chosen: list[int] = []
        rejected: list[int] = []
        terms: list[int] = []
        weights: list[float] = []
        owners: list[list[int]] = []
        beginnings: list[list[int]] = []
        response_weights: list[float] = []
        for number, row in enumerate(ordered):
            owners.append([segment - 1 + len(ends) if segment else -1 for segment in row.segments])
            better, worse = ([len(ends) + place for place in places] for places in (row.chosen, row.rejected))
            if self.loss == "calibrated":
                of_row = range(len(ends), len(ends) + len(row.completion_ids))
                better, worse = (
                    better + [ZERO if place in worse else place for place in of_row],
                    worse + [place if place in worse else ZERO for place in of_row],
                )
            chosen += better
            rejected += worse
            of_pairs = better if self.loss == "plackett-luce" else range(len(better))
            numbers = {term: len(weights) + place for place, term in enumerate(dict.fromkeys(of_pairs))}
            terms += [numbers[term] for term in of_pairs]
            weights += [row.weight] * len(numbers)
            ends += [number * width + end for end in row.ends]
            judged = [int(right) for of_response in row.beginnings for right in of_response]
            beginnings.append([-1] * (len(row.segments) - len(judged)) + judged)
            response_weights += [row.weight] * len(row.completion_ids)

        def padded(lists: list[list[int]], value: int) -> Tensor:
            return torch.tensor([[*values, *[value] * (width - len(values))] for values in lists])

        return {
            "input_ids": padded([row.ids for row in ordered], self.pad_id),
            "position_ids": padded([row.positions for row in ordered], 0),
            "segments": padded([row.segments for row in ordered], -1),
            "owners": padded(owners, -1),
            "beginnings": padded(beginnings, -1),
            "response_weights": torch.tensor(response_weights),
            "ends": torch.tensor(ends),
            "chosen": torch.tensor(chosen),
            "rejected": torch.tensor(rejected),
            "terms": torch.tensor(terms),
            "weights": torch.tensor(weights),
        }
