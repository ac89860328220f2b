"""What every source of rewards shares: the protocol, and what it must know of the policy's tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from rlhf.ppo.prompts import Prompt
from sft.models.tokens import ModelSource, decoder, without_stop

RewardFunction = Callable[[list[str], list[str]], Sequence[float]]
"""(prompts, responses) as text -> one score each."""
RewardSource = ModelSource | RewardFunction
Responses = Sequence[Sequence[int]]
Reward = Callable[[Sequence[Prompt], Responses], Tensor]
"""(prompts, responses) as token ids -> scores (B,), float32."""


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
