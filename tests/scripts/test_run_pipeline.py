"""The script of all stages, with a program that only writes down how it was called in the place of Python."""

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "run_pipeline.sh"


def run(folder: Path, *arguments: str) -> str:
    """What the script says."""
    python = folder / "python"
    python.write_text('#!/bin/sh\necho "$PWD|$PYTHONPATH|$PYTHONSAFEPATH|$*" >> calls\n')
    python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SEED", "LAUNCH")}
    command = [str(SCRIPT), *arguments]
    environment["PYTHON"] = str(python)
    return subprocess.run(command, cwd=folder, env=environment, check=True, stderr=subprocess.PIPE, text=True).stderr


def called(folder: Path, *arguments: str) -> list[str]:
    run(folder, *arguments)
    return (folder / "calls").read_text().splitlines()


def test_it_ends_by_naming_the_report_and_the_stage_to_play_on(tmp_path: Path) -> None:
    report, play = run(tmp_path, "smoke", "mine").splitlines()[-2:]
    assert report == "report: mine/compare/report.html"
    assert play == f"play with the models: {tmp_path}/python -m rlhf.play --run mine"


def test_run_and_corpus_are_where_the_user_says_seen_from_where_the_user_stands(tmp_path: Path) -> None:
    begun = f"{tmp_path}|{SCRIPT.parents[1]}|1|-m"
    assert called(tmp_path, "smoke", "mine", "my.txt") == [
        f"{begun} pretrain smoke --corpus my.txt --run mine",
        *(f"{begun} {stage} smoke --run mine" for stage in ("sft", "reward", "rlhf")),
        f"{begun} rlhf.compare --run mine",
    ]


def test_what_is_finished_is_kept_and_what_is_begun_is_resumed(tmp_path: Path) -> None:
    for file in ("mine/pretrain/stage.json", "mine/.sft.partial/settings.json"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    calls = [call.split("|-m ")[-1].split("|")[-1] for call in called(tmp_path, "smoke", "mine")]
    assert [call.removeprefix("-m ") for call in calls][:2] == [
        "sft smoke --run mine --resume",
        "reward smoke --run mine",
    ]


def test_the_project_is_found_from_anywhere_and_however_the_script_is_called(tmp_path: Path) -> None:
    """By a link to it, with CDPATH set, and with a Python whose path holds a space."""
    folder = tmp_path / "my folder"
    (folder / "scripts").mkdir(parents=True)
    link = folder / "scripts" / "pipeline"
    link.symlink_to(SCRIPT)
    python = folder / "python"
    python.write_text('#!/bin/sh\necho "$PYTHONPATH|$*" >> "$HOME/calls"\n')
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHON": str(python), "CDPATH": str(tmp_path)}
    subprocess.run(
        ["scripts/pipeline", "smoke", "~/mine"], cwd=folder, env=environment, check=True, capture_output=True
    )
    first, *_ = (folder / "calls").read_text().splitlines()
    assert first == f"{SCRIPT.parents[1]}|-m pretrain smoke --corpus auto --run {folder}/mine"
