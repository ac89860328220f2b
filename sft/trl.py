"""What the stages that train with trl's trainers share: the arguments, the saved states, the lines of metrics."""

import json
import math
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

from data.console import UserError, is_main_process, wait_for_everyone
from data.run.folder import StageFolder
from data.run.progress import Bar
from pretrain.machine import cpu_kernels, short_seed


class TrainerSettings(Protocol):
    """Settings of a stage that every trainer takes."""

    learning_rate: float
    max_grad_norm: float
    seed: int


class PassSettings(Protocol):
    """Settings of a stage that makes passes over examples in an order of its own."""

    warmup_fraction: float
    adam_beta2: float
    log_every: int
    save_every: int


def trainer_arguments(
    config: TrainerSettings, output_dir: Path, batches: tuple[int, int], device: torch.device, bf16: bool
) -> dict[str, Any]:
    """Arguments of any of trl's trainers; `batches`: rows per forward pass, forward passes per step, of a process."""
    return {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": batches[0],
        "gradient_accumulation_steps": batches[1],
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "linear",
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": False,
        "bf16": bf16,  # trl's default is True, on processors without it too
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": device.type == "cuda",
        "ddp_find_unused_parameters": False,
        "seed": short_seed(config.seed),
        "logging_nan_inf_filter": False,  # StageCallback has to see them
        "save_total_limit": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }


def ordered_arguments(config: PassSettings, steps: int) -> dict[str, Any]:
    """More of them, where the examples come in order, all epochs in one row: each is taken as it is."""
    return {
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "max_length": None,
        "warmup_steps": round(config.warmup_fraction * steps),
        "optim": "adamw_torch",
        "adam_beta2": config.adam_beta2,
        "weight_decay": 0.0,
        "logging_steps": config.log_every,
        "save_steps": config.save_every,
    }


class StageCallback(TrainerCallback):
    """Moves the stage's bar and writes what the trainer logs to metrics.jsonl; `metrics` and `shown` choose of it."""

    def __init__(self, stage: StageFolder, bar: Bar) -> None:
        self.stage, self.bar = stage, bar

    def metrics(self, logs: dict[str, float]) -> dict[str, float]:
        """The metrics of a line, besides gradient norm and learning rate."""
        raise NotImplementedError

    def shown(self, logs: dict[str, float]) -> str | None:
        """What stands next to the bar from now on; None leaves it."""
        return None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.advance()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return  # the summary at the end
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["grad_norm"])):
            raise diverged(state.global_step)
        self.write(state.global_step, logs, kwargs["model"])

    def write(self, step: int, logs: dict[str, float], model: Any) -> None:
        """Write the line of a step."""
        metrics = self.metrics(logs) | {"gradient_norm": logs["grad_norm"]}
        rounded = {name: round(value, 5) for name, value in metrics.items()}
        self.stage.log(step=step, **rounded, learning_rate=logs["learning_rate"])
        self.bar.advance(0, self.shown(logs))


class SilentTrainer(Trainer):
    """Mixed into a trainer of trl: it writes no model card and tells nobody what is trained."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: the stage's record and samples say what the model is."""

    def _send_telemetry(self) -> None:
        """None: what a user trains is nobody else's business."""


def diverged(step: int) -> UserError:
    """What is said where the loss or the weights are no longer finite."""
    return UserError(f"the loss is no longer a number at step {step}: lower --learning-rate")


def run_trainer(trainer: Trainer, callback: TrainerCallback, checkpoint: Path | None, device: torch.device) -> None:
    """Train to the end, from a saved state if there is one; `callback` speaks in the place of trl's own lines."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(callback)
    with cpu_kernels(device):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def last_checkpoint(stage: StageFolder) -> tuple[Path | None, int]:
    """The latest whole state in `resume/` and its step, or None and 0; what a kill left half-written is removed."""
    whole: dict[int, Path] = {}
    for path in stage.resume_path.glob("checkpoint-*"):
        try:
            json.loads((path / "trainer_state.json").read_text("utf-8"))  # the last file that is written
            whole[int(path.name.rpartition("-")[2])] = path
        except (OSError, ValueError):
            if is_main_process():
                shutil.rmtree(path)
    wait_for_everyone()
    done = max(whole, default=0)
    return whole.get(done), done
