"""From scores to rankings: a labeller with a stated noise, and the score function that users bring."""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from numbers import Real
from statistics import NormalDist

from data.console import UserError
from data.imports import import_named

ScoreFunction = Callable[[str, str], float]
"""(prompt, response) -> score; the higher, the better."""


def rank(
    scores: Sequence[float], temperature: float, rng: random.Random, texts: Sequence[str] | None = None
) -> list[list[int]]:
    """Rank K responses by their scores with noise: indices, best first, ties grouped.

    Each score / temperature gets Gumbel noise of its own, which samples the Plackett–Luce model: i stands
    before j with probability exactly σ((sᵢ − sⱼ) / temperature), Bradley and Terry's (Yellott 1977).
    Responses with the same text share one place (by the first one's score). Temperature 0 is the exact
    order, where equal scores are tied too. The same state of `rng` gives the same ranking.

    scores: K finite numbers. temperature: ≥ 0, in units of the score. texts: K; None means that all differ.
    """
    if temperature < 0:
        raise ValueError(f"temperature {temperature} is negative")
    if not all(math.isfinite(score) for score in scores):
        raise ValueError(f"scores are not all finite: {list(scores)}")
    if texts is not None and len(texts) != len(scores):
        raise ValueError(f"{len(scores)} scores for {len(texts)} texts")
    places: dict[object, list[int]] = {}  # what is one and the same for the labeller -> indices
    for index, same in enumerate(texts if texts is not None else range(len(scores))):
        places.setdefault(same, []).append(index)
    groups = list(places.values())
    if temperature == 0:
        by_score: dict[float, list[int]] = {}
        for group in groups:
            by_score.setdefault(scores[group[0]], []).extend(group)
        return [sorted(by_score[score]) for score in sorted(by_score, reverse=True)]
    # Standard Gumbel noise is minus the log of a standard exponential, which may be 0.
    noisy = [scores[group[0]] / temperature - math.log(rng.expovariate(1.0) or math.ulp(0.0)) for group in groups]
    return [groups[i] for i in sorted(range(len(groups)), key=lambda i: -noisy[i])]


def accuracy_ceiling(score_pairs: Iterable[tuple[float, float]], temperature: float) -> float:
    """The best pair accuracy that anyone can expect on labels with this noise: the mean of max(p, 1 − p).

    p = σ((a − b) / temperature) is how often the labeller prefers the response that scores a. Whoever knows
    the scores exactly still can only pick the likelier one. score_pairs: the two scores of each labelled
    pair; ValueError if there are none.
    """
    best = [_preference(abs(a - b), temperature) for a, b in score_pairs]
    if not best:
        raise ValueError("no pairs, so no accuracy")
    return sum(best) / len(best)


def ranking_to_pairs(
    prompt: str, completions: Sequence[str], ranking: Sequence[Sequence[int]]
) -> list[tuple[int, int]]:
    """All (better, worse) pairs of indices that a ranking implies; tied and identical completions make none.

    A partial ranking leaves completions out: they make no pair. Raises UserError if the ranking names what is not
    among these completions, or one of them twice.
    """
    placed = [index for group in ranking for index in group]
    if len(set(placed)) < len(placed) or not set(placed) <= set(range(len(completions))):
        raise UserError(
            f"ranking {[list(group) for group in ranking]} of the prompt {prompt[-40:]!r}: "
            f"name each of its {len(completions)} completions, 0 to {len(completions) - 1}, at most once"
        )
    return [
        (better, worse)
        for upper, lower in combinations(ranking, 2)
        for better in upper
        for worse in lower
        if completions[better] != completions[worse]
    ]


def pair_agreement(
    rankings: Iterable[tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]],
) -> tuple[float, int]:
    """(agreements, pairs) of any number of two rankings of the same completions, over the pairs that both placed.

    The same order, or a tie in both, is 1; a tie in one of them 1/2; opposite orders are 0.
    """
    agreed, pairs = 0.0, 0
    for two in rankings:
        first, second = ({index: place for place, group in enumerate(one) for index in group} for one in two)
        for i, j in combinations(sorted(first.keys() & second.keys()), 2):
            orders = [(place[i] > place[j]) - (place[i] < place[j]) for place in (first, second)]
            agreed += 1 - abs(orders[0] - orders[1]) / 2
            pairs += 1
    return agreed, pairs


def ceiling_from_agreement(agreement: float) -> float:
    """The best pair accuracy that labels allow which agree with a second labelling by the same hand this often.

    A labeller who prefers the likelier response with probability q agrees with themselves with q² + (1 − q)², so
    q = (1 + √(2 · agreement − 1)) / 2. That is concave: where some pairs are harder than others, the ceiling is lower
    than what their mean agreement gives here. 1/2 where the agreement is no better than a coin's.
    """
    return (1 + math.sqrt(max(0.0, 2 * agreement - 1))) / 2


def wilson_interval(wins: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share of `wins` in `n` (Wilson 1927). `wins` may end in one half.

    Unlike ± 1.96 standard errors it stays inside [0, 1] and does not shrink to a point at 0 or n wins.
    ValueError where n is 0 or `wins` lies outside 0 … n.
    """
    if n < 1 or not 0 <= wins <= n:
        raise ValueError(f"{wins} wins in {n} comparisons")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = wins / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def load_score_function(spec: str) -> ScoreFunction:
    """The user's own score from "module:callable", called as callable(prompt, response) -> float.

    Raises UserError if there is no such callable and, when called, if it returns no finite number.
    """
    if spec == "critic":
        raise UserError("the judge of form is called gold: write gold for critic")
    function = import_named(spec, "score function", "module:callable, for example mine.taste:score")
    if not callable(function):
        raise UserError(f"score function {spec!r}: a {type(function).__name__} cannot be called; name a function")

    def score(prompt: str, response: str) -> float:
        value = function(prompt, response)
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            raise UserError(f"score function {spec!r}: returned {value!r:.60}; it must return a finite float")
        return float(value)

    return score


def _preference(margin: float, temperature: float) -> float:
    """σ(margin / temperature) for a margin ≥ 0; at temperature 0 a coin decides only between equals."""
    if temperature == 0:
        return 1.0 if margin > 0 else 0.5
    return 1 / (1 + math.exp(-margin / temperature))
