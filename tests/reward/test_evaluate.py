"""The reward model's metrics, on rankings whose answers are known."""

import math
import random
from typing import Any

import pytest
import torch

from reward.evaluate import evaluate_reward, expected_calibration_error, longer_wins, reliability
from reward.model import RewardModel
from reward.rankings import Ranking


class _Known(RewardModel):
    """Scores each response by the number of its tokens, divided by `scale`."""

    std = 1.0

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def score(self, sequences: Any, batch_size: int = 64, normalise: bool = True) -> torch.Tensor:
        return torch.tensor([len(response) / self.scale for _, response in sequences])


def test_figures_on_hand_made_rankings() -> None:
    def ranking(order: list[int]) -> Ranking:
        return Ranking(
            prompt="p",
            completions=["a", "bb", "cccc"],
            stopped=[True] * 3,
            ranking=[[index] for index in order],
            annotator="",
            policy="",
            seed=0,
            prompt_ids=[0],
            completion_ids=[[1], [1] * 2, [1] * 4],
            scores=[0.0, 2.0, 1.0],
        )

    # Longest first, and once the longest last: 3 + 1 of 6 pairs as the model says.
    rankings = [ranking([2, 1, 0]), ranking([1, 0, 2])]
    assert longer_wins(rankings)
    figures = evaluate_reward(_Known(1.0), rankings, label_temperature=1.0)
    assert figures["heldout_accuracy"] == pytest.approx(4 / 6, abs=1e-5)
    assert figures["length_baseline"] == pytest.approx(4 / 6, abs=1e-5)
    assert evaluate_reward(_Known(1.0), rankings, longer_wins=False)["length_baseline"] == pytest.approx(
        2 / 6, abs=1e-5
    )
    assert figures["accuracy_vs_gold"] == pytest.approx(2 / 3, abs=1e-5)
    assert figures["spearman"] == pytest.approx(0.5, abs=1e-5)
    sigmoid = [1 / (1 + math.exp(-margin)) for margin in (1.0, 1.0, 2.0)]
    assert figures["accuracy_ceiling"] == pytest.approx(sum(sigmoid) / 3, abs=1e-5)


def test_calibration_is_perfect_for_the_labels_own_probabilities_and_bad_for_boasting() -> None:
    rng = random.Random(0)
    rankings = []
    for _ in range(4000):
        lengths = [rng.randint(1, 12), rng.randint(1, 12)]
        first = rng.random() < 1 / (1 + math.exp((lengths[1] - lengths[0]) / 4))
        rankings.append(
            Ranking(
                prompt="p",
                completions=["a", "b"],
                stopped=[True, True],
                ranking=[[0], [1]] if first else [[1], [0]],
                annotator="",
                policy="",
                seed=0,
                prompt_ids=[0],
                completion_ids=[[1] * length for length in lengths],
            )
        )

    def error(scale: float) -> float:
        model = _Known(scale)
        scores = [model.score([([0], ids) for ids in r.completion_ids]) for r in rankings]
        bins = reliability(model, rankings, scores)
        assert sum(entry.pairs for entry in bins) == len(rankings)
        found = expected_calibration_error(bins)
        assert found is not None
        return found

    assert error(4.0) < 0.03
    assert error(1.0) > 0.1
