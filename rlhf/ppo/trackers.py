"""What is logged: numbers that hooks and callbacks add, and experiment trackers (tensorboard, wandb, trackio, …)."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from data.console import UserError
from data.jsonl import append_jsonl, read_appended, write_jsonl
from rlhf.ppo.config import PPOConfig

NAMES_RUNS = ("wandb", "trackio")
"""Trackers whose `init` takes a name for the run."""


def check_hooks(eval_hook: Any, callbacks: Any) -> None:
    """Raise UserError on what cannot be called as the trainer calls it."""
    if eval_hook is not None and not _takes(eval_hook, 1):
        raise UserError(f"eval_hook is a function (trainer) that returns a dict of numbers, not {eval_hook!r:.60}")
    if not (isinstance(callbacks, Sequence) and all(_takes(each, 2) for each in callbacks)):
        raise UserError(f"callbacks are a list of functions (trainer, metrics), not {callbacks!r:.60}")


def _takes(function: Any, count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not tell its parameters
        pass
    return True


def add_numbers(metrics: dict[str, float], added: Any, whose: str) -> None:
    """Put into `metrics` what a hook or callback adds, as Python's floats, of whatever library its numbers are.

    added: a mapping of names to numbers, or None. UserError for anything else; what is not a number is left out.
    """
    if added is not None and not isinstance(added, Mapping):
        raise UserError(f"{whose} returned {added!r:.60}: return a dict of numbers, or nothing")
    wrong = []
    for name, value in dict(added or {}).items():
        number = _number(value)
        if isinstance(name, str) and number is not None:
            metrics[name] = number
        else:
            metrics.pop(name, None)
            wrong.append(f"{name!r:.60}: {value!r:.60}")
    if wrong:
        raise UserError(f"{whose} gave {wrong[0]}, which is not a number by its name: give numbers only")


def _number(value: Any) -> float | None:
    """A number of Python, NumPy or torch as a float; None for what is none."""
    try:
        plain = value.item() if hasattr(value, "item") else value
        return None if isinstance(plain, str | bytes) else float(plain)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


class RolloutsFile:
    """A JSONL file of one line per episode; what an earlier run, or updates that are done again, wrote is dropped."""

    def __init__(self, path: Path) -> None:
        self.path, self._begun = path, False

    def write(self, updates_done: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the episodes of the update after so many; UserError where they cannot be written."""
        try:
            if not self._begun:
                write_jsonl(self.path, [row for row in read_appended(self.path) if row["update"] <= updates_done])
                self._begun = True
            append_jsonl(self.path, *({"update": updates_done + 1, **row} for row in rows))
        except OSError as error:
            raise UserError(f"cannot write to {self.path} ({error.strerror}): free some space") from error


def log_samples(accelerator: Accelerator, samples: Sequence[Mapping[str, Any]], step: int) -> None:
    """A table of samples in every tracker that shows one: as a table, in tensorboard as Markdown text."""
    if not (samples and accelerator.is_main_process):
        return
    columns, data = list(samples[0]), [[str(value) for value in sample.values()] for sample in samples]
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_table"):
            tracker.log_table("samples", columns=columns, data=data, step=step)
        elif tracker.name == "trackio":
            import pandas as pd
            import trackio

            table = trackio.Table(dataframe=pd.DataFrame(data, columns=columns))
            tracker.log({"samples": table}, step=step)
        elif tracker.name == "tensorboard":
            cells = [columns, ["---"] * len(columns), *([_cell(text) for text in row] for row in data)]
            tracker.tracker.add_text("samples", "\n".join(f"| {' | '.join(row)} |" for row in cells), step)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def check_trackers(config: PPOConfig) -> None:
    """Raise UserError on a tracker that accelerate does not know, that is not installed, or has nowhere to write."""
    for name in config.report_to:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UserError(f"report_to names {name!r}: choose from {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
        if name not in [str(tracker) for tracker in get_available_trackers()]:
            raise UserError(f"report_to names {name}, which is not installed: pip install {name.replace('_', '-')}")
        if LOGGER_TYPE_TO_CLASS[name].requires_logging_directory and config.output_dir is None:
            raise UserError(f"report_to names {name}, which writes to a folder: set output_dir")


def start_trackers(accelerator: Accelerator, config: PPOConfig, updates_done: int) -> None:
    """Begin a run in every tracker, with the settings as its hyperparameters."""
    plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in asdict(config).items()}
    options: dict[str, dict[str, object]] = {}
    if config.run_name is not None:
        options |= {name: {"name": config.run_name} for name in NAMES_RUNS}
    if updates_done:
        options["tensorboard"] = {"purge_step": updates_done + 1}  # what came after the state that was resumed
    accelerator.init_trackers(config.project, plain, options)


def finish_trackers(accelerator: Accelerator) -> None:
    """Close every tracker; the next update would begin a new run."""
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers.clear()
