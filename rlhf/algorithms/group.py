"""RLOO and GRPO by TRL's own trainers, on the prompts, the reward and the budget of the run's PPO.

RLOO (Ahmadian et al., arXiv 2402.14740): a response's advantage is its reward over the mean of the others to the
same prompt. GRPO (Shao et al., arXiv 2402.03300): its distance from the group's mean, in standard deviations. TRL
samples, takes the steps and keeps the training state (`rlhf/algorithms/group_trainer.py`); here is the stage around it.
"""

import math
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from data.console import UserError
from data.run.folder import StageFolder, open_stage
from data.run.progress import Bar, progress_bar
from pretrain.machine import choose_device, process_state
from rlhf.algorithms.budget import token_budget
from rlhf.algorithms.group_config import GroupConfig
from rlhf.algorithms.group_trainer import Account, build_trainer
from rlhf.algorithms.ppo import SAMPLED_UPDATES, conclude, figure
from rlhf.algorithms.task import Alignment
from rlhf.ppo.rewards import ScoreRules
from sft.train import last_checkpoint


class Watch(TrainerCallback):
    """Writes a line for every rollout, has the gold judge look on, and stops when the budget is spent."""

    def __init__(self, run: Alignment, account: Account, folder: StageFolder, bar: Bar) -> None:
        self.run, self.account, self.folder, self.bar = run, account, folder, bar
        self.sample_every = max(1, account.budget // SAMPLED_UPDATES)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.account.config.steps_per_rollout == 0 and self.account.spent:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return  # the summary at the end
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["grad_norm"])):
            raise UserError(f"the loss is no longer a number at step {state.global_step}: lower --learning-rate")
        account, config = self.account, self.account.config
        update = state.global_step // config.steps_per_rollout
        metrics = account.metrics(logs) | {"optimizer_steps": float(config.steps_per_rollout)}
        if update % config.eval_every == 0 or account.spent:
            metrics |= self.run.judge_policy(kwargs["model"])
        shown = account.tokens // self.sample_every > account.tokens_before // self.sample_every
        self.folder.log(
            update=update,
            episode=float(update * config.batch_size),
            sampled_tokens=account.tokens,
            **{name: round(value, 6) for name, value in metrics.items()},
            samples=account.samples if shown else [],
        )
        self.bar.advance(account.tokens - account.tokens_before, figure(metrics))


def align_in_groups(config: GroupConfig, preset: str) -> Path:
    """Run RLOO or GRPO and leave the aligned model in RUN/rlhf-rloo or RUN/rlhf-grpo; returns that folder."""
    state = process_state(choose_device(config.device))
    config.check(state.num_processes)
    run = Alignment(config)
    account = Account(config, token_budget(config, run.sft), state.device)
    rules = ScoreRules(config.missing_eos_rule, config.missing_eos_penalty, config.score_clip)
    with open_stage(config.folder_name, config, preset=preset, command=config.command, parent=run.sft) as stage:
        stage.config |= {
            "token_budget": account.budget,
            "reward_sha256": run.reward_record and run.reward_record.weights_sha256,
        }
        stage.announce(
            f"{len(run.prompts)} prompts · {account.budget:,} sampled tokens in rollouts of {config.batch_size} "
            f"responses, {config.num_generations} to a prompt · reward {config.reward} · kl_coef {config.kl_coef} · "
            f"prompt {config.prompt_length} + response {config.response_length} tokens (from sft) on {state.device}",
        )
        checkpoint = last_checkpoint(stage)
        done = int(checkpoint.name.rpartition("-")[2]) // config.steps_per_rollout if checkpoint else 0
        stage.truncate_metrics(after=done, key="update")
        account.tokens = stage.read_metrics()[-1]["sampled_tokens"] if done else 0
        trainer = build_trainer(run, run.scorer(rules, state.device), account, stage.resume_path)
        trainer.remove_callback(PrinterCallback)
        with progress_bar(config.folder_name, account.budget, account.tokens) as bar:
            trainer.add_callback(Watch(run, account, stage, bar))
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if state.is_main_process:
            model = trainer.accelerator.unwrap_model(trainer.model)
            model.config.use_cache = True  # trl turns it off for training
            model.save_pretrained(stage.path)
            conclude(run, stage)
            stage.results["sampled_tokens"] = account.tokens
            stage.summary += f" · {account.tokens:,} tokens sampled"
    return stage.final
