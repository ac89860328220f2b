"""What every source of rewards shares: the protocol, and what it must know of the policy's tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlhf.ppo.prompts import Prompt
from sft.models.stops import StopStrings
from sft.models.tokens import continuation, without_stop

RewardFunction = Callable[..., Any]
"""(prompts, responses, **columns) as text -> one score each; or (scores, metrics), each metric a number per response.

Of the columns of the prompts' data it gets those that its signature asks for."""
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


@dataclass(frozen=True)
class PolicyTokens:
    """The tokens that the policy reads and writes, and how they become text."""

    tokenizer: Any
    """None where prompts are token ids and nothing needs text."""
    vocab_size: int
    stop_ids: frozenset[int]
    length: int
    """Largest number of tokens of prompt and response."""
    columns: Mapping[str, str | None] = field(default_factory=dict)
    """The names of the columns of the prompts' data, as `columns_of` gives them."""
    stop_strings: StopStrings | None = None

    def response_text(self, response: Sequence[int], prompt: Sequence[int] = ()) -> str:
        """A response as text that continues its prompt, without the token that ended it.

        All else that was written is in it, special tokens too. Without a prompt it is what follows another text.
        """
        ids = without_stop(response, self.stop_ids)
        return str([*ids]) if self.tokenizer is None else continuation(self.tokenizer, ids, prompt or ids)

    def stopped(self, response: Sequence[int]) -> bool:
        """Whether a response ended by itself: by a stop token within it, which then is its last, or by a text."""
        return response[-1] in self.stop_ids or (self.stop_strings is not None and self.stop_strings.ended(response))

    def message_text(self, response: Sequence[int]) -> str:
        """A response as a text of its own, without the token that ended it: the content of a message."""
        return str(self.tokenizer.decode([*without_stop(response, self.stop_ids)]))

    def prompt_text(self, prompt: Prompt) -> str:
        """A prompt as it was given; of a conversation what the chat template wrote, special tokens included.

        Of token ids it is their text, special tokens included, but for PAD and a BOS at the beginning.
        """
        return self.text(prompt) if prompt.text is None else prompt.text

    def text(self, ids: Sequence[int]) -> str:
        """Token ids as text, special tokens included, but for PAD and a BOS at the beginning.

        Without a tokenizer it is the ids themselves.
        """
        if self.tokenizer is None:
            return str([*ids])
        bos, eos, pad = (getattr(self.tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad"))
        kept = [token for token in ids if token != pad or pad == eos]
        return str(self.tokenizer.decode(kept[1:] if kept and kept[0] == bos else kept))
