"""Saving and restoring PPO so that a resumed run is the run that was not interrupted, to the bit on a CPU.

A state folder holds `state.pt` (what all processes share) and `random_RANK.pt` (what is each process's own).
"""

import hashlib
import pickle
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from data.console import UserError
from rlhf.ppo.adapters import describe, trainable

if TYPE_CHECKING:
    from rlhf.ppo.trainer import PPOTrainer

VERSION = 3
FREE_SETTINGS = {
    *("output_dir", "save_every", "eval_every", "log_samples", "report_to", "project", "run_name"),
    *("micro_batch_size", "cpu", "device"),
}
"""Settings that a resumed run may change: they do not alter what is learned."""


def make_folder(folder: str | Path) -> None:
    """Make a folder to save into, and those around it; UserError where there can be none."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot save into {folder} ({error.strerror}): choose another folder") from error


def save_state(trainer: "PPOTrainer", folder: str | Path) -> None:
    """Write the whole training state to `folder`, which is replaced only when the new one is complete."""
    folder = Path(folder)
    partial, old = _partial(folder), _old(folder)
    accelerator = trainer.accelerator
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        make_folder(folder if folder.exists() else folder.parent)  # a file that stands there is not replaced
        partial.mkdir()
    accelerator.wait_for_everyone()
    torch.save(_random_state(trainer), partial / f"random_{accelerator.process_index}.pt")
    if accelerator.is_main_process:
        torch.save(_shared_state(trainer), partial / "state.pt")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def load_state(trainer: "PPOTrainer", folder: str | Path) -> None:
    """Put `trainer` where `save_state` left it. UserError if the state belongs to another run."""
    folder = Path(folder)
    if not folder.exists() and _old(folder).exists():
        # Killed between the two renames: the previous state is whole, under its temporary name.
        folder = _old(folder)
    rank = trainer.accelerator.process_index
    shared, own = _read(folder / "state.pt"), _read(folder / f"random_{rank}.pt")
    _check(trainer, shared, folder)
    for network in ("policy", "value"):
        _restore_weights(getattr(trainer, network), shared[network], folder)
    trainer.learner.policy_optimizer.load_state_dict(shared["policy_optimizer"])
    trainer.learner.value_optimizer.load_state_dict(shared["value_optimizer"])
    trainer.kl_controller.coef = shared["kl_coef"]
    trainer.updates_done = shared["updates_done"]
    trainer.prompt_order.position = shared["prompt_position"]
    trainer.log_history = shared["log_history"]
    _restore_random(trainer, own)


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


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


def _settings(trainer: "PPOTrainer") -> dict[str, Any]:
    settings = {name: value for name, value in asdict(trainer.config).items() if name not in FREE_SETTINGS}
    return settings | {"peft_config": describe(trainer.peft_config)}


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """What is learned, and nothing that stays as it was: of a model with an adapter, the adapter."""
    return {name: weight.detach() for name, weight in trainable(module).items()}


def _fingerprint(module: nn.Module) -> str:
    """SHA-256 of about a thousand values of every weight: training changes them all."""
    digest = hashlib.sha256()
    for weight in module.parameters():
        digest.update(weight.detach().flatten()[:: weight.numel() // 1000 + 1].cpu().numpy().tobytes())
    return digest.hexdigest()


def _restore_weights(module: nn.Module, saved: dict[str, Tensor], folder: Path) -> None:
    own = _weights(module)
    if {name: weight.shape for name, weight in own.items()} != {name: weight.shape for name, weight in saved.items()}:
        raise UserError(f"{folder} is of a run on another model: give the same one, or start without resuming")
    for name, weight in own.items():
        weight.copy_(saved[name])


def _shared_state(trainer: "PPOTrainer") -> dict[str, Any]:
    return {
        "version": VERSION,
        "settings": _settings(trainer),
        "processes": trainer.accelerator.num_processes,
        "prompts": trainer.prompt_order.fingerprint,
        "reference": _fingerprint(trainer.reference),
        "policy": _weights(trainer.policy),
        "value": _weights(trainer.value),
        "policy_optimizer": trainer.learner.policy_optimizer.state_dict(),
        "value_optimizer": trainer.learner.value_optimizer.state_dict(),
        # The learning rates follow from the number of updates done.
        "updates_done": trainer.updates_done,
        "kl_coef": trainer.kl_controller.coef,
        "prompt_position": trainer.prompt_order.position,
        "log_history": trainer.log_history,
    }


def _check(trainer: "PPOTrainer", shared: dict[str, Any], folder: Path) -> None:
    if shared.get("version") != VERSION:
        raise UserError(f"{folder} was written by another version: start without resuming")
    if shared["processes"] != trainer.accelerator.num_processes:
        raise UserError(
            f"{folder} is of a run on {shared['processes']} processes, this one has "
            f"{trainer.accelerator.num_processes}: launch as many as before"
        )
    if shared["prompts"] != trainer.prompt_order.fingerprint:
        raise UserError(f"{folder} is of a run on other prompts: give the same ones, or start without resuming")
    if shared["reference"] != _fingerprint(trainer.reference):
        raise UserError(
            f"{folder} is of a run from another policy or reference: give the models that it began with, or start "
            "without resuming"
        )
    for name, value in _settings(trainer).items():
        if shared["settings"].get(name) != value:
            raise UserError(
                f"{folder} is of a run with {name}={shared['settings'].get(name)}, this one has {value}: "
                "use the same settings, or start without resuming"
            )


def _random_state(trainer: "PPOTrainer") -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "sampler": trainer.sampler.get_state(),
        "shuffler": trainer.shuffler.get_state(),
        "torch": torch.get_rng_state(),
        "python": [version, list(numbers), gauss],
        "numpy": [str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
    }
    if trainer.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random(trainer: "PPOTrainer", state: dict[str, Any]) -> None:
    trainer.sampler.set_state(state["sampler"])
    trainer.shuffler.set_state(state["shuffler"])
    torch.set_rng_state(state["torch"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    if "cuda" in state and trainer.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"])
