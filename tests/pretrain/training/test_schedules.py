"""The learning rate's course: by hand, and as torch's own CyclicLR goes."""

import dataclasses
from typing import Any

import pytest
import torch

from data.console import UserError
from pretrain.config import CYCLIC_SCHEDULES, PretrainConfig
from pretrain.training.optim import build_optimizers, set_schedule
from pretrain.training.schedules import lr_factor


def test_learning_rate_schedules_by_hand() -> None:
    base = PretrainConfig(steps=100, warmup_fraction=0.1, final_fraction=0.2)
    linear = dataclasses.replace(base, schedule="linear")
    assert [lr_factor(step, linear) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert lr_factor(55, linear) == pytest.approx(0.2 + 0.8 * 0.5)
    assert lr_factor(100, linear) == pytest.approx(0.2)
    cosine = dataclasses.replace(base, schedule="cosine")
    assert lr_factor(55, cosine) == pytest.approx(0.6)
    assert lr_factor(100, cosine) == pytest.approx(0.2)
    constant = dataclasses.replace(base, schedule="constant")
    assert lr_factor(99, constant) == 1.0


CYCLIC = PretrainConfig(
    steps=30, warmup_fraction=0.0, learning_rate=0.5, base_fraction=0.2, step_size=4, gamma=0.9, optimizer="adamw"
)


def test_cyclic_schedules_by_hand() -> None:
    """Half a cycle is 4 steps: the base at 0, 8, 16, the top at 4, 12, 20, and halfway at 2."""

    def scales(schedule: Any, steps: list[int]) -> list[float]:
        config = dataclasses.replace(CYCLIC, schedule=schedule)
        return [lr_factor(step, config) for step in steps]

    assert scales("triangular", [0, 2, 4, 6, 8, 12, 30]) == pytest.approx([0.2, 0.6, 1.0, 0.6, 0.2, 1.0, 0.6])
    # Above the base: .8 in the first cycle, .4 in the second, .2 in the third.
    assert scales("triangular2", [0, 4, 8, 12, 16, 20]) == pytest.approx([0.2, 1.0, 0.2, 0.6, 0.2, 0.4])
    assert scales("exp_range", [0, 2, 4, 12]) == pytest.approx(
        [0.2, 0.2 + 0.8 * 0.5 * 0.9**2, 0.2 + 0.8 * 0.9**4, 0.2 + 0.8 * 0.9**12]
    )


@pytest.mark.parametrize("schedule", CYCLIC_SCHEDULES)
def test_every_step_takes_the_rate_of_cyclic_lr(schedule: Any) -> None:
    """Step by step beside torch's class, on an optimizer of real parameters."""
    config = dataclasses.replace(CYCLIC, schedule=schedule)
    [ours] = build_optimizers(torch.nn.Linear(3, 3), config)
    theirs = torch.optim.AdamW(torch.nn.Linear(3, 3).parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.CyclicLR(
        theirs,
        base_lr=0.2 * 0.5,
        max_lr=0.5,
        step_size_up=4,
        mode=schedule,
        gamma=0.9,
        cycle_momentum=False,
    )
    theirs.step()
    for step in range(config.steps + 1):
        set_schedule([ours], lr_factor(step, config), step / config.steps)
        for group in ours.param_groups:
            assert group["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12), step
        scheduler.step()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"warmup_fraction": 0.1}, "set warmup_fraction to 0"),
        ({"step_size": 0}, "step_size must be at least 1"),
        ({"base_fraction": 1.5}, "base_fraction must be between 0 and 1"),
        ({"gamma": 1.1}, "gamma must be between 0 and 1"),
        ({"gamma": 0.0}, "gamma must be positive"),
    ],
)
def test_impossible_cycles_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        dataclasses.replace(CYCLIC, schedule="triangular", **changes).validate()
