"""Saving and restoring a training state so that a resumed run is the run that was not interrupted.

A state folder holds `state.pt` (what all processes share) and `random_RANK.pt` (what is each process's own): two
dicts, of which the trainer says what is in them.
"""

import hashlib
import json
import pickle
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from data.console import UserError
from data.jsonl import with_home
from rlhf.ppo.config import PPOConfig
from sft.models.loading import first_line

VERSION = 5
FREE_SETTINGS = {
    *("output_dir", "save_every", "eval_every", "log_samples", "report_to", "project", "run_name"),
    *("save_best", "save_rollouts"),
    *("micro_batch_size", "cpu", "device", "gradient_checkpointing", "gather_for_generation"),
}
"""Settings that a resumed run may change: they do not alter what is learned."""
PARTS = "sharded"
"""Folder in a state of what is divided among processes."""
WEIGHTS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")
"""Files of transformers that hold weights, or say where they are."""


def make_folder(folder: str | Path) -> None:
    """Make a folder to save into, and those around it; UserError where there can be none, or nothing can be written."""
    try:
        with_home(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=with_home(folder)).close()
    except OSError as error:
        raise UserError(f"cannot save into {folder} ({error.strerror}): choose another folder") from error


def save(
    folder: str | Path,
    accelerator: Accelerator,
    shared: dict[str, Any],
    own: dict[str, Any],
    parts: Callable[[Path], None] | None = None,
) -> None:
    """Write a training state to `folder`, which is replaced only when the new one is complete.

    shared: what all processes share, written by the first. own: this process's. parts: writes, into a folder, this
    process's part of what is divided among them. Every process must call it, and each gets the UserError of one that
    cannot write.
    """
    folder = with_home(folder)
    partial, old = folder.with_name(f".{folder.name}.partial"), _old(folder)

    def make() -> None:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            make_folder(folder if folder.exists() else folder.parent)  # a file that stands there is not replaced
            partial.mkdir()

    def write() -> None:
        torch.save(own, partial / f"random_{accelerator.process_index}.pt")
        if parts is not None:
            parts(partial / PARTS)
        if accelerator.is_main_process:
            torch.save(shared | {"version": VERSION}, partial / "state.pt")

    def replace() -> None:
        if accelerator.is_main_process:
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old, ignore_errors=True)

    try:
        for step in (make, write, replace):
            together(step, folder)
    finally:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)  # it takes room on a full disk


def save_files(folder: str | Path, write: Callable[[Path], None], rescue: bool = False) -> None:
    """Let `write` make files, and put them into `folder` when all are there.

    UserError where it cannot be written. With `rescue` the files are then in a folder for temporary files, which the
    error names.
    """
    try:
        _write_whole(with_home(folder), write)
    except Exception as error:  # OSError, safetensors' own, and a plain Exception of tokenizers
        failure = _unsaved(error, folder)
        if rescue:
            other = Path(tempfile.mkdtemp(prefix=f"{with_home(folder).name}-"))
            try:
                _write_whole(other, write)
                failure = UserError(f"cannot save into {folder} ({_reason(error)}), so it is in {other}: move it")
            except Exception:
                shutil.rmtree(other, ignore_errors=True)
        raise failure from error


def _write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    make_folder(folder)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        write(partial)
        new = sorted(partial.iterdir())
        names = {path.name for path in new}
        for path in new:
            if path.is_dir():
                shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
            else:
                path.replace(folder / path.name)
        # Shards of a model that was there before would be read in the place of the new weights.
        if any(WEIGHTS.fullmatch(name) for name in names):
            for path in folder.iterdir():
                if WEIGHTS.fullmatch(path.name) and path.name not in names:
                    path.unlink()
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def keep_last_good(error: Exception, write: Callable[[Path], None], folder: Path) -> Exception:
    """Let `write` save what was learned before an error; the error, which now says where that is, or why it is not."""
    end = f"saved in {folder}"
    try:
        write(folder)
    except UserError as unsaved:
        end = str(unsaved)
    if isinstance(error, UserError):
        return type(error)(f"{error}; {end}")
    error.add_note(f"The policy is {end}." if end.startswith("saved") else end)
    return error


def together(action: Callable[[], None], folder: str | Path) -> None:
    """Run an action in every process; what fails in one is a UserError in all, so that none waits for another."""
    failure = None
    try:
        action()
    except Exception as error:
        failure = str(_unsaved(error, folder))
    failures = [each for each in gather_object([failure]) if each]
    if failures:
        raise UserError(failures[0])


def _unsaved(error: Exception, folder: str | Path) -> UserError:
    if isinstance(error, UserError):
        return error
    return UserError(f"cannot save into {folder} ({_reason(error)}): free some space or choose another folder")


def _reason(error: BaseException) -> str:
    """Why nothing can be written; of our own errors, what they came from."""
    error = error.__cause__ if isinstance(error, UserError) and error.__cause__ else error
    return getattr(error, "strerror", None) or first_line(error)


def load(folder: str | Path, rank: int, identity: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """(shared, own) of process number `rank`, as `save` was given them, and the folder of its parts.

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
    shared = _read(folder / "state.pt")
    if shared.get("version") != VERSION:
        raise UserError(f"{folder} was written by another version: start without resuming")
    before, now = shared["processes"], identity["processes"]
    if identity["settings"]["shard"] is not None:  # any number reads what another number wrote
        rank, identity = rank % before, identity | {"processes": before}
    own = _read(folder / f"random_{rank}.pt")
    of_another_run = {
        "processes": f"on {before} processes, this one has {now}: launch as many as before",
        "prompts": "on other prompts: give the same ones, or start without resuming",
        "reference": "from another policy or reference: give the models that it began with, or start without resuming",
    }
    for name, words in of_another_run.items():
        if shared[name] != identity[name]:
            raise UserError(f"{folder} is of a run {words}")
    for name, value in identity["settings"].items():
        if (saved := shared["settings"].get(name, getattr(PPOConfig, name, None))) != value:
            raise UserError(
                f"{folder} is of a run with {name}={saved}, this one has {value}: use the same settings, or start "
                "without resuming"
            )
    return shared, own, folder / PARTS


def identity(config: PPOConfig, peft_config: Any, processes: int, prompts: str, reference: str) -> dict[str, Any]:
    """What makes a run the same run; prompts, reference: their fingerprints."""
    settings = {name: value for name, value in asdict(config).items() if name not in FREE_SETTINGS}
    adapter = None if peft_config is None else json.dumps(peft_config.to_dict(), sort_keys=True, default=sorted)
    return {
        "settings": settings | {"peft_config": adapter},
        "processes": processes,
        "prompts": prompts,
        "reference": reference,
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


def fingerprint(module: nn.Module) -> str:
    """SHA-256 of about a thousand values of every weight: training changes them all."""
    digest = hashlib.sha256()
    for weight in module.parameters():
        digest.update(weight.detach().flatten()[:: weight.numel() // 1000 + 1].cpu().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def restore_weights(own: dict[str, Tensor], saved: dict[str, Tensor], folder: str | Path) -> None:
    """Give weights, by name, what was saved of them; UserError where they are another model's."""
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
