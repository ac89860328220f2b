"""Several rewards as one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.base import Responses, Reward


class WeightedReward:
    """The weighted sum of several rewards, each with its name in the log.

    `means` holds the mean of each over the last call, before its weight.
    """

    def __init__(self, parts: dict[str, tuple[Reward, float]]) -> None:
        self.parts = parts
        self.means: dict[str, float] = {}

    def __call__(self, prompts: Sequence[Prompt], responses: Responses) -> Tensor:
        scores = {name: reward(prompts, responses) for name, (reward, _) in self.parts.items()}
        self.means = {name: score.mean().item() for name, score in scores.items()}
        return torch.stack([weight * scores[name] for name, (_, weight) in self.parts.items()]).sum(0)
