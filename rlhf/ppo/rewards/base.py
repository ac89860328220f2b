"""What every source of rewards shares: the protocol, and what it must know of the policy's tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rlhf.ppo.prompts import Prompt
from sft.models.tokens import ModelSource, decoder, without_stop

RewardFunction = Callable[[list[str], list[str]], Sequence[float]]
"""(prompts, responses) as text -> one score each."""
Responses = Sequence[Sequence[int]]
Reward = Callable[[Sequence[Prompt], Responses], Tensor]
"""(prompts, responses) as token ids -> scores (B,), float32."""


class RewardRecipe:
    """A reward that is made for one policy, from parts of its own."""

    means: dict[str, float]
    """The mean of each part over the last call, by its name in the log."""

    def build(self, policy: "PolicyTokens", batch_rows: int, device: torch.device) -> tuple[Reward, Any]:
        """The reward of token ids, and the first sequence-classification model in it that reads the policy's tokens.

        batch_rows: sequences per forward pass of a model.
        """
        raise NotImplementedError


RewardSource = ModelSource | RewardFunction | RewardRecipe


@dataclass(frozen=True)
class PolicyTokens:
    """The tokens that the policy reads and writes, and how they become text."""

    tokenizer: Any
    """None where prompts are token ids and nothing needs text."""
    vocab_size: int
    stop_ids: frozenset[int]
    length: int
    """Largest number of tokens of prompt and response."""

    @cached_property
    def decode(self) -> Callable[[Sequence[int]], str]:
        return decoder(self.tokenizer)

    def response_text(self, response: Sequence[int]) -> str:
        """A response as text, without the token that ended it."""
        return self.decode(without_stop(response, self.stop_ids))

    def prompt_text(self, prompt: Prompt) -> str:
        """A prompt as it was given; of a conversation what the chat template wrote, special tokens included."""
        return self.decode(prompt) if prompt.text is None else prompt.text
