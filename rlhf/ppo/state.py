"""Saving and restoring a training state so that a resumed run is the run that was not interrupted.

A state folder holds `state.pt` (what all processes share) and `random_RANK.pt` (what is each process's own): two
dicts, of which the trainer says what is in them.
"""

import hashlib
import json
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from data.console import UserError
from data.jsonl import with_home
from rlhf.ppo.adapters import trainable
from rlhf.ppo.config import PPOConfig

VERSION = 5
FREE_SETTINGS = {
    *("output_dir", "save_every", "eval_every", "log_samples", "report_to", "project", "run_name"),
    *("save_best", "save_rollouts"),
    *("micro_batch_size", "cpu", "device"),
}
"""Settings that a resumed run may change: they do not alter what is learned."""


def make_folder(folder: str | Path) -> None:
    """Make a folder to save into, and those around it; UserError where there can be none."""
    try:
        with_home(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot save into {folder} ({error.strerror}): choose another folder") from error


def save(folder: str | Path, accelerator: Accelerator, shared: dict[str, Any], own: dict[str, Any]) -> None:
    """Write a training state to `folder`, which is replaced only when the new one is complete.

    shared: what all processes share, written by the first. own: this process's. Every process must call it.
    """
    folder = with_home(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        make_folder(folder if folder.exists() else folder.parent)  # a file that stands there is not replaced
        partial.mkdir()
    accelerator.wait_for_everyone()
    torch.save(own, partial / f"random_{accelerator.process_index}.pt")
    if accelerator.is_main_process:
        torch.save(shared | {"version": VERSION}, partial / "state.pt")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _put_in_place(partial, folder)
    accelerator.wait_for_everyone()


def replaced(folder: Path, accelerator: Accelerator, write: Callable[[Path], None]) -> None:
    """Have `write` (in the main process) fill a folder, which takes the place of an older one when it is whole."""
    if accelerator.is_main_process:
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        write(partial)
        _put_in_place(partial, folder)
    accelerator.wait_for_everyone()


def _put_in_place(partial: Path, folder: Path) -> None:
    old = _old(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: str | Path, rank: int, identity: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(shared, own) of process number `rank`, as `save` was given them.

    identity: the entries of `shared` that must be the same; see `identity`. UserError where the state is missing,
    damaged or of another run.
    """
    if not isinstance(folder, str | Path):
        raise UserError(
            f"resume_from is {folder!r}: give the folder that save_state wrote (save_every: OUTPUT_DIR/resume)"
        )
    folder = with_home(folder)
    if not folder.exists() and _old(folder).exists():
        # Killed between the two renames: the previous state is whole, under its temporary name.
        folder = _old(folder)
    shared, own = _read(folder / "state.pt"), _read(folder / f"random_{rank}.pt")
    if shared.get("version") != VERSION:
        raise UserError(f"{folder} was written by another version: start without resuming")
    before, now = shared["processes"], identity["processes"]
    of_another_run = {
        "processes": f"on {before} processes, this one has {now}: launch as many as before",
        "prompts": "on other prompts: give the same ones, or start without resuming",
        "reference": "from another policy or reference: give the models that it began with, or start without resuming",
    }
    for name, words in of_another_run.items():
        if shared[name] != identity[name]:
            raise UserError(f"{folder} is of a run {words}")
    for name, value in identity["settings"].items():
        if (saved := shared["settings"].get(name)) != value:
            raise UserError(
                f"{folder} is of a run with {name}={saved}, this one has {value}: use the same settings, or start "
                "without resuming"
            )
    return shared, own


def identity(config: PPOConfig, peft_config: Any, processes: int, prompts: str, reference: nn.Module) -> dict[str, Any]:
    """What makes a run the same run; prompts: their fingerprint."""
    settings = {name: value for name, value in asdict(config).items() if name not in FREE_SETTINGS}
    adapter = None if peft_config is None else json.dumps(peft_config.to_dict(), sort_keys=True, default=sorted)
    return {
        "settings": settings | {"peft_config": adapter},
        "processes": processes,
        "prompts": prompts,
        "reference": _fingerprint(reference),
    }


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"no training state at {path}: give the folder that save_state wrote (save_every: OUTPUT_DIR/resume), or "
            "start without resuming"
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged: start without resuming") from error


def _fingerprint(module: nn.Module) -> str:
    """SHA-256 of about a thousand values of every weight: training changes them all."""
    digest = hashlib.sha256()
    for weight in module.parameters():
        digest.update(weight.detach().flatten()[:: weight.numel() // 1000 + 1].cpu().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def restore_weights(module: nn.Module, saved: dict[str, Tensor], folder: str | Path) -> None:
    """Give a module the weights that were `trainable` in it; UserError where they are another model's."""
    own = trainable(module)
    if {name: weight.shape for name, weight in own.items()} != {name: weight.shape for name, weight in saved.items()}:
        raise UserError(f"{folder} is of a run on another model: give the same one, or start without resuming")
    for name, weight in own.items():
        weight.copy_(saved[name])


def random_state(device: torch.device) -> dict[str, Any]:
    """Where the random numbers of Python, NumPy and torch stand in this process."""
    kind, keys, *rest = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random(state: dict[str, Any], device: torch.device) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"])
