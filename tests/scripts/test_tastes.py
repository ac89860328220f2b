"""The study of tastes: what it does to labels, and which screens it takes."""

import random

import pytest
import torch

from reward.rankings import Ranking
from scripts.docs.tastes import _changed, _disagreement, _first, experiments


def screen(ranking: list[list[int]]) -> Ranking:
    return Ranking(
        prompt="A:\nWell?\n\nB:\n",
        completions=["one", "two", "three", "four"],
        stopped=[True] * 4,
        ranking=ranking,
        annotator="x",
        policy="sft",
        seed=1,
        prompt_ids=[1],
        completion_ids=[[1], [2], [3], [4]],
    )


def test_shuffled_labels_keep_their_groups_and_forget_whose_they_are() -> None:
    rng = random.Random(0)
    seen = [_changed(screen([[0], [1, 2, 3]]), "shuffled", rng).ranking for _ in range(400)]
    assert {tuple(map(len, ranking)) for ranking in seen} == {(1, 3)}
    best = [ranking[0][0] for ranking in seen]
    assert all(60 < best.count(index) < 140 for index in range(4))


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_share_of_labels_is_turned_round(share: float) -> None:
    rng = random.Random(0)
    turned = [
        _changed(screen([[0], [1, 2, 3]]), f"flipped {share:g}", rng).ranking == [[1, 2, 3], [0]] for _ in range(1000)
    ]
    assert sum(turned) / 1000 == pytest.approx(share, abs=0.04)


def test_screens_that_say_nothing_are_looked_at_and_not_counted() -> None:
    screens = [screen([[0, 1, 2, 3]]), screen([[0], [1, 2, 3]]), screen([[0, 1], [2, 3]])]
    assert _first(screens, [0, 1, 2], 2) == ([1, 2], 3)
    assert _first(screens, [2, 0, 1], 1) == ([2], 1)
    with pytest.raises(SystemExit, match="only 2 of 3"):
        _first(screens, [0, 1, 2], 3)


def test_an_ensemble_that_agrees_does_not_disagree() -> None:
    one, other = torch.tensor([0.0, 2.0]), torch.tensor([2.0, 0.0])
    assert _disagreement([one, one]) == 0.0
    assert _disagreement([one, other]) > _disagreement([one, one + torch.tensor([0.0, 0.5])]) > 0.0


def test_every_bar_has_its_experiments() -> None:
    controls = {(each.taste, each.change) for each in experiments("controls")}
    assert len(controls) == 8
    assert {each.n for each in experiments("curve") if each.order == "random"} == {5, 10, 20, 50, 100, 200}
    assert {each.craft for each in experiments("reach")} == {0.0, None}
