"""One name at the terminal: it lists every command and runs it."""

import importlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rlhf import cli

ROOT = Path(__file__).resolve().parents[2]

# One process for all of them: each imports torch, and some transformers.
RUN = """
import contextlib, io, json, sys
from rlhf import cli
ends = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["shakespeare-rlhf", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    ends.append((out.getvalue(), err.getvalue(), code or 0))
print(json.dumps(ends))
"""
REFUSED = {
    "pretran": "there is no command 'pretran' (did you mean 'pretrain'?): choose one of data, pretrain, ",
    "rlhf.compar": "there is no command 'rlhf.compar' (did you mean 'compare'?): choose one of ",
    "pretrain latpop": "there is no preset 'latpop' (did you mean 'laptop'?): choose one of smoke, laptop, ",
    "reward.following tiny": "there is no preset 'tiny': choose one of smoke, laptop, gpu",
    "sft": "no preset is given: choose one of smoke, laptop, gpu",
    "rlhf smoke --algorithm ppoo": "there is no algorithm 'ppoo' (did you mean 'ppo'?): choose one of ppo, rloo",
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, int]]:
    """Arguments -> (stdout, stderr, exit code) of `shakespeare-rlhf` with them."""
    lines = ["", "--help", *(f"{name} --help" for name in cli.COMMANDS), *REFUSED, "data --corpus own.txt"]
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.txt").write_text("A:\nGood morrow.\n\nB:\nGood night.\n")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, json.dumps([line.split() for line in lines])],
        cwd=folder,
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(lines, json.loads(done.stdout), strict=True))


def test_the_console_script_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, name = project["scripts"]["shakespeare-rlhf"].split(":")
    assert getattr(importlib.import_module(module), name) is cli.main


def test_every_command_is_listed(ends: dict[str, tuple[str, str, int]]) -> None:
    """Every module that can be run; parts of the product that are none do not call `run_command`."""
    runnable = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for package in ("data", "pretrain", "sft", "reward", "rlhf")
        for path in (ROOT / package).rglob("*.py")
        if "    run_command(" in path.read_text("utf-8").partition('if __name__ == "__main__":')[2]
    }
    assert {command.module for command in cli.COMMANDS.values()} == runnable
    assert ends[""] == ends["--help"]
    for name, command in cli.COMMANDS.items():
        assert f"\n  {name} " in ends[""][0]
        assert f" {command.summary}\n" in ends[""][0]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_opens_with_what_a_command_reads_does_and_writes(ends: dict[str, tuple[str, str, int]], name: str) -> None:
    out, _, code = ends[f"{name} --help"]
    opening = out.partition("╭")[0]
    assert code == 0
    assert opening.startswith(f"usage: python -m {cli.COMMANDS[name].module} ")
    places = [opening.find(f"\n{word}: ") for word in ("Reads", "Does", "Writes")]
    assert -1 < places[0] < places[1] < places[2], opening


@pytest.mark.parametrize("arguments", REFUSED)
def test_a_wrong_name_is_one_line_with_the_nearest(ends: dict[str, tuple[str, str, int]], arguments: str) -> None:
    _, err, code = ends[arguments]
    [line] = err.splitlines()
    assert line.startswith(f"error: {REFUSED[arguments]}")
    assert code == 2


def test_a_command_gets_its_arguments(ends: dict[str, tuple[str, str, int]]) -> None:
    assert "corpus  " in ends["data --corpus own.txt"][0]
    assert "own.txt" in ends["data --corpus own.txt"][0]
