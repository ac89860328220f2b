"""How well a model knows which replies follow their prompt's directions: by kind, and as a probability."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit

from data.directions.headings import directions_of
from data.directions.specs import Spec
from reward.evaluate import judge_pairs
from reward.rankings import Ranking

COUNTS = ("none", "one", "two", "three")


def fit_probability(scores: Sequence[float], followed: Sequence[bool]) -> tuple[float, float]:
    """(scale, bias) with which sigmoid(scale · score + bias) is the probability that a reply follows.

    Platt's maximum likelihood (1999): the labels are drawn in by one made-up reply of each sort, so that the scale is
    finite where the scores tell the replies apart without an error.
    """
    x, y = np.asarray(scores, dtype=float), np.asarray(followed, dtype=bool)
    target = np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logits = parameters[0] * x + parameters[1]
        slope = expit(logits) - target
        return float((np.logaddexp(0, logits) - target * logits).sum()), np.array([(slope * x).sum(), slope.sum()])

    scale, bias = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    return float(scale), float(bias)


def by_kind(rankings: Sequence[Ranking], scores: Sequence[torch.Tensor], specs: Sequence[Spec]) -> dict[str, Any]:
    """Share of pairs that the scores order right, by the kind of the one direction, or the number of several."""
    found: dict[str, list[float]] = {}
    for pair in judge_pairs(rankings, [each.tolist() for each in scores]):
        asked = directions_of(pair.ranking.prompt, specs)
        kind = asked[0].kind if len(asked) == 1 else COUNTS[len(asked)]
        found.setdefault(kind, []).append(pair.right)
    return {
        kind: {"accuracy": round(sum(right) / len(right), 5), "pairs": len(right)}
        for kind, right in sorted(found.items())
    }


def agreement(probabilities: torch.Tensor, followed: Sequence[bool]) -> float:
    """Share of replies of which the model says as the rule does whether they follow."""
    return float(((probabilities > 0.5) == torch.tensor(followed)).float().mean())


def log_loss(probabilities: torch.Tensor, followed: Sequence[bool]) -> float:
    """Mean nats per reply that the probabilities need for what the rule says; ln 2 is a coin."""
    p = probabilities.double().clamp(1e-12, 1 - 1e-12)
    return -float(torch.where(torch.tensor(followed), p.log(), (1 - p).log()).mean()) if len(p) else math.nan
