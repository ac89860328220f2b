"""The script of all stages, with a program that only writes down how it was called in the place of Python."""

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "run_pipeline.sh"


def called(folder: Path, *arguments: str, script: str = str(SCRIPT), **environment: str) -> str:
    """How the script calls Python when it is run in `folder`."""
    python = folder / "python"
    python.write_text('#!/bin/sh\necho "$PWD|$PYTHONPATH|$PYTHONSAFEPATH|$*"\n')
    python.chmod(0o755)
    environment |= {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHON": str(python)}
    done = subprocess.run(
        [script, *arguments], cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()


def test_run_and_corpus_are_where_the_user_says_seen_from_where_the_user_stands(tmp_path: Path) -> None:
    begun = f"{tmp_path}|{SCRIPT.parents[1]}|1|-m rlhf.pipeline"
    assert called(tmp_path, "smoke", "mine", "my.txt") == f"{begun} smoke --run mine --corpus my.txt"


def test_seed_and_launcher_are_taken_from_the_environment(tmp_path: Path) -> None:
    call = called(tmp_path, "smoke", "mine", SEED="4", LAUNCH="accelerate launch")
    assert call.endswith("--run mine --corpus auto --seed 4 --launch accelerate launch")


def test_the_project_is_found_from_anywhere_and_however_the_script_is_called(tmp_path: Path) -> None:
    """By a link to it, with CDPATH set, and with a Python whose path holds a space."""
    folder = tmp_path / "my folder"
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "pipeline").symlink_to(SCRIPT)
    call = called(folder, "smoke", "~/mine", script="scripts/pipeline", CDPATH=str(tmp_path))
    assert call == f"{folder}|{SCRIPT.parents[1]}|1|-m rlhf.pipeline smoke --run ~/mine --corpus auto"
