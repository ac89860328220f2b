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
from data.run.progress import Bar, progress_bar
from data.run.stage import StageFolder, StageRecord, announce, open_stage, parent_of, settings
from pretrain.machine import choose_device, process_state
from rlhf.algorithms.budget import token_budget
from rlhf.algorithms.group_config import GroupConfig
from rlhf.algorithms.group_trainer import Account, build_trainer
from rlhf.algorithms.ppo import SAMPLED_UPDATES, summarise, write_plots, write_samples
from rlhf.algorithms.task import Alignment
from rlhf.ppo.rewards import ScoreRules
from sft.train import last_checkpoint


class Watch(TrainerCallback):
    """Writes a line for every rollout, has the gold judge look on, and stops when the budget is spent."""

    def __init__(self, run: Alignment, account: Account, folder: StageFolder, bar: Bar, earlier_seconds: float) -> None:
        self.run, self.account, self.folder, self.bar = run, account, folder, bar
        self.earlier_seconds = earlier_seconds
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
            seconds=round(self.earlier_seconds + self.folder.seconds, 2),
            samples=account.samples if shown else [],
        )
        self.bar.advance(
            account.tokens - account.tokens_before,
            f"score {metrics['objective/scores']:+.2f} · KL {metrics['objective/kl']:.1f} nats"
            + (f" · gold {metrics['eval/gold']:.3f}" if "eval/gold" in metrics else ""),
        )


def align_in_groups(config: GroupConfig, preset: str) -> Path:
    """Run RLOO or GRPO and leave the aligned model in RUN/rlhf-rloo or RUN/rlhf-grpo; returns that folder."""
    state = process_state(choose_device(config.device))
    config.check(state.num_processes)
    run = Alignment(config)
    account = Account(config, token_budget(config, run.sft), state.device)
    rules = ScoreRules(config.missing_eos_rule, config.missing_eos_penalty, config.score_clip)
    folder = open_stage(config.folder_name, config)
    announce(
        config.folder_name,
        f"{len(run.prompts)} prompts · {account.budget:,} sampled tokens in rollouts of {config.batch_size} responses, "
        f"{config.num_generations} to a prompt · reward {config.reward} · kl_coef {config.kl_coef} · prompt "
        f"{config.prompt_length} + response {config.response_length} tokens (from sft) on {state.device}",
    )
    checkpoint = last_checkpoint(folder)
    done = int(checkpoint.name.rpartition("-")[2]) // config.steps_per_rollout if checkpoint else 0
    folder.keep_metrics(lambda line: line["update"] <= done)
    last = (folder.read_metrics() or [{"sampled_tokens": 0, "seconds": 0.0}])[-1]
    account.tokens = last["sampled_tokens"]
    trainer = build_trainer(run, run.scorer(rules, state.device), account, folder.resume_path)
    trainer.remove_callback(PrinterCallback)
    with progress_bar(config.folder_name, account.budget, account.tokens) as bar:
        trainer.add_callback(Watch(run, account, folder, bar, last["seconds"]))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    results: dict[str, Any] = {}
    if state.is_main_process:
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.config.use_cache = True  # trl turns it off for training
        model.save_pretrained(folder.path)
        run.tokenizer.save(folder.path, run.writer.sft.context_length)
        metrics = folder.read_metrics()
        results = summarise(metrics) | {"sampled_tokens": account.tokens}
        write_plots(folder.path, metrics)
        write_samples(folder.path / "samples.md", metrics)
    record = StageRecord(
        stage=config.folder_name,
        preset=preset,
        config=settings(config)
        | {"token_budget": account.budget, "reward_sha256": run.reward_record and run.reward_record.weights_sha256},
        parent=parent_of(run.sft, config.run),
        corpus=run.sft.corpus,
        seed=config.seed,
        results=results,
        wall_seconds=last["seconds"],
    )
    folder.finish(record)
    if state.is_main_process:
        announce(
            config.folder_name,
            f"score {results['score']:+.2f} (SFT 0) · KL {results['kl']:.1f} nats a sequence · gold "
            f"{results['gold_before']:.3f} → {results['gold']:.3f} · stops {results['stopped']:.1%} · "
            f"{account.tokens:,} tokens sampled · {record.wall_seconds:.0f} s → {folder.final}",
        )
    return folder.final
