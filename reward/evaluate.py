"""How good a reward model is on rankings that it has not seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from data.run.plots import plot_curves
from reward.labeller import accuracy_ceiling
from reward.model import RewardModel
from reward.rankings import Ranking

BINS = 10
"""Equal bins of the predicted probability in the reliability diagram."""


@dataclass(frozen=True)
class Bin:
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

    heldout_accuracy: share of labelled pairs that the model orders as the label does (ties half), beside
    accuracy_ceiling: the best that anyone can reach on labels of that noise (needs scores and
    `label_temperature`). accuracy_vs_gold and spearman: against the annotator's scores without noise.
    length_baseline: the accuracy of ordering by response length alone; `longer_wins` is the direction
    that training data suggested (`longer_wins` below), None takes the better one here. ece: expected calibration
    error of σ(r_a − r_b), pairs taken in the order of sampling. Figures that cannot be had are None.
    `scores`: what `score_rankings` gives, if it is known already.
    """
    scores = score_rankings(model, rankings) if scores is None else scores
    by_ranking = scores.split([len(r.completions) for r in rankings])
    labelled = [(r, s, pair) for r, s in zip(rankings, by_ranking, strict=True) for pair in r.pairs()]
    right = [_order(s[better].item(), s[worse].item()) for _, s, (better, worse) in labelled]
    by_length = _length_accuracy(rankings)
    if longer_wins is None:
        longer_wins = by_length >= 0.5
    figures: dict[str, Any] = {
        "heldout_accuracy": sum(right) / len(right) if right else None,
        "accuracy_ceiling": None,
        "accuracy_vs_gold": None,
        "length_baseline": by_length if longer_wins else 1 - by_length,
        "ece": expected_calibration_error(reliability(model, rankings, by_ranking)),
        "spearman": None,
        "rankings": len(rankings),
        "pairs": len(labelled),
    }
    scored = [(r, s) for r, s in zip(rankings, by_ranking, strict=True) if r.scores is not None]
    gold_pairs = [(r.scores[a], r.scores[b]) for r, _, (a, b) in labelled if r.scores is not None]
    if gold_pairs and label_temperature is not None:
        figures["accuracy_ceiling"] = accuracy_ceiling(gold_pairs, label_temperature)
    if scored:
        agreed = [
            _order((s[a] - s[b]).item() * math.copysign(1, r.scores[a] - r.scores[b]), 0.0)
            for r, s in scored
            if r.scores is not None
            for b in range(len(r.scores))
            for a in range(b)
            if r.scores[a] != r.scores[b]
        ]
        figures["accuracy_vs_gold"] = sum(agreed) / len(agreed) if agreed else None
        gold = [score for r, _ in scored for score in r.scores or []]
        given = torch.cat([s for _, s in scored]).tolist()
        if len(set(gold)) > 1 and len(set(given)) > 1:
            figures["spearman"] = float(spearmanr(given, gold).statistic)
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in figures.items()}


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


def write_calibration(path: Path, bins: Sequence[Bin]) -> None:
    """The reliability diagram as a PNG."""
    plot_curves(
        path,
        {
            "as often as predicted": ([0.0, 1.0], [0.0, 1.0]),
            "held-out pairs": ([entry.predicted for entry in bins], [entry.observed for entry in bins]),
        },
        xlabel="predicted probability that a response wins",
        ylabel="how often it won",
        title="Calibration of the reward model",
    )


def _length_accuracy(rankings: Sequence[Ranking]) -> float:
    """Share of pairs in which the longer response, in tokens, won; equal lengths count half."""
    won = [
        _order(len(r.completion_ids[better]), len(r.completion_ids[worse]))
        for r in rankings
        for better, worse in r.pairs()
    ]
    return sum(won) / len(won) if won else 0.5


def _order(first: float, second: float) -> float:
    """1 if the first is greater, ½ if they are equal, else 0."""
    return 0.5 if first == second else float(first > second)
