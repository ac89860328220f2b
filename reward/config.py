"""What a reward run is made of, and the presets."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from data.console import UserError
from data.run.options import check_ranges
from data.run.record import StageRecord
from sft.config import TrainerOptions, check_lengths

SMALLEST_BATCH, STEPS_PER_EPOCH, FEWEST_STEPS, MOST_EPOCHS, PASSES = 4, 50, 24, 4, 6200
"""See `RankingOptions.scheduled`."""


@dataclass(kw_only=True)
class RankingOptions(TrainerOptions):
    """What a stage takes that has replies of the SFT model ranked, and trains a reward model on rankings."""

    responses: int = 4
    """Responses sampled for each prompt (K of InstructGPT)."""
    temperature: float = 1.0
    """Sampling temperature of the responses."""
    prompt_length: int | None = None
    """Longest prompt in tokens; default: what the SFT stage used."""
    response_length: int | None = None
    """Longest response in tokens, its end included; default: what the SFT stage used."""

    epochs: int | None = None
    """Passes over the rankings; default: what their number asks for, which may divide the batch too."""
    batch_size: int = 16
    """Rankings per optimizer step, over all processes; all pairs of a ranking are in one batch."""
    micro_batch_size: int | None = None
    """Rankings per forward and backward pass of one process; fewer than the batch accumulates gradients."""
    rankings_per_forward: int = 8
    """Rankings that run through the model together; those of a batch are grouped by length."""
    weight_decay: float = 0.0
    mean_loss_coef: float = 0.5
    """Weight of a second loss, by a score that is the mean over a response's tokens instead of read at its last."""
    sample_batch_size: int = 256
    """Responses sampled together on one process."""

    def check(self) -> None:
        """Raise UserError for settings that no reward model can be trained with."""
        super().check()
        check_ranges(
            self,
            counts="epochs rankings_per_forward sample_batch_size",
            positive="temperature",
            not_negative="weight_decay mean_loss_coef",
        )
        self.check_least(responses=2)

    def validate(self) -> None:
        """Raise UserError for a configuration that cannot be run."""
        self.check()

    def check_least(self, **least: int) -> None:
        """Raise UserError where a setting is below its least value."""
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"{name} must be at least {value}, but is {getattr(self, name)}")

    @property
    def labelling(self) -> tuple[str, float]:
        """(who ranks, the noise of the labels in units of their score)."""
        raise NotImplementedError

    @property
    def lengths(self) -> tuple[int, int]:
        """(prompt_length, response_length) of settings that are `resolved`."""
        assert self.prompt_length is not None
        assert self.response_length is not None
        return self.prompt_length, self.response_length

    def scheduled(self, rankings: int, processes: int) -> Self:
        """With the epochs, and a batch no greater, that so many rankings ask for where no epochs are given.

        The batch is halved, to 4 at the least, until an epoch has 50 steps: from few rankings a model learns by many
        small steps what it does not by fewer larger ones. An epoch is repeated up to 4 times, and more often where
        that makes fewer than 24 steps. Measured in docs/LOG.md.
        """
        if self.epochs is not None:
            return self
        size = self.batch_size
        while size >= 2 * SMALLEST_BATCH and rankings < STEPS_PER_EPOCH * size:
            try:
                replace(self, batch_size=size // 2).micro_batches(processes)
            except UserError:
                break  # what is left cannot be divided
            size //= 2
        few = math.ceil(FEWEST_STEPS / math.ceil(rankings / size))
        return replace(self, batch_size=size, epochs=max(few, min(MOST_EPOCHS, round(PASSES / rankings)), 1))

    def resolved(self, sft: StageRecord, context_length: int) -> Self:
        """With the lengths of the SFT stage where none are given; UserError if they outgrow the context."""
        prompt = sft.config["prompt_length"] if self.prompt_length is None else self.prompt_length
        response = sft.config["response_length"] if self.response_length is None else self.response_length
        check_lengths(prompt, response, context_length)
        return replace(self, prompt_length=prompt, response_length=response)


@dataclass(kw_only=True)
class RewardModelConfig(RankingOptions):
    """Sample responses from the SFT model, rank them, train the reward model on the rankings."""

    prompts: Path | None = None
    """Your own prompts, JSONL of {"prompt"}, a tenth of them held out; default: the dialogue of the run's corpus."""
    n_prompts: int = 2500
    """Prompts whose responses are ranked, at most as many as there are."""
    n_heldout: int = 360
    """Held-out prompts that the reward model is judged on, at most as many as there are."""
    include_play: bool = False
    """Rank the play's own reply as one more candidate; prompts of your own have none."""

    score: str = "gold"
    """Scores that rank the replies: gold, or module:callable, called as callable(prompt, response) -> float."""
    label_temperature: float = 0.08
    """Noise of the labels, in units of the score: P(a before b) = sigmoid((a - b)/temperature); 0 is exact."""
    rankings: tuple[str, ...] = ()
    """JSONL files of rankings or votes made elsewhere, by people for example."""
    weights: tuple[float, ...] = ()
    """Weight of the rankings of each of these files: their pairs' loss is multiplied by it. Default: 1 for each."""
    rankings_use: Literal["replace", "mix"] = "replace"
    """Whether --rankings take the place of the scored rankings or are added to them."""
    loss: Literal["pairs", "plackett-luce"] = "pairs"
    """What a ranking teaches: each of its pairs by itself, or each reply's place before all that stand below it."""

    @property
    def labelling(self) -> tuple[str, float]:
        return self.score, self.label_temperature

    def validate(self) -> None:
        """Raise UserError for a configuration that cannot be run."""
        self.check()
        check_ranges(self, counts="n_prompts", not_negative="label_temperature")
        self.check_least(n_heldout=8)
        if self.weights and len(self.weights) != len(self.rankings):
            raise UserError(
                f"{len(self.weights)} weights for {len(self.rankings)} files of rankings: give one per file"
            )
        if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
            raise UserError(f"weights must be positive and finite, but are {' '.join(map(str, self.weights))}")
        if self.rankings_use == "mix" and not self.rankings:
            raise UserError("rankings_use mix needs something to mix with: give --rankings FILE")


PRESETS: dict[str, tuple[str, RewardModelConfig]] = {
    "smoke": (
        "seconds: what the tests drive",
        RewardModelConfig(n_prompts=48, n_heldout=16, epochs=1, batch_size=8, log_every=2, save_every=3),
    ),
    "laptop": (
        "2 CPU cores, two minutes",
        RewardModelConfig(include_play=True, learning_rate=3e-3),
    ),
    "gpu": (
        "one GPU, bf16",
        RewardModelConfig(
            n_prompts=6000,
            batch_size=32,
            rankings_per_forward=32,
            learning_rate=3e-4,
            precision="bf16",
            sample_batch_size=1024,
        ),
    ),
}
