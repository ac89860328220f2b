"""Sequence-classification models as the reward: of the policy's tokens, and of other ones."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from data.console import UserError
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.base import PolicyTokens, Responses
from sft.models.forward import Scores, score_sequences
from sft.models.loading import context_length


class ModelReward:
    """The normalised score of a sequence-classification model with one label; see `sft.models.forward.Scores`."""

    def __init__(self, model: PreTrainedModel, batch_rows: int) -> None:
        """batch_rows: sequences per forward pass."""
        self.scores = Scores(model)
        self.model = self.scores.model
        self.batch_rows = batch_rows

    def __call__(self, prompts: Responses, responses: Responses) -> Tensor:
        raw = score_sequences(self.scores, prompts, responses, self.batch_rows)
        return self.scores.normalised(raw.to(self.model.device))


class TranslatedReward:
    """A reward model of another tokenizer: what the policy wrote reaches it as text, in tokens of its own.

    A conversation goes through the reward model's own chat template, the response as the assistant's message. A
    text is prompt and response joined, with the reward model's EOS where the response ended by itself. What the
    reward model cannot read in one piece loses its beginning.
    """

    def __init__(self, model: ModelReward, tokenizer: Any, policy: PolicyTokens) -> None:
        self.model, self.tokenizer, self.policy = model, tokenizer, policy

    def __call__(self, prompts: Sequence[Prompt], responses: Responses) -> Tensor:
        room = context_length(self.model.model)
        sequences = [self.encode(p, r)[-room:] for p, r in zip(prompts, responses, strict=True)]
        return self.model([ids[:-1] for ids in sequences], [ids[-1:] for ids in sequences])

    def encode(self, prompt: Prompt, response: Sequence[int]) -> list[int]:
        """Prompt and response in the reward model's token ids."""
        if prompt.messages is None:
            text = self.policy.response_text(response, prompt)
            ids = list(self.tokenizer.encode(self.policy.prompt_text(prompt) + text))
            eos = self.tokenizer.eos_token_id
            stopped = self.policy.stopped(response)
            return [*ids, eos] if stopped and eos is not None and ids[-1] != eos else ids
        messages, text = prompt.messages, self.policy.message_text(response)
        if messages[-1]["role"] == "assistant":  # the response continues what is there
            messages, text = messages[:-1], messages[-1]["content"] + self.policy.response_text(response, prompt)
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise UserError(
                "the prompts are conversations, and the reward model's tokenizer, which is not the policy's, has no "
                "chat template: give the prompts as text, or a Python function as the reward"
            )
        whole = self.tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": text}], tokenize=False)
        return list(self.tokenizer.encode(whole, add_special_tokens=False))
