"""The base course through its real command line, as a user would run it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
REPOSITORY = Path(__file__).resolve().parents[2]


def test_sample_writes_as_many_texts_as_asked_and_the_same_again(command: Run, smoke_base: Path) -> None:
    arguments = ["pretrain.sample", "--checkpoint", smoke_base / "pretrain", "--prompt", "A KING:\n"]
    arguments += ["--num-samples", 3, "--max-new-tokens", 30, "--temperature", 0.8, "--seed", 1]
    first = command(*arguments).stdout
    assert first.count("A KING:\n") >= 3
    assert command(*arguments).stdout == first
    assert command(*arguments[:-1], 2).stdout != first


def test_evaluate_prints_one_json_object_that_agrees_with_the_stage(command: Run, smoke_base: Path) -> None:
    printed = json.loads(command("pretrain.evaluate", "--checkpoint", smoke_base / "pretrain").stdout)
    assert set(printed) == {"bits_per_char", "nats_per_char", "split", "tokens", "chars"}
    record = json.loads((smoke_base / "pretrain" / "stage.json").read_text())
    assert printed["bits_per_char"] == pytest.approx(record["results"]["bits_per_char"], abs=0.01)
    assert printed["split"] == "validation"


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python in which trl, transformers and datasets cannot be found."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "def find_spec(name, path=None, target=None):\n"
        "    absent = name.split('.')[0] in ('trl', 'transformers', 'datasets')\n"
        "    return None if absent else find(name, path, target)\n"
        "PathFinder.find_spec = staticmethod(find_spec)\n"
    )
    return {"PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}"}


def test_the_base_course_alone(command: Run, bare: dict[str, str], tmp_path: Path) -> None:
    def python(code: str) -> str:
        run = [sys.executable, "-c", code]
        return subprocess.run(run, cwd=REPOSITORY, env=os.environ | bare, capture_output=True, text=True).stderr

    assert "ModuleNotFoundError" in python("import transformers")
    sources = [path for package in ("data", "pretrain") for path in (REPOSITORY / package).rglob("*.py")]
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in sources]
    assert python("import " + ", ".join(names)) == ""
    command("pretrain", "smoke", "--corpus", "pastiche", "--steps", 4, "--run", tmp_path, **bare)
    folder = tmp_path / "pretrain"
    assert json.loads(command("pretrain.evaluate", "--checkpoint", folder, **bare).stdout)["chars"] > 0
    assert command("pretrain.sample", "--checkpoint", folder, "--max-new-tokens", 5, **bare).stdout


def test_same_command_same_bits(command: Run, smoke_base: Path, tmp_path: Path) -> None:
    command("pretrain", "smoke", "--corpus", "pastiche", "--run", tmp_path / "again")
    weights = "pretrain/model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (smoke_base / weights).read_bytes()


@pytest.mark.slow
def test_two_processes_train_one_model(command: Run, tmp_path: Path) -> None:
    """The same commands on many devices: gradients are averaged, one checkpoint is written."""
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0]
    settings = ["--corpus", "pastiche", "--steps", 6, "--precision", "fp32", "--sample-tokens", 5]
    both = command(*launch, "-m", "pretrain", "smoke", *settings, "--run", tmp_path / "two")
    assert "in 2 processes" in both.stderr.replace("\n", " ")
    command("pretrain", "smoke", *settings, "--run", tmp_path / "one")
    one, two = (
        json.loads((tmp_path / run / "pretrain" / "stage.json").read_text())["results"]["nats_per_char"]
        for run in ("one", "two")
    )
    assert two == pytest.approx(one, abs=2e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--corpus", "no/such/file.txt"], "no/such/file.txt"),
        (["--heads", "5"], "not divisible by 5 heads"),
        (["--micro-batch-size", "3"], "not divisible"),
        (["--resume"], "nothing to resume"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    refused: Run, tmp_path: Path, arguments: list[str], words: str
) -> None:
    given = arguments if "--corpus" in arguments else ["--corpus", "pastiche", *arguments]
    assert words in refused("pretrain", "smoke", "--run", tmp_path / "run", *given)
    assert not (tmp_path / "run").exists()


def test_not_utf8_and_too_short(refused: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"good so far \xff\xfe")
    assert "not UTF-8 at byte 12" in refused("pretrain", "smoke", "--corpus", bad, "--run", tmp_path / "run")
    bad.write_text("A KING:\nGood night.\n" * 8)
    assert "too short" in refused("pretrain", "smoke", "--corpus", bad, "--run", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_finished_stage_is_kept(refused: Run, smoke_base: Path) -> None:
    before = (smoke_base / "pretrain" / "stage.json").read_bytes()
    assert "--overwrite" in refused("pretrain", "smoke", "--corpus", "pastiche", "--run", smoke_base)
    assert (smoke_base / "pretrain" / "stage.json").read_bytes() == before


def test_a_changed_checkpoint_is_refused(refused: Run, smoke_base: Path, tmp_path: Path) -> None:
    shutil.copytree(smoke_base, tmp_path / "copy")
    weights = tmp_path / "copy" / "pretrain" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    assert "changed or truncated" in refused("pretrain.sample", "--checkpoint", tmp_path / "copy" / "pretrain")
    assert "changed or truncated" in refused("pretrain.evaluate", "--checkpoint", tmp_path / "copy" / "pretrain")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--top-p", "0"], "--top-p"), (["--temperature", "-1"], "--temperature"), (["--prompt", ""], "--prompt")],
)
def test_sampling_settings_out_of_range(refused: Run, smoke_base: Path, arguments: list[str], words: str) -> None:
    assert words in refused("pretrain.sample", "--checkpoint", smoke_base / "pretrain", *arguments)


def test_a_full_disk_is_one_line_and_resume_goes_on(command: Run, tmp_path: Path) -> None:
    """The disk is full when the first checkpoint is written."""
    arguments = ["pretrain", "smoke", "--corpus", "pastiche", "--run", tmp_path / "run"]
    code = (
        "import errno, runpy, sys, pretrain.train as t\n"
        "real = t.save_model\n"
        "def full(*a): raise OSError(errno.ENOSPC, 'No space left on device', 'model.safetensors')\n"
        "t.save_model = full\n"
        f"sys.argv = {[str(part) for part in arguments]!r}\n"
        "runpy.run_module('pretrain', run_name='__main__')\n"
    )
    script = tmp_path / "full.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2
    assert "error: No space left on device" in done.stderr
    assert not (tmp_path / "run" / "pretrain").exists()
    command(*arguments, "--resume")
    assert (tmp_path / "run" / "pretrain" / "stage.json").exists()
