"""What every stage's command takes, and how it reads its preset."""

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import tyro

from data.console import UserError
from data.jsonl import with_home

RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "counts": ("must be at least 1", lambda value: value >= 1),
    "positive": ("must be positive", lambda value: value > 0),
    "not_negative": ("must not be negative", lambda value: value >= 0),
    "shares": ("must be between 0 and 1", lambda value: 0 <= value <= 1),
    "rates": ("must be in [0, 1)", lambda value: 0 <= value < 1),
    "seeds": ("must be from 0 to 2^64 - 1", lambda value: 0 <= value < 2**64),
}


@dataclass(kw_only=True)
class StageOptions:
    """What every stage's command takes."""

    run: Path = Path("runs/default")
    """Folder of the run; every stage has a folder in it."""
    seed: int = 1
    """Seed of everything random in this stage."""
    overwrite: bool = False
    """Replace a finished or unfinished stage of that name."""
    resume: bool = False
    """Continue a stage that was stopped, with the same settings."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the stage computes: auto is a CUDA GPU where there is one, otherwise the CPU."""
    into: tyro.conf.Suppress[Path | None] = None
    """Folder that gets the stage, where that is not the run: a taste has stages of its own."""

    how: ClassVar[tuple[str, ...]] = ("run", "overwrite", "resume", "device", "into")
    """Options that only say where and how a stage runs; they are not settings."""


@dataclass(kw_only=True)
class BatchOptions:
    """What a stage takes that steps on batches."""

    batch_size: int = 16
    """Rows per optimizer step, over all processes."""
    micro_batch_size: int | None = None
    """Rows per forward and backward pass of one process; fewer than the batch accumulates gradients."""

    @property
    def rows_per_step(self) -> int:
        """Rows that one optimizer step learns from, over all processes."""
        return self.batch_size

    def micro_batches(self, processes: int) -> tuple[int, int]:
        """(rows per forward pass, forward passes per step) of each of `processes`; UserError if they do not fit."""
        share, rest = divmod(self.rows_per_step, processes)
        if rest or share == 0:
            raise UserError(f"a step's batch of {self.rows_per_step} is not divisible by {processes} processes")
        micro = share if self.micro_batch_size is None else min(self.micro_batch_size, share)
        check_ranges(self, counts="micro_batch_size")
        if share % micro:
            raise UserError(
                f"a process's batch of {share} is not divisible by micro_batch_size {micro}: change one of them"
            )
        return micro, share // micro


Config = TypeVar("Config", bound=StageOptions)
Options = TypeVar("Options")


def preset_command(presets: dict[str, tuple[str, Config]], description: str | None) -> tuple[Config, str]:
    """The configuration that `PRESET [--field value …]` asks for, and the preset's name."""
    if not any(hasattr(config, "directions") for _, config in presets.values()):
        refuse_directions()
    first = next(iter(sys.argv[1:]), "")
    if not first.startswith("-") and first not in presets:
        raise unknown("preset", first, presets)
    config = tyro.extras.overridable_config_cli(presets, prog=_program(), description=description)
    return _ready(config), next(argument for argument in sys.argv[1:] if argument in presets)


def command_line(kind: type[Options], description: str | None) -> Options:
    """The options that a command line gives, ready to use."""
    return _ready(tyro.cli(kind, prog=_program(), description=description))


def unknown(kind: str, name: str, names: Iterable[str]) -> UserError:
    """The error of a name that is none of `names`: with the nearest one, and all of them. "" where none is given."""
    names = list(names)
    nearest = get_close_matches(name, names, n=1, cutoff=0.5)
    meant = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    wrong = f"there is no {kind} {name!r}{meant}" if name else f"no {kind} is given"
    return UserError(f"{wrong}: choose one of {', '.join(names)}")


def _program() -> str | None:
    """How the running command is called, in the usage line of its help."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else None


def _ready(options: Options) -> Options:
    """The same options with home folders in the place of `~`; UserError for a seed that cannot be one."""
    for name, value in vars(options).items():
        if isinstance(value, Path):
            object.__setattr__(options, name, with_home(value))  # some are frozen
    if hasattr(options, "seed"):
        check_ranges(options, seeds="seed")
    return options


def refuse_directions() -> None:
    """Raise UserError where the command line gives a stage directions whose run has its own."""
    if any(argument.partition("=")[0] == "--directions" for argument in sys.argv[1:]):
        raise UserError(
            "--directions is a setting of sft, and every later stage takes the table of its run's sft: leave it out, "
            "or start a run with `python -m sft PRESET --directions …`"
        )


def check_ranges(options: object, **names: str) -> None:
    """Raise UserError where a setting is outside its range; `names`, by range, have spaces between them.

    A setting that is None is not checked.
    """
    for kind, listed in names.items():
        words, holds = RANGES[kind]
        for name in listed.split():
            value = getattr(options, name)
            if value is not None and not holds(value):
                raise UserError(f"{name} {words}, but is {value}")


def check_name(kind: str, name: str) -> str:
    """`name`, if it can name a file or folder and nothing outside of its parent; UserError otherwise."""
    if not re.fullmatch(r"\w[\w .-]{0,63}", name) or name.endswith((".", " ")):
        raise UserError(
            f"{kind} {name[:64]!r}: use 1 to 64 letters, digits, spaces, '-', '_' or '.', a letter or digit first"
        )
    return name


def settings(options: StageOptions) -> dict[str, Any]:
    """A stage's configuration without what only says where and how it runs."""
    values = {name: value for name, value in asdict(options).items() if name not in options.how}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
