"""What the reference would have been paid: the mean score of its replies to a prompt, sampled once."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pretrain.machine import seeded
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.base import Reward

Reply = Callable[[Sequence[Prompt], Tensor], list[list[int]]]
"""(prompts, noise (B, R) in [0, 1)) -> the reference's replies."""


class ReferenceScores:
    """Means of `count` scores per prompt. They depend on the seed and the prompt alone, so there is nothing to save."""

    def __init__(self, reply: Reply, reward: Reward, count: int, response_length: int, seed: int) -> None:
        self.reply, self.reward, self.seed = reply, reward, seed
        self.count, self.response_length = count, response_length
        self.means: dict[int, float] = {}
        """By the identity of the prompt: rows of one text may have columns of their own."""

    def __call__(self, prompts: Sequence[Prompt]) -> list[float]:
        """The mean of each prompt; the prompts must outlive this object."""
        new = [prompt for prompt in {id(each): each for each in prompts}.values() if id(prompt) not in self.means]
        if new:
            rows = [prompt for prompt in new for _ in range(self.count)]
            scores = self.reward(rows, self.reply(rows, torch.cat([self._noise(prompt) for prompt in new])))
            means = scores.view(-1, self.count).mean(1).tolist()
            self.means |= {id(prompt): mean for prompt, mean in zip(new, means, strict=True)}
        return [self.means[id(prompt)] for prompt in prompts]

    def _noise(self, prompt: Prompt) -> Tensor:
        digest = hashlib.sha256(f"{self.seed} {list(prompt)}".encode()).digest()
        generator = seeded(int.from_bytes(digest[:8], "big"))
        return torch.rand(self.count, self.response_length, dtype=torch.float64, generator=generator)
