"""The alignment stage with PPO on the run's SFT model, and the gold judge looking on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.run.folder import open_stage
from data.run.progress import progress_bar
from pretrain.machine import process_state
from rlhf.algorithms.config import AlignConfig
from rlhf.algorithms.learning import SAMPLED_UPDATES, conclude, progress
from rlhf.algorithms.task import AlignmentTask
from rlhf.judging.stages import FOLLOWING
from rlhf.ppo.trackers import check_trackers
from rlhf.ppo.trainer import Metrics, PPOTrainer
from sft.models.loading import quiet


@dataclass(frozen=True)
class Departure:
    """In what a stage differs from the run's own alignment: a taste has another reward, and is watched."""

    reward: Mapping[str, tuple[Any, float]]
    """What is maximised, by the name in the log: (reward, weight)."""
    policy: Path
    """Where the policy starts; the KL is measured from the SFT model in any case."""
    command: str
    settings: Mapping[str, Any]
    """What the stage's record says of it."""
    look: Callable[[AlignmentTask, PPOTrainer, Metrics], dict[str, Any]]
    """Called after each update; what it returns joins the line of metrics.jsonl. It may stop the trainer."""


def align(config: AlignConfig, preset: str, departure: Departure | None = None) -> Path:
    """Run PPO and leave the aligned model in RUN/rlhf (RUN/rlhf-gold with the gold judge as reward)."""
    task = AlignmentTask(config)  # with it the settings are complete: lengths are those of the SFT stage
    ppo = config.ppo(config.run)  # refused before anything is written, if at all
    ppo.check(process_state(task.device).num_processes)
    check_trackers(ppo)
    sft = config.run / "sft"
    reward = departure.reward if departure else task.reward
    # The value model starts from a reward model wherever there is one: from that which reads directions, if any.
    value = None
    if task.reward_record is not None and not departure:
        value = config.run / (FOLLOWING if task.following_record else "reward")
    name, command = config.folder_name, departure.command if departure else config.command
    with quiet(), open_stage(name, config, preset=preset, command=command, parent=task.sft) as stage:
        trainer = PPOTrainer(
            departure.policy if departure else sft,
            reward,
            task.prompts,
            config.ppo(stage.path),
            reference=sft if departure and departure.policy != sft else None,
            value=value,
            eval_hook=lambda trainer: task.evaluate(trainer.policy.lm),
        )
        stage.config |= task.settings | dict(departure.settings if departure else {})
        stage.announce(
            f"{len(task.prompts)} prompts · {ppo.num_updates} updates of {ppo.batch_size} episodes · reward "
            f"{config.reward}{task.asks} · kl_coef {ppo.kl_coef} · prompt {ppo.prompt_length} + response "
            f"{ppo.response_length} tokens (from sft) on {trainer.device}"
        )
        if stage.resuming and stage.resume_path.exists():
            trainer.load_state(stage.resume_path)
        stage.truncate_metrics(after=trainer.updates_done, key="update")
        sample_every = max(1, ppo.num_updates // SAMPLED_UPDATES)

        def log(trainer: PPOTrainer, metrics: Metrics) -> None:
            seen = departure.look(task, trainer, metrics) if departure else {}
            stage.log(
                update=trainer.updates_done,
                **{name: round(value, 6) for name, value in metrics.items()},
                **seen,
                samples=trainer.samples if trainer.updates_done % sample_every == 0 else [],
            )
            bar.advance(1, progress(metrics))

        trainer.callbacks.append(log)
        with progress_bar(name, ppo.num_updates, trainer.updates_done) as bar:
            trainer.train()
        trainer.save(stage.path)
        if trainer.accelerator.is_main_process:
            conclude(task, stage)
    return stage.final
