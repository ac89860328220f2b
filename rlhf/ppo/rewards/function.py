"""A Python function as the reward."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from data.console import UserError
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.base import PolicyTokens, Responses, RewardFunction


class FunctionReward:
    """A Python function of texts. Nothing that it reads is tokenised again, and what it computes is its own affair.

    It is called outside autocast: a model that the function runs computes in the precision that it was given.
    """

    def __init__(self, function: RewardFunction, policy: PolicyTokens, device: torch.device) -> None:
        if not callable(function):
            raise UserError(
                f"the reward is a {type(function).__name__}: give a folder, a hub name or a model of sequence "
                "classification, a function (prompts, responses) -> scores, or a list of (reward, weight)"
            )
        if policy.tokenizer is None:
            raise UserError("a reward function reads text: pass the tokenizer")
        try:
            inspect.signature(function).bind([], [])
        except TypeError as error:
            raise UserError(f"the reward function must accept (prompts, responses): {error}") from error
        except ValueError:  # a builtin that does not tell its parameters
            pass
        self.function, self.policy, self.device = function, policy, device

    def __call__(self, prompts: Sequence[Prompt], responses: Responses) -> Tensor:
        prompt_texts = [self.policy.prompt_text(prompt) for prompt in prompts]
        response_texts = [self.policy.response_text(response) for response in responses]
        with torch.autocast(self.device.type, enabled=False):
            given: Any = self.function(prompt_texts, response_texts)
        try:
            scores = torch.as_tensor(given, dtype=torch.float32, device=self.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"the reward function gave {given!r:.60}: return a list of numbers, one per response"
            ) from error
        if scores.shape != (len(prompts),):
            raise UserError(
                f"the reward function gave scores of shape {tuple(scores.shape)} for {len(prompts)} responses: "
                "return one number for each"
            )
        if not scores.isfinite().all():
            bad = int(scores.isfinite().logical_not().nonzero()[0])
            raise UserError(
                f"the reward function gave {scores[bad].item()} for the response {response_texts[bad]!r:.60}: "
                "return finite numbers"
            )
        return scores
