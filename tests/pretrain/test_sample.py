"""`pretrain.sample --directions`: what is asked for is written at the prompt's last heading."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.console import UserError
from data.directions.specs import load_specs
from pretrain.sample import SampleOptions, told, unread

SPECS = load_specs("built-in")
CUE = "JULIET:\nWilt thou be gone?\n\n"


def options(prompt: str, directions: str | None) -> SampleOptions:
    return SampleOptions(checkpoint=Path("runs/demo/rlhf"), prompt=prompt, directions=directions)


@pytest.mark.parametrize(
    ("heading", "directions", "written"),
    [
        ("ROMEO:\n", "asking, in two lines", "ROMEO, asking, in two lines:\n"),
        ("ROMEO, asking:\n", "in two lines", "ROMEO, asking, in two lines:\n"),
        ("ROMEO, son of no one:\n", " beginning with Now ", "ROMEO, son of no one, beginning with Now:\n"),
        ("ROMEO, asking:\n", None, "ROMEO, asking:\n"),
        ("ROMEO", None, "ROMEO"),
    ],
)
def test_directions_are_written_at_the_last_heading(heading: str, directions: str | None, written: str) -> None:
    assert told(options(CUE + heading, directions), "built-in") == CUE + written


@pytest.mark.parametrize(
    ("prompt", "directions", "table", "message"),
    [
        ("ROMEO:\n", "weeping", "built-in", "knows no direction 'weeping'; it knows: asking, crying out"),
        ("ROMEO:\n", "asking, telling", "built-in", "exclude each other"),
        ("ROMEO, asking:\n", "telling", "built-in", "exclude each other"),
        ("ROMEO:", "asking", "built-in", r"a prompt that ends with a heading and a line break, .*ROMEO:\\n"),
        ("ROMEO:\nYes.", "asking", "built-in", "a prompt that ends with a heading"),
        ("ROMEO:\n", "asking", "none", "runs/demo/rlhf learned no directions"),
        ("ROMEO:\n", " , ", "built-in", "--directions is empty"),
        ("ROMEO:\n", "asking", "nowhere_at_all:SPECS", "no module 'nowhere_at_all'"),
    ],
)
def test_directions_that_cannot_be_given(prompt: str, directions: str, table: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        told(options(prompt, directions), table)
    assert "\n" not in str(caught.value)


def test_what_the_model_reads_as_plain_text_is_said() -> None:
    assert unread(CUE + "ROMEO, weeping, in two lines:\n", SPECS).startswith("the model knows no direction 'weeping': ")
    assert "exclude each other" in unread(CUE + "ROMEO, asking, telling:\n", SPECS)
    for prompt in ("ROMEO:\n", "ROMEO, asking:\n", "\n", "JULIET, weeping:\nNo.\n\nROMEO:\n", "Ay, sir"):
        assert unread(prompt, SPECS) == ""


def test_the_command_says_it_once_in_one_line(
    command: Callable[..., Any], refused: Callable[..., str], smoke_base: Path, tmp_path: Path
) -> None:
    """The table is named by the checkpoint's record; here one is put where sft would write it."""
    checkpoint = Path(shutil.copytree(smoke_base / "pretrain", tmp_path / "pretrain"))
    record = json.loads((checkpoint / "stage.json").read_text("utf-8"))
    record["config"]["directions"] = "built-in"
    (checkpoint / "stage.json").write_text(json.dumps(record), "utf-8")
    few = ("pretrain.sample", "--checkpoint", checkpoint, "--max-new-tokens", 4, "--prompt")
    done = command(*few, "ROMEO:\n", "--directions", "asking")
    assert done.stdout.startswith("ROMEO, asking:\n")
    assert done.stderr == ""
    done = command(*few, "ROMEO, weeping:\n")
    assert done.stdout.startswith("ROMEO, weeping:\n")
    assert done.stderr.splitlines() == [unread("ROMEO, weeping:\n", SPECS)]
    assert "knows no direction 'weeping'" in refused(*few, "ROMEO:\n", "--directions", "weeping")
