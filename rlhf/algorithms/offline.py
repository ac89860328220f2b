"""What the algorithms share whose responses are all there before the first step: trl trains, held-out prompts judge."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, Trainer

from data.console import is_main_process
from data.run.folder import StageFolder
from data.run.options import BatchOptions, check_ranges
from data.run.progress import Bar, progress_bar
from pretrain.machine import compute_dtype, process_state
from rlhf.algorithms.config import AlignOptions
from rlhf.algorithms.learning import conclude
from rlhf.algorithms.task import AlignmentTask
from rlhf.judging.judge import Judge
from sft.trl import StageCallback, diverged, last_checkpoint, ordered_arguments, run_trainer, trainer_arguments


@dataclass(kw_only=True)
class OfflineOptions(BatchOptions, AlignOptions):
    """What an algorithm takes that makes passes over examples."""

    epochs: int = 1
    """Passes over the examples."""
    batch_size: int = 32
    """Examples per optimizer step, over all processes."""
    micro_batch_size: int | None = 16
    """Examples per forward pass of one process; those of a step are sorted by length, so smaller means less padding."""
    learning_rate: float = 3e-4
    """Peak of AdamW's learning rate."""
    lr_floor: float = 0.0
    """Share of the peak that the learning rate ends at."""
    warmup_fraction: float = 0.05
    """Share of the steps in which the learning rate rises linearly from 0; after them it falls linearly."""
    adam_beta2: float = 0.95
    """Decay of AdamW's second moment; that of the first is 0.9."""
    max_grad_norm: float = 1.0
    """Bound on the gradient's norm."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Type of the activations; auto is bf16 where the processor has instructions for it."""

    log_every: int = 5
    """Optimizer steps between two lines of metrics.jsonl."""
    eval_every: int = 25
    """Optimizer steps between looks at replies to held-out prompts."""
    log_samples: int = 4
    """Replies kept of each look."""
    save_every: int = 50
    """Optimizer steps between the states that --resume continues from."""

    def check(self, processes: int = 1) -> None:
        """Raise UserError on what makes no sense."""
        check_ranges(
            self,
            counts="batch_size epochs log_every eval_every save_every",
            positive="learning_rate max_grad_norm",
            rates="lr_floor warmup_fraction adam_beta2",
        )
        self.micro_batches(processes)


class OfflineRun:
    """One run of such an algorithm within its stage."""

    def __init__(
        self, config: OfflineOptions, task: AlignmentTask, judge: Judge, stage: StageFolder, examples: int
    ) -> None:
        """judge: of the held-out prompts. examples: how many there are to pass over."""
        self.config, self.task, self.judge, self.stage = config, task, judge, stage
        self.steps = math.ceil(examples * config.epochs / config.batch_size)

    def arguments(self) -> dict[str, Any]:
        """Arguments of trl's trainer for examples that come in order, all epochs in one row, each as it is."""
        config, device = self.config, self.task.device
        batches = config.micro_batches(process_state(device).num_processes)
        bf16 = compute_dtype(config.precision, device) == torch.bfloat16
        common = trainer_arguments(config, self.stage.resume_path, batches, device, bf16)
        rate = {
            "lr_scheduler_type": "polynomial",
            "lr_scheduler_kwargs": {"lr_end": config.lr_floor * config.learning_rate, "power": 1.0},
        }
        return common | ordered_arguments(config, self.steps) | rate

    def learn(self, trainer: Trainer, names: Mapping[str, str]) -> None:
        """Train, from a saved state if there is one; leave model, results, plots and samples in the stage.

        names: the metrics that are written, by trl's name.
        """
        checkpoint, done = last_checkpoint(self.stage)
        self.stage.truncate_metrics(after=done or -1)
        with progress_bar(self.config.folder_name, self.steps, done) as bar:
            if is_main_process() and not done:
                self.look(self.task.sft_model, 0, bar)
            run_trainer(trainer, HeldoutWatch(self, bar, names), checkpoint, self.task.device)
        if is_main_process():
            model: Any = trainer.accelerator.unwrap_model(trainer.model)
            model.config.use_cache = True  # trl turns it off for training
            model.save_pretrained(self.stage.path)
            conclude(self.task, self.stage, x="step")

    def look(self, lm: PreTrainedModel, step: int, bar: Bar) -> None:
        """Write a line about replies to held-out prompts of the policy as it is now."""
        task, count = self.task, self.config.log_samples
        replies = self.judge.score(task.sampler.sample(lm, draw=0))
        looked = task.heldout_metrics(replies)
        looked |= {"eval/reward": fmean(replies.reward), "eval/kl": self.judge.kl(lm, replies)}
        shown = zip(task.heldout[:count], replies.texts, replies.reward, replies.stopped, strict=False)
        self.stage.log(
            step=step,
            **{name: round(value, 6) for name, value in looked.items()},
            samples=[dict(zip(("prompt", "response", "score", "stopped"), each, strict=True)) for each in shown],
        )
        bar.advance(
            0, f"reward {looked['eval/reward']:+.2f} · KL {looked['eval/kl']:.1f} · gold {looked['eval/gold']:.3f}"
        )


class HeldoutWatch(StageCallback):
    """Writes trl's metrics under our names, and looks at replies to held-out prompts."""

    def __init__(self, run: OfflineRun, bar: Bar, names: Mapping[str, str]) -> None:
        super().__init__(run.stage, bar)
        self.run, self.names = run, names

    def metrics(self, logs: dict[str, float]) -> dict[str, float]:
        return {ours: logs[theirs] for theirs, ours in self.names.items()}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_step_end(args, state, control, **kwargs)
        ended = state.global_step == state.max_steps
        if is_main_process() and (ended or state.global_step % self.run.config.eval_every == 0):
            lm = self.run.task.plain(kwargs["model"])
            if not all(parameter.isfinite().all() for parameter in lm.parameters()):
                raise diverged(state.global_step)  # there is nothing to sample from
            self.run.look(lm, state.global_step, self.bar)
