"""The alignment stage with PPO on the run's SFT model, and the gold judge looking on."""

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.run.folder import StageFolder, open_stage
from data.run.plots import plot_curves
from data.run.progress import progress_bar
from data.run.writing import write_samples
from pretrain.machine import choose_device, process_state
from rlhf.algorithms.config import AlignConfig
from rlhf.algorithms.task import Alignment
from rlhf.ppo.trackers import check_trackers
from rlhf.ppo.trainer import Metrics, PPOTrainer

SAMPLED_UPDATES = 6
"""Updates of which samples.md shows responses."""


class PPOAlignment(Alignment):
    """One run of PPO: `PPOTrainer` on the run's models."""

    config: AlignConfig

    def trainer(self, output_dir: Path) -> PPOTrainer:
        config, run = self.config, self.config.run
        return PPOTrainer(
            run / "sft",
            self.reward,
            self.encoded(self.prompts),
            config.ppo(output_dir),
            # The value model starts from the reward model wherever there is one.
            value=run / "reward" if self.reward_record is not None else None,
            eval_hook=lambda trainer: self.judge_policy(trainer.policy.lm),
        )

    def describe(self, trainer: PPOTrainer) -> str:
        config = trainer.config
        return (
            f"{len(self.prompts)} prompts · {config.num_updates} updates of {config.batch_size} episodes · reward "
            f"{self.config.reward} · kl_coef {config.kl_coef} · prompt {config.prompt_length} + response "
            f"{config.response_length} tokens (from sft) on {trainer.device}"
        )

    def sample_every(self, trainer: PPOTrainer) -> int:
        """Updates between the samples that are kept."""
        return max(1, trainer.config.num_updates // SAMPLED_UPDATES)


def align(config: AlignConfig, preset: str) -> Path:
    """Run PPO and leave the aligned model in RUN/rlhf (RUN/rlhf-gold with the gold judge as reward)."""
    ppo = config.ppo(config.run)  # refused before anything is written, if at all
    ppo.check(process_state(choose_device(config.device)).num_processes)
    check_trackers(ppo)
    run = PPOAlignment(config)
    with open_stage(config.folder_name, config, preset=preset, command=config.command, parent=run.sft) as stage:
        stage.config["reward_sha256"] = run.reward_record and run.reward_record.weights_sha256
        trainer = run.trainer(stage.path)
        stage.announce(run.describe(trainer))
        if stage.resuming and stage.resume_path.exists():
            trainer.load_state(stage.resume_path)
        stage.truncate_metrics(after=trainer.updates_done, key="update")

        def log(trainer: PPOTrainer, metrics: Metrics) -> None:
            shown = trainer.samples if trainer.updates_done % run.sample_every(trainer) == 0 else []
            stage.log(
                update=trainer.updates_done,
                **{name: round(value, 6) for name, value in metrics.items()},
                samples=shown,
            )
            bar.advance(1, figure(metrics))

        trainer.callbacks.append(log)
        with progress_bar("rlhf", trainer.config.num_updates, trainer.updates_done) as bar:
            trainer.train()
        trainer.save(stage.path)
        if trainer.accelerator.is_main_process:
            conclude(run, stage)
    return stage.final


def figure(metrics: Mapping[str, float]) -> str:
    """What the bar of an algorithm that trains shows of a rollout."""
    judged = f" · gold {metrics['eval/gold']:.3f}" if "eval/gold" in metrics else ""
    return f"score {metrics['objective/scores']:+.2f} · KL {metrics['objective/kl']:.1f} nats{judged}"


def conclude(run: Alignment, stage: StageFolder) -> None:
    """What any algorithm that trains leaves next to its model: results, plots, samples."""
    run.tokenizer.save(stage.path, run.writer.sft.context_length)
    metrics = stage.read_metrics()
    results = stage.results = summarise(metrics)
    write_plots(stage.path, metrics)
    write_samples(stage.path / "samples.md", "Responses while learning", sample_sections(metrics))
    stage.summary = (
        f"score {results['score']:+.2f} (SFT 0) · KL {results['kl']:.1f} nats a sequence · gold "
        f"{results['gold_before']:.3f} → {results['gold']:.3f} · stops {results['stopped']:.1%}"
    )


def summarise(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """The last tenth of the rollouts, and the gold judge on held-out prompts at the first and last look."""
    last = metrics[-max(1, len(metrics) // 10) :]
    judged = [line for line in metrics if "eval/gold" in line]

    def mean(name: str, lines: list[dict[str, Any]] = last) -> float:
        return round(statistics.fmean(line[name] for line in lines), 5)

    return {
        "score": mean("objective/scores"),
        "kl": mean("objective/kl"),
        "entropy": mean("objective/entropy"),
        "stopped": mean("objective/stopped"),
        "response_length": mean("objective/response_length"),
        "gold_before": judged[0]["eval/gold_before"],
        "gold": judged[-1]["eval/gold"],
        "distinct_2": judged[-1]["eval/distinct_2"],
        "episodes": int(metrics[-1]["episode"]),
        "seconds_rollout": round(sum(line["time/rollout"] for line in metrics), 2),
        "seconds_scoring": round(sum(line["time/scoring"] for line in metrics), 2),
        "seconds_update": round(sum(line["time/update"] for line in metrics), 2),
    }


def write_plots(folder: Path, metrics: list[dict[str, Any]]) -> None:
    """reward.png, kl.png and gold.png over the episodes, of any algorithm that trains."""
    episodes = [line["episode"] for line in metrics]
    judged = [line for line in metrics if "eval/gold" in line]
    plot_curves(
        folder / "reward.png",
        {
            "reward model's score": (episodes, [line["objective/scores"] for line in metrics]),
            "after the KL penalty": (episodes, [line["objective/rlhf_reward"] for line in metrics]),
        },
        xlabel="episodes",
        ylabel="score (SFT: 0 ± 1)",
        title="What is maximised",
    )
    plot_curves(
        folder / "kl.png",
        {"KL(policy ‖ SFT)": (episodes, [line["objective/kl"] for line in metrics])},
        xlabel="episodes",
        ylabel="nats a sequence",
        title="How far the policy has moved",
    )
    plot_curves(
        folder / "gold.png",
        {"gold": ([line["episode"] for line in judged], [line["eval/gold"] for line in judged])},
        xlabel="episodes",
        ylabel="gold score",
        title="What is not seen in training: the gold judge on held-out prompts",
        floor=("SFT", judged[0]["eval/gold_before"]),
    )


def sample_sections(metrics: list[dict[str, Any]]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Responses next to their scores, latest first: a high score over gibberish must be seen."""
    for line in reversed([line for line in metrics if line["samples"]]):
        texts = []
        for sample in line["samples"]:
            end = "" if sample["stopped"] else ", did not stop"
            texts.append((f"score {sample['score']:+.2f}{end}", f"{sample['prompt']}⟨{sample['response']}⟩"))
        yield f"Update {line['update']}, score {line['objective/scores']:+.2f}, KL {line['objective/kl']:.1f}", texts
