"""From rankings to a reward model: the training of a stage, and what is logged of it."""

import copy
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel
from trl import RewardConfig

from data.run.folder import StageFolder
from data.run.progress import Bar, progress_bar
from data.tokenizers import Tokenizer
from reward.config import RankingOptions
from reward.evaluate import judge_pairs, score_rankings
from reward.model import RewardModel, new_reward_model, with_weights_of
from reward.rankings import Ranking
from reward.training.batches import JudgeBeginnings, Loss, RankingCollator, ranking_dataset
from reward.training.trainer import RankingTrainer
from sft.models.loading import context_length, quiet
from sft.models.tokens import load_tokenizer
from sft.trl import StageCallback, last_checkpoint, run_trainer, trainer_arguments

CURVE_RANKINGS = 64
"""Held-out rankings that are scored while the model learns, at most."""


class RewardCallback(StageCallback):
    """Loss, accuracy and margin of the pairs; the held-out accuracy where the comparisons seen have doubled."""

    def __init__(
        self, stage: StageFolder, bar: Bar, dataset: Dataset, heldout: Sequence[Ranking], plain: PreTrainedModel
    ) -> None:
        """dataset: an epoch. heldout: rankings for the learning curve. plain: a model to score them with."""
        super().__init__(stage, bar)
        self.pairs, self.plain = sum(map(len, dataset["chosen"])), plain
        self.heldout = [ranking for ranking in heldout if ranking.pairs()][:CURVE_RANKINGS]
        self.seen = max((line["comparisons"] for line in stage.read_metrics()), default=0)
        self.measured: dict[str, float] = {}

    def write(self, step: int, logs: dict[str, float], model: Any) -> None:
        seen = round(logs["epoch"] * self.pairs)
        self.measured = {"comparisons": seen}
        if self.heldout and seen.bit_length() > self.seen.bit_length():
            self.measured |= self._on_heldout(model)
        self.seen = seen
        super().write(step, logs, model)

    def metrics(self, logs: dict[str, float]) -> dict[str, float]:
        of_batch = {name: logs[name] for name in ("accuracy", "margin", "mean_reward")}
        return {"loss": logs["ranking_loss"]} | of_batch | self.measured

    def shown(self, logs: dict[str, float]) -> str:
        return f"loss {logs['ranking_loss']:.4f} · pairs right {logs['accuracy']:.3f}"

    def _on_heldout(self, model: Any) -> dict[str, float]:
        scores = score_rankings(with_weights_of(model, self.plain), self.heldout, normalise=False)
        by_ranking = scores.split([len(ranking.completions) for ranking in self.heldout])
        right = [pair.right for pair in judge_pairs(self.heldout, [each.tolist() for each in by_ranking])]
        return {"heldout_accuracy": sum(right) / len(right), "heldout_pairs": len(right)}


def train_on_rankings(
    stage: StageFolder,
    base: Path,
    config: RankingOptions,
    rankings: Sequence[Ranking],
    heldout: Sequence[Ranking],
    *,
    loss: Loss,
    judge: JudgeBeginnings | None = None,
    beginnings_coef: float = 0.0,
    in_order: bool = False,
    state: PartialState,
    dtype: torch.dtype,
) -> RewardModel:
    """Train from the SFT checkpoint in `base`, or from the trainer's last state if the stage has one.

    heldout: rankings that the model is judged on while it learns, if any. judge: of the responses' beginnings, which
    have the weight `beginnings_coef` in the loss. in_order: take the rankings as they come instead of at random. dtype:
    of the activations. The stage's own settings get the epochs and the batch that the rankings ask for.
    """
    tokenizer = Tokenizer.load(base)
    # The libraries leave hooks in what they train; the other one gets the weights and is scored with.
    model: Any
    model, plain = (new_reward_model(base, config.seed, state.device) for _ in range(2))
    dataset = ranking_dataset(rankings, context_length(plain), judge)
    config = config.scheduled(len(dataset), state.num_processes)
    stage.config |= {"epochs": config.epochs, "batch_size": config.batch_size}
    assert config.epochs is not None
    steps = config.epochs * math.ceil(len(dataset) / config.batch_size)
    checkpoint, done = last_checkpoint(stage)
    stage.truncate_metrics(after=done)
    if config.mean_loss_coef:
        model.mean_score = copy.deepcopy(model.score).requires_grad_(True)
    batches, bf16 = config.micro_batches(state.num_processes), dtype == torch.bfloat16
    with quiet(), warnings.catch_warnings(), progress_bar(stage.record.stage, steps, done) as bar:
        warnings.simplefilter("ignore")  # of the libraries among themselves
        arguments = RewardConfig(
            **trainer_arguments(config, stage.resume_path, batches, state.device, bf16),
            logging_steps=min(config.log_every, math.ceil(steps / 20)),  # of a short training, too, there is a curve
            save_steps=config.save_every,
            train_sampling_strategy="sequential" if in_order else "random",
            num_train_epochs=config.epochs,
            weight_decay=config.weight_decay,
            adam_beta2=0.95,
            warmup_steps=max(1, round(config.warmup_fraction * steps)),
            max_length=None,  # its filter drops what is too long without a word; ranking_dataset refuses it
            ddp_broadcast_buffers=False,  # a batch is several forward passes
        )
        trainer = RankingTrainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            processing_class=load_tokenizer(base, "base"),
            collator=RankingCollator(tokenizer.pad_id, width_step=32, loss=loss),
            rankings_per_forward=config.rankings_per_forward,
            mean_loss_coef=config.mean_loss_coef,
            beginnings_coef=beginnings_coef,
        )
        run_trainer(trainer, RewardCallback(stage, bar, dataset, heldout, plain), checkpoint, state.device)
    return with_weights_of(trainer.accelerator.unwrap_model(trainer.model), plain)
