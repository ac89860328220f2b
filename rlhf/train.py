"""The alignment stage: PPO on the run's SFT model, with the critic looking on."""

import statistics
from pathlib import Path
from typing import Any

from data.console import UserError
from data.corpus import Corpus
from data.dialogue import dialogue_pairs, encode_prompt, heldout_pairs
from data.jsonl import read_jsonl
from data.tokenizers import Tokenizer
from pretrain.checkpoint import build_model, gpt_config, load_model
from pretrain.model import GPT
from pretrain.plots import plot_curves
from pretrain.progress import progress_bar
from pretrain.sampling import plain_matmul
from pretrain.stage import (
    StageRecord,
    announce,
    check_descends,
    open_stage,
    parent_corpus,
    parent_of,
    read_parent,
    settings,
)
from reward.critic import Critic
from reward.labeller import load_score_function
from rlhf.config import AlignConfig
from rlhf.measures import diversity
from rlhf.ppo import Metrics, PPOTrainer
from rlhf.replies import Writer
from sft.train import quiet_libraries

SAMPLED_UPDATES = 6
"""Updates of which samples.md shows responses."""
EVAL_WORDS = 1000
"""distinct-2 falls as a text grows: it is measured on so many words each time."""


class Alignment:
    """One run: what PPO learns from, the trainer, and the critic's view of held-out prompts."""

    def __init__(self, config: AlignConfig) -> None:
        quiet_libraries()
        self.config, run = config, config.run
        self.sft = read_parent(run, "sft")
        config.inherit(self.sft)
        self.tokenizer = Tokenizer.load(run / "sft")
        self.reward_record = None
        if config.reward == "model" or (run / "reward").exists():
            self.reward_record = read_parent(run, "reward", tokenizer_sha256=self.sft.tokenizer_sha256)
            check_descends(self.reward_record, self.sft, run)
        self.corpus = parent_corpus(self.sft)
        self.critic = Critic(self.corpus.train)
        self.prompts = load_prompts(config, self.corpus)
        heldout = [pair.prompt for pair in heldout_pairs(self.corpus.validation).dev[: config.eval_prompts]]
        self.writer = Writer(
            self.tokenizer,
            [encode_prompt(self.tokenizer, prompt, config.prompt_length) for prompt in heldout],
            config.response_length,
            load_model(run / "sft"),
            config.seed,
        )
        self.heldout = heldout
        self._critic_before = self._mean_critic(self.writer.write(self.writer.sft, draw=0).texts)

    def trainer(self, output_dir: Path) -> PPOTrainer:
        """PPO on this run's models."""
        config, run = self.config, self.config.run
        reward: Any = run / "reward"
        if config.reward == "critic":
            reward = self._normalised(self.critic)
        elif config.reward != "model":
            reward = self._normalised(load_score_function(config.reward))
        return PPOTrainer(
            run / "sft",
            reward,
            [encode_prompt(self.tokenizer, prompt, config.prompt_length) for prompt in self.prompts],
            config.ppo(output_dir),
            # The value model starts from the reward model wherever there is one.
            value=run / "reward" if self.reward_record is not None else None,
            eval_hook=self.judge,
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

    def judge(self, trainer: PPOTrainer) -> Metrics:
        """What the critic, which PPO does not see, says of the policy's replies to held-out prompts."""
        with plain_matmul():
            replies = self.writer.write(as_gpt(trainer), draw=0)
        return {
            "eval/critic": self._mean_critic(replies.texts),
            "eval/critic_before": self._critic_before,
            "eval/distinct_2": diversity(replies.texts, EVAL_WORDS).distinct_2,
            "eval/stopped": statistics.fmean(replies.stopped),
            "eval/unknown_words": statistics.fmean(self.critic.unknown_words(text) for text in replies.texts),
        }

    def _mean_critic(self, texts: list[str]) -> float:
        return statistics.fmean(self.critic(prompt, text) for prompt, text in zip(self.heldout, texts, strict=True))

    def _normalised(self, score: Any) -> Any:
        """`score(prompt, response)` in the units of a reward model: 0 and 1 are mean and deviation of the SFT model."""
        texts = self.writer.write(self.writer.sft, draw=0).texts
        scores = [score(prompt, text) for prompt, text in zip(self.heldout, texts, strict=True)]
        mean, deviation = statistics.fmean(scores), statistics.pstdev(scores)
        if not deviation > 0:
            raise UserError(f"--reward {self.config.reward} gives every response {mean}: there is nothing to learn")

        def reward(prompts: list[str], responses: list[str]) -> list[float]:
            return [(score(p, r) - mean) / deviation for p, r in zip(prompts, responses, strict=True)]

        return reward


def as_gpt(trainer: PPOTrainer) -> GPT:
    """A copy of the policy as it is now, as the GPT that the other stages sample from."""
    lm = trainer.policy.lm
    return build_model(lm.state_dict(), gpt_config(lm.config.to_dict())).to(trainer.device).eval()


def load_prompts(config: AlignConfig, corpus: Corpus) -> list[str]:
    """The user's prompts, or every prompt of the training text."""
    if config.prompts is not None:
        return [row["prompt"] for row in read_jsonl(config.prompts, {"prompt": str})]
    prompts = [pair.prompt for pair in dialogue_pairs(corpus.train)]
    if not prompts:
        raise UserError(f"corpus '{corpus.name}' holds no dialogue: give --prompts FILE")
    return prompts


def align(config: AlignConfig, preset: str) -> Path:
    """Run PPO and leave the aligned model in RUN/rlhf (RUN/rlhf-critic with the critic as reward)."""
    run = Alignment(config)
    folder = open_stage(config.folder_name, config)
    trainer = run.trainer(folder.path)
    announce("rlhf", run.describe(trainer))
    seconds_before = 0.0
    if folder.resuming and folder.resume_path.exists():
        trainer.load_state(folder.resume_path)
        lines = [line for line in folder.read_metrics() if line["update"] <= trainer.updates_done]
        seconds_before = lines[-1]["seconds"] if lines else 0.0
    folder.keep_metrics(lambda line: line["update"] <= trainer.updates_done)

    def log(trainer: PPOTrainer, metrics: Metrics) -> None:
        shown = trainer.samples if trainer.updates_done % run.sample_every(trainer) == 0 else []
        folder.log(
            update=trainer.updates_done,
            **{name: round(value, 6) for name, value in metrics.items()},
            seconds=round(seconds_before + folder.seconds, 2),
            samples=shown,
        )
        bar.advance(
            1,
            f"score {metrics['objective/scores']:+.2f} · KL {metrics['objective/kl']:.1f} nats"
            + (f" · critic {metrics['eval/critic']:.3f}" if "eval/critic" in metrics else ""),
        )

    trainer.callbacks.append(log)
    with progress_bar("rlhf", trainer.config.num_updates, trainer.updates_done) as bar:
        trainer.train()
    trainer.save(folder.path)
    results: dict[str, Any] = {}
    if trainer.accelerator.is_main_process:
        run.tokenizer.save(folder.path, run.writer.sft.context_length)
        metrics = folder.read_metrics()
        results = summarise(metrics)
        write_plots(folder.path, metrics)
        write_samples(folder.path / "samples.md", metrics)
    record = StageRecord(
        stage="rlhf",
        preset=preset,
        config=settings(config) | {"reward_sha256": run.reward_record and run.reward_record.weights_sha256},
        parent=parent_of(run.sft, config.run),
        corpus=run.sft.corpus,
        seed=config.seed,
        results=results,
        wall_seconds=seconds_before,
    )
    folder.finish(record)
    if trainer.accelerator.is_main_process:
        announce(
            "rlhf",
            f"score {results['score']:+.2f} (SFT 0) · KL {results['kl']:.1f} nats a sequence · critic "
            f"{results['critic_before']:.3f} → {results['critic']:.3f} · stops {results['stopped']:.1%} · "
            f"{record.wall_seconds:.0f} s → {folder.final}",
        )
    return folder.final


def summarise(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """The last tenth of the rollouts, and the critic on held-out prompts at the first and last look."""
    last = metrics[-max(1, len(metrics) // 10) :]
    judged = [line for line in metrics if "eval/critic" in line]

    def mean(name: str, lines: list[dict[str, Any]] = last) -> float:
        return round(statistics.fmean(line[name] for line in lines), 5)

    return {
        "score": mean("objective/scores"),
        "kl": mean("objective/kl"),
        "entropy": mean("objective/entropy"),
        "stopped": mean("objective/stopped"),
        "response_length": mean("objective/response_length"),
        "critic_before": judged[0]["eval/critic_before"],
        "critic": judged[-1]["eval/critic"],
        "distinct_2": judged[-1]["eval/distinct_2"],
        "episodes": int(metrics[-1]["episode"]),
        "seconds_rollout": round(sum(line["time/rollout"] for line in metrics), 2),
        "seconds_scoring": round(sum(line["time/scoring"] for line in metrics), 2),
        "seconds_update": round(sum(line["time/update"] for line in metrics), 2),
    }


def write_plots(folder: Path, metrics: list[dict[str, Any]]) -> None:
    """reward.png, kl.png and critic.png over the episodes."""
    episodes = [line["episode"] for line in metrics]
    judged = [line for line in metrics if "eval/critic" in line]
    plot_curves(
        folder / "reward.png",
        {
            "reward model's score": (episodes, [line["objective/scores"] for line in metrics]),
            "after the KL penalty": (episodes, [line["objective/rlhf_reward"] for line in metrics]),
        },
        xlabel="episodes",
        ylabel="score (SFT: 0 ± 1)",
        title="What PPO maximises",
    )
    plot_curves(
        folder / "kl.png",
        {"KL(policy ‖ SFT)": (episodes, [line["objective/kl"] for line in metrics])},
        xlabel="episodes",
        ylabel="nats a sequence",
        title="How far the policy has moved",
    )
    plot_curves(
        folder / "critic.png",
        {"critic": ([line["episode"] for line in judged], [line["eval/critic"] for line in judged])},
        xlabel="episodes",
        ylabel="critic's score",
        title="What PPO does not see: the critic on held-out prompts",
        floor=("SFT", judged[0]["eval/critic_before"]),
    )


def write_samples(path: Path, metrics: list[dict[str, Any]]) -> None:
    """Responses beside their scores, latest first: a high score over gibberish must be seen."""
    parts = ["# Responses while learning\n"]
    for line in reversed([line for line in metrics if line["samples"]]):
        parts.append(
            f"## Update {line['update']}, score {line['objective/scores']:+.2f}, KL {line['objective/kl']:.1f}\n"
        )
        for sample in line["samples"]:
            text = (sample["prompt"] + "⟨" + sample["response"] + "⟩").replace("```", "'''")
            end = "" if sample["stopped"] else ", did not stop"
            parts.append(f"score {sample['score']:+.2f}{end}\n\n```text\n{text}\n```\n")
    path.write_text("\n".join(parts), "utf-8")
