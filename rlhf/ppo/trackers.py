"""Experiment trackers (tensorboard, wandb, trackio, …) through accelerate: every metric of every update."""

from dataclasses import asdict

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from data.console import UserError
from rlhf.ppo.config import PPOConfig

NAMES_RUNS = ("wandb", "trackio")
"""Trackers whose `init` takes a name for the run."""


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
