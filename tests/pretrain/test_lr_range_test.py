"""The learning-rate range test: rates as asked, bounds where the loss says, all or nothing on disk."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.console import UserError
from pretrain.lr_range_test.__main__ import RangeTest, RangeTestConfig, centred_mean, find_bounds, lr_range_test

Run = Callable[..., Any]
SHAPE: dict[str, Any] = {"vocab_size": 300, "width": 32, "layers": 1, "heads": 1, "feed_forward": 32}
SHAPE |= {"context_length": 32, "batch_size": 4, "warmup_fraction": 0.0}


@pytest.fixture(scope="module")
def corpus_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "lines.txt"
    path.write_text("".join(f"A KING:\nMy {count} ships lie at the shore.\n\n" for count in range(400)), "utf-8")
    return path


@pytest.fixture(scope="module")
def tiny(corpus_path: Path) -> list[object]:
    return ["smoke", "--corpus", corpus_path, "--width", 32, "--layers", 1, "--context-length", 32, "--batch-size", 4]


def test_rates_rise_from_the_lowest_to_the_highest() -> None:
    exponential = RangeTestConfig(steps=61, lowest=1e-6, highest=1.0, smoothing=5)
    assert [exponential.rate(step) for step in (0, 10, 30, 60)] == pytest.approx([1e-6, 1e-5, 1e-3, 1.0])
    linear = RangeTestConfig(steps=61, lowest=0.1, highest=0.7, smoothing=5, rise="linear")
    assert [linear.rate(step) for step in (0, 10, 30, 60)] == pytest.approx([0.1, 0.2, 0.4, 0.7])


def test_the_optimizers_take_these_rates(corpus_path: Path) -> None:
    rates: dict[str, Any] = {"lowest": 1e-4, "highest": 1e-2, "learning_rate": 0.3, "muon_learning_rate": 0.6}
    config = RangeTestConfig(corpus=str(corpus_path), steps=8, smoothing=2, **SHAPE, **rates)
    run = RangeTest(config)
    adamw, muon = (optimizer.optimizer for optimizer in run.optimizers)
    for step in range(3):
        run.step()
        assert adamw.param_groups[0]["lr"] == pytest.approx(config.rate(step))
        assert muon.param_groups[0]["lr"] == pytest.approx(2 * config.rate(step))


def test_smoothing_does_not_lag() -> None:
    assert centred_mean([1.0, 2.0, 3.0, 4.0, 5.0], 2) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert centred_mean([0.0, 0.0, 9.0, 0.0, 0.0], 1) == [0.0, 3.0, 3.0, 3.0, 0.0]


def test_bounds_of_a_valley() -> None:
    """Flat at 4 up to 1e-4, down to 2 at 1e-2, up again: a tenth of the fall is at 10^-3.8."""
    rates = [10 ** (exponent / 10) for exponent in range(-60, 1)]
    losses = [4 if e <= -40 else 4 - (e + 40) / 10 if e <= -20 else 2 + (e + 20) / 10 for e in range(-60, 1)]
    found = find_bounds(rates, losses)
    assert math.log10(found.lower) == pytest.approx(-3.8)
    assert math.log10(found.upper) == pytest.approx(-2)
    assert (found.loss_first, found.loss_lowest, found.rises_again) == (4, 2, True)
    still_falling = find_bounds(rates[:41], losses[:41])
    assert math.log10(still_falling.upper) == pytest.approx(-2)
    assert not still_falling.rises_again


def test_a_loss_that_never_falls_has_no_bounds() -> None:
    with pytest.raises(UserError, match="does not fall at rates from 1 to 3"):
        find_bounds([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])


@pytest.mark.slow
def test_the_command(command: Run, refused: Run, tiny: list, tmp_path: Path) -> None:
    arguments = ["pretrain.lr_range_test", *tiny, "--steps", 60, "--smoothing", 5, "--run", tmp_path]
    found = json.loads(command(*arguments).stdout)
    assert 1e-6 < found["lower"] < found["upper"] <= 1
    assert found["loss_lowest"] < found["loss_first"]
    folder = tmp_path / "lr_range_test"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == found["steps"]
    assert found["upper"] in [line["learning_rate"] for line in lines]
    with Image.open(found["plot"]) as plot:
        assert plot.size == (768, 456)
    assert json.loads((folder / "stage.json").read_text())["results"]["upper"] == found["upper"]
    assert [path.name for path in tmp_path.iterdir()] == ["lr_range_test"]
    assert "--overwrite" in refused(*arguments)
    assert "less than highest" in refused(*arguments, "--overwrite", "--lowest", 2)
    assert (folder / "stage.json").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lowest": 2.0}, "less than highest"),
        ({"lowest": 0.0}, "must be positive"),
        ({"smoothing": 20}, "a quarter of the steps"),
        ({"resume": True}, "cannot be resumed"),
        ({"heads": 5}, "not divisible by 5 heads"),
    ],
)
def test_what_cannot_be_tested_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(RangeTestConfig(steps=40, smoothing=5, **SHAPE), **changes).validate()


def test_a_test_that_fails_leaves_nothing(corpus_path: Path, tmp_path: Path) -> None:
    config = RangeTestConfig(corpus=str(corpus_path), run=tmp_path, steps=8, smoothing=2, **SHAPE)
    with pytest.raises(UserError, match="does not fall"):
        lr_range_test(replace(config, lowest=1e-12, highest=1e-11), "test")
    assert not list(tmp_path.iterdir())
