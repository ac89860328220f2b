"""All stages in sequence, with a launcher that only writes down how it was called in the place of the stages."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.console import UserError
from data.run.options import preset_command
from rlhf.algorithms.config import PRESETS
from rlhf.pipeline import PipelineOptions, run_stages

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    launcher = tmp_path / "launcher"
    launcher.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n[ "$2" != "$FAILS" ] || exit 3\n')
    launcher.chmod(0o755)
    return launcher


def called(options: PipelineOptions, calls: Path) -> list[str]:
    run_stages(options)
    return calls.read_text().splitlines()


def test_every_stage_in_sequence_with_the_seed_where_one_is_given(tmp_path: Path, launcher: Path) -> None:
    run = tmp_path / "mine"
    options = PipelineOptions(preset="smoke", run=run, corpus="my.txt", seed=0, launch=f"{launcher} -m")
    assert called(options, tmp_path / "calls") == [
        f"-m -m pretrain smoke --corpus my.txt --run {run} --seed 0",
        *(f"-m -m {stage} smoke --run {run} --seed 0" for stage in ("sft", "reward", "rlhf")),
        f"-m -m rlhf.compare --run {run} --seed 0",
    ]


def test_what_is_finished_is_kept_and_what_is_begun_is_resumed(
    tmp_path: Path, launcher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "mine"
    for file in ("pretrain/stage.json", ".sft.partial/settings.json"):
        (run / file).parent.mkdir(parents=True)
        (run / file).touch()
    options = PipelineOptions(preset="smoke", run=run, launch=str(launcher))
    first, second = called(options, tmp_path / "calls")[:2]
    assert first == f"-m sft smoke --run {run} --resume"
    assert second == f"-m reward smoke --run {run}"
    assert f"pretrain: finished before, kept ({run / 'pretrain'})" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "preset", "more"), [("pastiche", "laptop", True), ("mine", "laptop", False), ("pastiche", "smoke", False)]
)
def test_the_balance_of_the_preset_is_shakespeares(
    text: str, preset: str, more: bool, tmp_path: Path, launcher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.pipeline.read_stage", lambda folder: SimpleNamespace(corpus={"name": text}))
    options = PipelineOptions(preset=preset, run=tmp_path / "mine", launch=str(launcher))
    *others, rlhf, _ = called(options, tmp_path / "calls")
    assert ("--learning-rate 8e-4" in rlhf) == more
    assert not any("--learning-rate" in other for other in others)
    monkeypatch.setattr("sys.argv", rlhf.split()[1:])
    config, _ = preset_command(PRESETS, None)
    assert (config.craft_weight < PRESETS[preset][1].craft_weight) == more


def test_a_stage_that_fails_ends_the_pipeline_with_its_exit_code(
    tmp_path: Path, launcher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", "reward")
    options = PipelineOptions(preset="smoke", run=tmp_path / "mine", launch=str(launcher))
    with pytest.raises(SystemExit) as end:
        run_stages(options)
    assert end.value.code == 3
    assert [call.split()[1] for call in (tmp_path / "calls").read_text().splitlines()] == ["pretrain", "sft", "reward"]


def test_a_launcher_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--launch 'nowhere -n 2': there is no command 'nowhere'"):
        run_stages(PipelineOptions(preset="smoke", run=tmp_path, launch="nowhere -n 2"))


def test_a_preset_that_not_every_stage_has_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no preset 'lecture'.*laptop"):
        run_stages(PipelineOptions(preset="lecture", run=tmp_path))
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_forked_stage_is_the_stage_itself(tmp_path: Path, smoke_base: Path, command: Command) -> None:
    """The same weights to the bit, and the same line and exit code where a stage refuses."""
    weights: dict[str, Any] = {}
    for name in ("forked", "alone"):
        (tmp_path / name).mkdir()
        for file in ("pretrain", "corpus.txt"):
            (tmp_path / name / file).symlink_to(smoke_base / file)
    options = ("smoke", "--run", tmp_path / "forked")
    command("sft", "smoke", "--run", tmp_path / "alone")
    (tmp_path / "forked" / "reward").mkdir()  # refused as unfinished, so that the pipeline ends there
    done = command("rlhf.pipeline", *options, check=False)
    assert done.returncode == 2, done.stderr
    assert "error: " in done.stderr.splitlines()[-1]
    for name in ("forked", "alone"):
        record = json.loads((tmp_path / name / "sft" / "stage.json").read_text("utf-8"))
        weights[name] = record["weights_sha256"]
    assert weights["forked"] == weights["alone"]
