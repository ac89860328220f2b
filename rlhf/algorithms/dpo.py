"""DPO by TRL's own trainer, on the rankings that the run's reward model learned from.

Rafailov et al., arXiv 2305.18290: the policy is its own reward model. Of every pair of a ranking the chosen response
shall gain more log-probability over the SFT model than the rejected one; nothing is sampled, and no reward is asked.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from data.console import UserError
from data.run.folder import open_stage
from data.run.options import check_ranges
from pretrain.machine import process_state
from reward.rankings import Ranking, read_collected
from rlhf.algorithms.offline import OfflineOptions, OfflineRun
from rlhf.algorithms.task import AlignmentTask
from sft.models.loading import load_causal_lm, quiet
from sft.models.tokens import load_tokenizer
from sft.pairs import training_order
from sft.trl import SilentTrainer

NAMES = {
    "loss": "loss",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "logps/chosen": "chosen_logprob",
    "logps/rejected": "rejected_logprob",
}
"""The metrics that are written, by TRL's names; a reward: beta times what a response has gained over the SFT model."""


@dataclass(kw_only=True)
class PreferenceConfig(OfflineOptions):
    """DPO: learn from pairs of ranked responses, without a reward model."""

    algorithm: str = "dpo"
    """Name of the algorithm. Each has settings of its own: `PRESET --algorithm NAME --help` shows them."""
    beta: float = 0.1
    """Price of leaving the SFT model, in units of the labels' log-odds per nat; a low one lets the policy go far."""
    max_pairs: int | None = None
    """Learn from at most so many pairs, drawn at random; default all."""

    def check(self, processes: int = 1) -> None:
        super().check(processes)
        if self.reward != "model" or self.prompts is not None:
            option = "--prompts" if self.reward == "model" else "--reward"
            raise UserError(
                f"dpo learns from the rankings in {self.run / 'reward'} and takes no {option}: leave it out, and give "
                f"{'prompts' if self.reward == 'model' else 'a --score'} to `python -m reward` instead"
            )
        check_ranges(self, positive="beta", counts="max_pairs")


class Preference(NamedTuple):
    """A pair as the token ids that were sampled; a response that did not stop has no `<|endoftext|>`."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def longest(self) -> int:
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


class Preferences(NamedTuple):
    """What is learned from."""

    pairs: list[Preference]
    rankings: int
    tokens: int
    """Tokens of the responses in the pairs, each response once."""


def read_preferences(path: Path, max_pairs: int | None, seed: int) -> Preferences:
    """The pairs of RUN/reward's rankings, at most `max_pairs` of them; UserError if there is none."""
    rankings = read_collected(path)
    places = [(number, *pair) for number, ranking in enumerate(rankings) for pair in ranking.pairs()]
    if not places:
        raise UserError(f"{path} holds no pair: every response is tied with every other; rank others")
    if max_pairs is not None and max_pairs < len(places):
        places = sorted(random.Random(seed).sample(places, max_pairs))
    responses = {(number, index) for number, *pair in places for index in pair}
    return Preferences(
        pairs=[preference(rankings[number], better, worse) for number, better, worse in places],
        rankings=len({number for number, *_ in places}),
        tokens=sum(len(rankings[number].completion_ids[index]) for number, index in responses),
    )


def preference(ranking: Ranking, better: int, worse: int) -> Preference:
    return Preference(ranking.prompt_ids, ranking.completion_ids[better], ranking.completion_ids[worse])


class PairTrainer(SilentTrainer, DPOTrainer):
    """TRL's DPO on token ids as they are."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        """The ids that were sampled: TRL would tokenise text again, and end every response with EOS."""
        return dataset


def build_trainer(
    config: PreferenceConfig, pairs: Sequence[Preference], device: torch.device, arguments: dict[str, Any]
) -> PairTrainer:
    """TRL's trainer on the pairs in the order of training; the SFT model is where it starts and what it refers to."""
    order = training_order([pair.longest for pair in pairs], config)
    sft = config.run / "sft"
    return PairTrainer(
        # Without dropout: TRL trains in training mode.
        model=load_causal_lm(sft, device, dropout=0.0),
        ref_model=load_causal_lm(sft, device),
        args=DPOConfig(**arguments, beta=config.beta),
        train_dataset=Dataset.from_list([pairs[index]._asdict() for index in order]),
        processing_class=load_tokenizer(sft),
    )


def prefer(config: PreferenceConfig, preset: str) -> Path:
    """Run DPO and leave the aligned model in RUN/rlhf-dpo; returns that folder."""
    task = AlignmentTask(config)
    config.check(process_state(task.device).num_processes)
    found = read_preferences(config.run / "reward" / "rankings.jsonl", config.max_pairs, config.seed)
    judge = task.judge(task.heldout)
    name, command = config.folder_name, config.command
    with quiet(), open_stage(name, config, preset=preset, command=command, parent=task.sft) as stage:
        run = OfflineRun(config, task, judge, stage, len(found.pairs))
        stage.config |= task.settings
        stage.announce(
            f"{len(found.pairs)} pairs of {found.rankings} rankings, {found.tokens:,} response tokens · {run.steps} "
            f"steps of {config.batch_size} pairs · beta {config.beta} · on {task.device}"
        )
        run.learn(build_trainer(config, found.pairs, task.device, run.arguments()), NAMES)
        stage.results |= {"pairs": len(found.pairs), "rankings": found.rankings, "learning_tokens": found.tokens}
    return stage.final


PRESETS = {
    "smoke": (
        "seconds: what the tests drive",
        PreferenceConfig(
            max_pairs=64, batch_size=16, micro_batch_size=8, log_every=1, eval_every=2, save_every=2, eval_prompts=16
        ),
    ),
    "laptop": (
        "2 CPU cores, under 3 minutes",
        PreferenceConfig(max_pairs=4096, learning_rate=5e-4),
    ),
    "gpu": (
        "one GPU, bf16",
        PreferenceConfig(batch_size=128, micro_batch_size=64, learning_rate=1e-4, eval_every=50, eval_prompts=256),
    ),
}
