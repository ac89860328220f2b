"""The script that makes the pictures of docs/metrics.md, without training anything."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import tyro

AlignConfig = pytest.importorskip(
    "rlhf.algorithms.config", reason="needs the extra rlhf", exc_type=ImportError
).AlignConfig

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "docs"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(SCRIPTS)
    return runpy.run_path(str(SCRIPTS / "sick_runs.py"))


def test_the_reward_with_a_hole_does_not_read(script: dict[str, Any]) -> None:
    assert script["kind"]("A:\nGood day!\n\nB:\n", "Away, you knave!") == 0
    assert script["kind"]("", "Good day, gentle knave!") == pytest.approx(2 / 4)
    assert script["kind"]("", "good good good") == 1
    assert script["kind"]("", "") == 0


def test_every_case_changes_one_thing_of_the_healthy_one(script: dict[str, Any]) -> None:
    base = tyro.cli(AlignConfig, args=["--run", "x"])
    assert script["CASES"][script["HEALTHY"]] == ""
    for options in script["CASES"].values():
        changed = tyro.cli(AlignConfig, args=["--run", "x", *options.split()])
        assert (changed != base) == bool(options)


def test_pictures_and_rows_are_of_the_metrics(script: dict[str, Any]) -> None:
    def run(score: float) -> list[dict[str, Any]]:
        figures = dict.fromkeys([*script["PANELS"], "objective/stopped"], score)
        judged = [name for name in figures if name.startswith("eval/")]
        return [
            {"episode": 128.0 * n} | {name: n * v for name, v in figures.items() if n % 2 == 0 or name not in judged}
            for n in range(1, 11)
        ]

    sick, healthy = run(0.5), run(0.25)
    figure = script["draw"](sick, healthy)
    assert len(figure.axes) == 8
    for axes in figure.axes:
        grey, red = axes.get_lines()
        assert grey.get_ydata()[-1] == 2.5
        assert red.get_ydata()[-1] == 5
    assert [len(axes.get_lines()) for axes in script["draw"](healthy, None).axes] == [1] * 8
    cells = [cell.strip() for cell in script["row"]("kl-too-high", sick).split("|")]
    assert cells[1] == "kl-too-high"
    assert cells[3] == "5.00", "the mean of the last tenth"
    assert len(cells) == 13
