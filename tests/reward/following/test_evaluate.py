"""Figures of doing as told, by hand, and the probability against one that is known."""

import math
import random

import pytest
import torch

from data.directions.specs import load_specs
from reward.following.evaluate import agreement, by_kind, fit_probability, log_loss
from reward.rankings import Ranking


def test_the_probability_is_that_of_the_labels() -> None:
    rng = random.Random(0)
    scores = [rng.gauss(0, 1) for _ in range(20_000)]
    followed = [rng.random() < 1 / (1 + math.exp(-(3 * score - 1))) for score in scores]
    assert fit_probability(scores, followed) == pytest.approx((3, -1), abs=0.1)


def test_the_probability_is_finite_where_scores_make_no_error_and_where_all_are_alike() -> None:
    scale, bias = fit_probability([-1.0, -0.5, 0.5, 1.0] * 10, [False, False, True, True] * 10)
    assert 2 < scale < 100
    assert abs(bias) < 0.1
    scale, bias = fit_probability([-1.0, 0.0, 1.0], [False] * 3)
    assert 1 / (1 + math.exp(-bias)) == pytest.approx(1 / 5, abs=0.02)  # one reply of each sort more
    assert all(map(math.isfinite, (scale, bias)))


def test_agreement_and_log_loss_by_hand() -> None:
    probabilities = torch.tensor([0.9, 0.4, 0.2, 0.6])
    followed = [True, True, False, False]
    assert agreement(probabilities, followed) == 0.5
    assert log_loss(probabilities, followed) == pytest.approx(-sum(map(math.log, (0.9, 0.4, 0.8, 0.4))) / 4)
    assert math.isfinite(log_loss(torch.tensor([0.0]), [True]))


def test_pairs_are_counted_by_what_was_asked() -> None:
    def ranking(asked: str) -> Ranking:
        return Ranking(
            prompt=f"ANNE:\nWell.\n\nBEN{asked}:\n", completions=["a", "b", "c"], stopped=[True] * 3,
            ranking=[[0], [1, 2]], annotator="", policy="", seed=0, prompt_ids=[0], completion_ids=[[1], [2], [3]],
        )  # fmt: skip

    asked = [", asking", ", in two lines", ", asking, beginning with Now", ", asking"]
    scores = [torch.tensor(each) for each in ([2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 2.0])]
    found = by_kind([ranking(each) for each in asked], scores, load_specs("built-in"))
    assert found == {
        "lines": {"accuracy": 0.5, "pairs": 2},
        "mood": {"accuracy": 0.5, "pairs": 4},
        "two": {"accuracy": 0.25, "pairs": 2},
    }
