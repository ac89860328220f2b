"""How good a reward model is on rankings that it has not seen."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any, NamedTuple

import torch
from scipy.stats import spearmanr

from reward.labeller import accuracy_ceiling
from reward.model import RewardModel
from reward.rankings import Ranking

BINS = 10
"""Equal bins of the predicted probability in the reliability diagram."""


class Bin(NamedTuple):
    """Pairs whose predicted probability lies in one tenth: how many, the mean of it, and how often it came true."""

    pairs: int
    predicted: float
    observed: float


def evaluate_reward(
    model: RewardModel,
    rankings: Sequence[Ranking],
    label_temperature: float | None = None,
    longer_wins: bool | None = None,
    scores: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Figures of `model` on `rankings`, for those of a stage and for samples of any later policy.

    heldout_accuracy: share of labelled pairs that the model orders as the label does (ties half), next to
    accuracy_ceiling: the best that anyone can reach on labels of that noise (needs scores and
    `label_temperature`). accuracy_vs_gold and spearman: against the annotator's scores without noise.
    length_baseline: the accuracy of ordering by response length alone; `longer_wins` is the direction
    that training data suggested (`longer_wins` below), None takes the better one here. ece: expected calibration
    error of σ(r_a − r_b), pairs taken in the order of sampling. Metrics that cannot be computed are None.
    `scores`: what `score_rankings` gives, if it is known already.
    """
    scores = score_rankings(model, rankings) if scores is None else scores
    by_ranking = scores.split([len(r.completions) for r in rankings])
    paired = [(r, s.tolist()) for r, s in zip(rankings, by_ranking, strict=True)]
    judged = judge_pairs(rankings, [s for _, s in paired])
    scored = [(r.scores, s) for r, s in paired if r.scores is not None]
    true = [(s[a], s[b]) for g, s in scored for a, b in permutations(range(len(s)), 2) if g[a] > g[b]]
    margins = [(r.scores[a], r.scores[b]) for r in rankings if r.scores is not None for a, b in r.pairs()]
    gold, given = [score for g, _ in scored for score in g], [score for _, s in scored for score in s]
    by_length = _length_accuracy(rankings)
    if longer_wins is None:
        longer_wins = by_length >= 0.5
    metrics: dict[str, Any] = {
        "heldout_accuracy": sum(pair.right for pair in judged) / len(judged) if judged else None,
        "accuracy_ceiling": None,
        "accuracy_vs_gold": _accuracy(true),
        "length_baseline": (by_length if longer_wins else 1 - by_length) if judged else None,
        "ece": expected_calibration_error(reliability(model, rankings, by_ranking)),
        "spearman": None,
        "rankings": len(rankings),
        "pairs": len(judged),
    }
    if margins and label_temperature is not None:
        metrics["accuracy_ceiling"] = accuracy_ceiling(margins, label_temperature)
    if len(set(gold)) > 1 and len(set(given)) > 1:
        metrics["spearman"] = float(spearmanr(given, gold).statistic)
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in metrics.items()}


class Judged(NamedTuple):
    """A labelled pair of a held-out ranking, and how the model orders it: 1 as the label does, 0 not so, 1/2 a tie."""

    ranking: Ranking
    better: int
    worse: int
    right: float


def judge_pairs(rankings: Sequence[Ranking], scores: Sequence[Sequence[float]]) -> list[Judged]:
    """Every labelled pair of `rankings`, whose completions have these scores."""
    return [
        Judged(ranking, better, worse, (of[better] > of[worse]) + (of[better] == of[worse]) / 2)
        for ranking, of in zip(rankings, scores, strict=True)
        for better, worse in ranking.pairs()
    ]


def score_rankings(model: RewardModel, rankings: Sequence[Ranking], normalise: bool = True) -> torch.Tensor:
    """Scores of all completions of all rankings, in order, (completions,)."""
    sequences = [(r.prompt_ids, ids) for r in rankings for ids in r.completion_ids]
    return model.score(sequences, normalise=normalise) if sequences else torch.empty(0)


def longer_wins(rankings: Sequence[Ranking]) -> bool:
    """Whether the longer response wins more often: what someone who looks at length alone would learn."""
    return _length_accuracy(rankings) >= 0.5


def reliability(model: RewardModel, rankings: Sequence[Ranking], scores: Sequence[torch.Tensor]) -> list[Bin]:
    """The reliability diagram of P(a before b) = σ(r_a − r_b), over pairs in the order of sampling.

    `scores` are normalised; the probability is that of the raw scores, which the training fitted.
    """
    bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for ranking, score in zip(rankings, scores, strict=True):
        for better, worse in ranking.pairs():
            a, b = min(better, worse), max(better, worse)
            probability = torch.sigmoid((score[a] - score[b]) * model.std).item()
            bins[min(BINS - 1, int(probability * BINS))].append((probability, float(a == better)))
    return [
        Bin(len(entries), sum(p for p, _ in entries) / len(entries), sum(hit for _, hit in entries) / len(entries))
        for entries in bins
        if entries
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float | None:
    """Mean distance between predicted and observed frequency, weighted by pairs (Naeini et al., AAAI 2015)."""
    total = sum(entry.pairs for entry in bins)
    return sum(entry.pairs * abs(entry.predicted - entry.observed) for entry in bins) / total if total else None


def _length_accuracy(rankings: Sequence[Ranking]) -> float:
    """Share of pairs in which the longer response, in tokens, won; equal lengths count half."""
    lengths = [[*map(len, r.completion_ids)] for r in rankings]
    share = _accuracy([(n[a], n[b]) for r, n in zip(rankings, lengths, strict=True) for a, b in r.pairs()])
    return 0.5 if share is None else share


def _accuracy(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Share of pairs whose first number is the greater one, equals counting half; None where there are none."""
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs) if pairs else None
