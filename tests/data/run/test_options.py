"""What the commands share: settings, and batches that are split."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from data.console import UserError
from data.run.options import BatchOptions, StageOptions, check_name, command_line, settings


@dataclass(kw_only=True)
class Study(StageOptions):
    data: Path = Path("a/b")
    workers: int = 2

    how: ClassVar[tuple[str, ...]] = (*StageOptions.how, "workers")


def test_settings_are_without_where_and_how_a_stage_runs() -> None:
    assert settings(Study(run=Path("x"), resume=True, device="cpu", workers=7)) == {"seed": 1, "data": "a/b"}


def test_a_batch_is_split_over_processes_and_forward_passes() -> None:
    def split(batch: int, micro: int | None, processes: int) -> tuple[int, int]:
        return BatchOptions(batch_size=batch, micro_batch_size=micro).micro_batches(processes)

    assert split(32, None, 1) == (32, 1)
    assert split(32, 8, 1) == (8, 4)
    assert split(32, 8, 2) == (8, 2)
    assert split(32, 24, 2) == (16, 1), "a process's share is the most that fits"
    for batch, micro, processes, words in (
        (32, 5, 1, "batch of 32 is not divisible by micro_batch_size 5"),
        (32, 8, 3, "batch of 32 is not divisible by 3 processes"),
        (0, None, 1, "not divisible"),
        (32, 0, 1, "at least 1"),
    ):
        with pytest.raises(UserError, match=words):
            split(batch, micro, processes)


@pytest.mark.parametrize("name", ["mine", "Ada L", "v1.2", "Zoë", "a" * 64])
def test_a_name_of_letters_names_a_file(name: str) -> None:
    assert check_name("annotator", name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../up",
        "a/b",
        "a\\b",
        ".hidden",
        "-rf",
        "a\0b",
        "a\nb",
        "end.",
        "end ",
        "a" * 65,
        "<b>",
        "\u202ename",
    ],
)
def test_a_name_that_is_a_path_or_no_word_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="annotator"):
        check_name("annotator", name)


def test_a_later_stages_directions_are_refused_in_one_line(
    refused: Callable[..., str], command: Callable[..., Any]
) -> None:
    for stage in ("reward", "rlhf"):
        assert "--directions is a setting of sft" in refused(stage, "smoke", "--directions", "none")
    assert "--directions is a setting of sft" in refused("rlhf", "smoke", "--directions=none")
    assert "--directions" in command("sft", "smoke", "--help").stdout


@dataclass(frozen=True)
class Look:
    out: Path | None = None
    """Where to write."""
    seed: int = 1
    """Seed."""


def test_a_command_line_knows_home_and_what_a_seed_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")

    def read(kind: type[Any], *arguments: str) -> Any:
        monkeypatch.setattr("sys.argv", ["command", *arguments])
        return command_line(kind, None)

    assert read(Study, "--run=~/mine", "--data", "~nobody/x").run == Path("/home/ada/mine")
    assert read(Study, "--data", "~nobody-by-this-name/x").data == Path("~nobody-by-this-name/x")
    assert read(Look, "--out", "~", "--seed", str(2**64 - 1)) == Look(Path("/home/ada"), 2**64 - 1)
    for kind in (Study, Look):
        for seed in (-1, 2**64):
            with pytest.raises(UserError, match=rf"^seed must be from 0 to 2\^64 - 1, but is {seed}$"):
                read(kind, "--seed", str(seed))
