"""The reward model: a language model's body with a scalar head, read at the last token of the response."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from data.console import UserError
from data.run.card import Card
from pretrain.machine import seeded
from sft.models.forward import Scores, score_sequences
from sft.models.loading import load_classifier

_LIMITS = (
    "It learned from rankings of one model's replies, and its score means little for other texts. Optimising it too "
    "far finds its errors. It is for study."
)
REWARD_CARD = Card(
    what="A reward model: a sequence classifier with one label, its score of a reply to a prompt, trained on rankings. "
    "Normalised as below, replies of the SFT model to held-out prompts have mean 0 and standard deviation 1.",
    metrics={
        "heldout_accuracy": "held-out pairwise accuracy",
        "accuracy_ceiling": "its upper bound, set by label noise",
        "length_baseline": "the same by length alone",
        "ece": "expected calibration error",
        "pairs": "pairs trained on",
        "heldout_pairs": "pairs held out",
    },
    limits=_LIMITS,
    scores=True,
)
FOLLOWING_CARD = Card(
    what="A reward model of doing as asked: a sequence classifier with one label. Normalised as below, replies of the "
    "SFT model to held-out prompts have mean 0 and standard deviation 1; sigmoid(follow_scale · score + follow_bias), "
    "both in the model's configuration, is the probability that a reply does what its prompt asks.",
    metrics={
        "heldout_accuracy": "held-out pairwise accuracy",
        "length_baseline": "the same by length alone",
        "log_loss": "log loss of the probability, nats",
        "pairs": "pairs trained on",
        "heldout_pairs": "pairs held out",
    },
    limits=_LIMITS,
    scores=True,
)


def new_reward_model(folder: Path, seed: int, device: torch.device | str = "cpu") -> PreTrainedModel:
    """A reward model on `device` that starts from the language model in `folder`, with a new head.

    The head's weights have standard deviation 1/√(width + 1) (Stiennon et al., arXiv 2009.01325), so that
    scores start at the scale of 1.
    """
    model = load_classifier(folder, device, new_head=True, num_labels=1)
    head: Any = model.score
    generator = seeded(seed)
    with torch.no_grad():
        head.weight.copy_(torch.randn(1, head.in_features, generator=generator) / math.sqrt(head.in_features + 1))
    return model


class RewardModel(Scores):
    """Scores of responses, as later stages use them: normalised, so that SFT samples have mean 0 and std 1."""

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> "RewardModel":
        """The reward model of a finished `reward` folder; UserError if it holds none."""
        return cls(load_classifier(folder, device))

    def set_normalisation(self, mean: float, std: float) -> None:
        """Normalise by these from now on, here and (through the saved configuration) wherever it is loaded."""
        if not std > 0:
            raise UserError("the reward model gives every response the same score: train it longer or on more rankings")
        self.mean = self.model.config.reward_mean = mean
        self.std = self.model.config.reward_std = std

    def set_probability(self, scale: float, bias: float) -> None:
        """From now on sigmoid(scale · score + bias) is the probability of doing as told, here and wherever loaded."""
        self.model.config.follow_scale, self.model.config.follow_bias = self.follow = (scale, bias)

    def score(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int = 64, normalise: bool = True
    ) -> Tensor:
        """Scores (N,), float32 on the CPU, of N (prompt ids, response ids); each sequence stands alone."""
        prompts, responses = zip(*sequences, strict=True)
        raw = score_sequences(self, prompts, responses, batch_size)
        return self.normalised(raw) if normalise else raw


def with_weights_of(trained: nn.Module, plain: PreTrainedModel) -> RewardModel:
    """The reward model that `plain` is with the weights of `trained`, whose head for the second loss is left out."""
    weights = trained.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    return RewardModel(plain)
