"""RLOO and GRPO by TRL's own trainers, on the prompts, the reward and the budget of the run's PPO.

RLOO (Ahmadian et al., arXiv 2402.14740): a response's advantage is its reward over the mean of the others to the
same prompt. GRPO (Shao et al., arXiv 2402.03300): its distance from the group's mean, in standard deviations. TRL
samples, takes the steps and keeps the training state (`rlhf/algorithms/trl_trainers.py`); here is the stage around it.
"""

from pathlib import Path
from typing import Any

from transformers import PrinterCallback

from data.run.folder import StageFolder, open_stage
from data.run.progress import Bar, progress_bar
from pretrain.machine import process_state
from rlhf.algorithms.budget import token_budget
from rlhf.algorithms.config import GroupConfig
from rlhf.algorithms.learning import SAMPLED_UPDATES, conclude, progress
from rlhf.algorithms.task import AlignmentTask, rules_of
from rlhf.algorithms.trl_trainers import TokenBudget, build_trainer
from sft.models.loading import quiet
from sft.trl import StageCallback, last_checkpoint


class Watch(StageCallback):
    """Writes a line for every rollout, has the gold judge look on, and stops when the budget is spent."""

    def __init__(self, task: AlignmentTask, budget: TokenBudget, stage: StageFolder, bar: Bar) -> None:
        super().__init__(stage, bar)
        self.task, self.budget = task, budget
        self.sample_every = max(1, budget.total // SAMPLED_UPDATES)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.budget.config.steps_per_rollout == 0 and self.budget.spent:
            control.should_training_stop = True

    def write(self, step: int, logs: dict[str, float], model: Any) -> None:
        budget, config = self.budget, self.budget.config
        update = step // config.steps_per_rollout
        metrics = budget.metrics(logs) | {"optimizer_steps": float(config.steps_per_rollout)}
        if update % config.eval_every == 0 or budget.spent:
            metrics |= self.task.evaluate(self.task.plain(model))
        shown = budget.tokens // self.sample_every > budget.tokens_before // self.sample_every
        self.stage.log(
            update=update,
            episode=float(update * config.batch_size),
            sampled_tokens=budget.tokens,
            **{name: round(value, 6) for name, value in metrics.items()},
            samples=budget.samples if shown else [],
        )
        self.bar.advance(budget.tokens - budget.tokens_before, progress(metrics))


def run_group_relative(config: GroupConfig, preset: str) -> Path:
    """Run RLOO or GRPO and leave the aligned model in RUN/rlhf-rloo or RUN/rlhf-grpo; returns that folder."""
    task = AlignmentTask(config)
    state = process_state(task.device)
    config.check(state.num_processes)
    budget = TokenBudget(config, token_budget(config, task.sft), task.device)
    scorer = task.scorer(rules_of(config))
    name, command = config.folder_name, config.command
    with quiet(), open_stage(name, config, preset=preset, command=command, parent=task.sft) as stage:
        stage.config |= task.settings | {"token_budget": budget.total}
        stage.announce(
            f"{len(task.prompts)} prompts · {budget.total:,} sampled tokens in rollouts of {config.batch_size} "
            f"responses, {config.num_generations} per prompt · reward {config.reward} · kl_coef {config.kl_coef} · "
            f"prompt {config.prompt_length} + response {config.response_length} tokens (from sft) on {task.device}",
        )
        checkpoint, steps = last_checkpoint(stage)
        done = steps // config.steps_per_rollout
        stage.truncate_metrics(after=done, key="update")
        budget.tokens = stage.read_metrics()[-1]["sampled_tokens"] if done else 0
        trainer = build_trainer(task, scorer, budget, stage.resume_path)
        trainer.remove_callback(PrinterCallback)
        with progress_bar(name, budget.total, budget.tokens) as bar:
            trainer.add_callback(Watch(task, budget, stage, bar))
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if state.is_main_process:
            model = trainer.accelerator.unwrap_model(trainer.model)
            model.config.use_cache = True  # trl turns it off for training
            model.save_pretrained(stage.path)
            conclude(task, stage)
            stage.results["sampled_tokens"] = budget.tokens
            stage.summary += f" · {budget.tokens:,} tokens sampled"
    return stage.final
