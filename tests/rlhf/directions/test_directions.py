"""Every figure of directions on a run of tiny models, and what compare.json then says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.console import UserError
from data.run.record import parent_of, read_stage
from rlhf.compare.__main__ import CompareOptions, compare
from rlhf.directions.__main__ import DirectionsOptions, measure_directions
from rlhf.directions.report import rows_of

PROMPTS = 8
SOURCES = {"pretrain", "sft", "rlhf", "best_of_4", "original"}
KINDS = ["mood", "lines", "beginning", "word", "to", "length"]


@pytest.fixture(scope="module")
def compared(directed_maker: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with directions and a comparison that has asked for one thing alone."""
    run = shutil.copytree(directed_maker.run, tmp_path_factory.mktemp("directions") / "run")
    compare(CompareOptions(run=run, prompts=PROMPTS, seed=3))
    return run


@pytest.fixture(scope="module")
def run(compared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied = shutil.copytree(compared, tmp_path_factory.mktemp("measured") / "run")
    assert measure_directions(DirectionsOptions(run=copied)) == copied / "directions"
    return copied


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def test_compare_gets_the_rest_and_keeps_what_it_had(compared: Path, run: Path) -> None:
    before, after = (read(each / "compare/compare.json") for each in (compared, run))
    assert {key: value for key, value in before.items() if key != "directions"} == {
        key: value for key, value in after.items() if key != "directions"
    }
    was, now = before["directions"], after["directions"]
    for name in ("one", "wrong", "craft"):
        assert now[name] == was[name]
    assert list(now) == list(was) == ["one", "two", "three", "wrong", "by_kind", "held_out", "craft"]
    for shares in (now["two"], now["three"], *now["by_kind"].values(), *now["held_out"].values()):
        assert set(shares) == SOURCES
        for share in shares.values():
            assert share["n"] == PROMPTS
            assert 0 <= share["low"] <= share["rate"] <= share["high"] <= 1
    assert list(now["by_kind"]) == KINDS
    assert list(now["held_out"]) == ["words", "combinations", "kind"]
    assert now["held_out"]["kind"] == now["by_kind"]["length"], "the one kind that nothing learns from"


def test_the_records_are_whole(compared: Path, run: Path) -> None:
    assert (run / "compare/stage.json").read_bytes() == (compared / "compare/stage.json").read_bytes()
    read_stage(run / "compare", "compare")
    record = read_stage(run / "directions", "directions")
    assert record.parent == parent_of(read_stage(run / "rlhf"))
    assert record.seed == 3, "the comparison's own"
    assert record.results == read(run / "directions/directions.json")["directions"]
    assert {path.name for path in (run / "compare").iterdir()} == {
        path.name for path in (compared / "compare").iterdir()
    }


def test_what_is_left_to_be_read(run: Path) -> None:
    found = read(run / "directions/directions.json")
    assert [*found["craft"]] == ["one", "two", "three", *(f"kind {kind}" for kind in KINDS), "words", "combinations"]
    assert found["craft"]["one"] == found["directions"]["craft"]
    assert set(found["wrong"]) == {"one", *(f"kind {kind}" for kind in KINDS), "words"}
    page = (run / "directions/report.html").read_text("utf-8")
    for _, title, _ in rows_of(found["directions"]):
        assert f"<td>{title}</td>" in page
    assert page.count("<svg") == 1
    for title in ("pretrained", "SFT", "aligned", "best of 4 from SFT", "the original"):
        assert f">{title}</text>" in page
    samples = (run / "directions/samples.md").read_text("utf-8")
    assert "## 1. one" in samples
    assert "as told" in samples


def test_it_is_not_done_again_unasked(run: Path) -> None:
    with pytest.raises(UserError, match="directions exists already"):
        measure_directions(DirectionsOptions(run=run))


def test_what_it_needs_is_said_in_one_line(compared: Path, whole_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"compare does not exist: run `python -m rlhf.compare"):
        measure_directions(DirectionsOptions(run=whole_run))
    copied = shutil.copytree(compared, tmp_path / "run")
    record = read(copied / "compare/stage.json")
    (copied / "compare/stage.json").write_text(
        json.dumps(record | {"parent": {"stage": "rlhf", "sha256": "0" * 64}}), "utf-8"
    )
    with pytest.raises(UserError, match=r"compare was made from another rlhf.*python -m rlhf.compare"):
        measure_directions(DirectionsOptions(run=copied))
    (copied / "compare/stage.json").write_text(json.dumps(record), "utf-8")
    result = read(copied / "compare/compare.json")
    for broken in ("{", json.dumps({"settings": {}}), "[]"):
        (copied / "compare/compare.json").write_text(broken, "utf-8")
        with pytest.raises(UserError, match=r"says nothing of directions: run `python -m rlhf.compare"):
            measure_directions(DirectionsOptions(run=copied))
    (copied / "compare/compare.json").write_text(json.dumps(result | {"directions": None}), "utf-8")
    with pytest.raises(UserError, match="has no directions: fine-tune it with some"):
        measure_directions(DirectionsOptions(run=copied))
    assert not (copied / "directions").exists()
    assert not (copied / ".directions.partial").exists()


def test_the_command_refuses_in_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "rlhf does not exist" in refused("rlhf.directions", "--run", tmp_path)
