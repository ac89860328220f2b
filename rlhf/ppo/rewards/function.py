"""A Python function as the reward."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from inspect import Parameter
from typing import Any

import torch
from torch import Tensor

from data.console import UserError
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.base import PolicyTokens, Responses, RewardFunction


class FunctionReward:
    """A Python function of texts. Nothing that it reads is tokenised again, and what it computes is its own affair.

    It gets the columns of the prompts' data that its signature asks for by name, a list with one value per response; a
    function with `**columns` gets all. It may give (scores, metrics): `means` holds the mean of each metric over the
    last call.
    It is called outside autocast: a model that the function runs computes in the precision that it was given.
    """

    def __init__(
        self,
        function: RewardFunction,
        policy: PolicyTokens,
        device: torch.device,
        columns: Sequence[str] | None = None,
        name: str = "the reward function",
    ) -> None:
        """columns: the names of those that it gets; None: what its signature asks for. name: what errors call it."""
        if not callable(function):
            raise UserError(
                f"the reward is a {type(function).__name__}: give a folder, a hub name or a model of sequence "
                "classification, a function (prompts, responses) -> scores, or a list of (reward, weight)"
            )
        if policy.tokenizer is None:
            raise UserError(f"{name} reads text: pass the tokenizer")
        needed = list(columns or ())
        for column in needed if columns is not None else _needed(function):
            _check_column(column, policy.columns, name)
        self.columns = needed if columns is not None else _asked(function, policy.columns)
        if columns is None:
            _check_signature(function, self.columns, name)
        self.function, self.policy, self.device, self.name = function, policy, device, name
        self.means: dict[str, float] = {}

    def __call__(self, prompts: Sequence[Prompt], responses: Responses) -> Tensor:
        prompt_texts = [self.policy.prompt_text(prompt) for prompt in prompts]
        response_texts = [self.policy.response_text(r, p) for p, r in zip(prompts, responses, strict=True)]
        columns = {name: [prompt.columns.get(name) for prompt in prompts] for name in self.columns}
        with torch.autocast(self.device.type, enabled=False):
            given: Any = self.function(prompt_texts, response_texts, **columns)
        metrics: Mapping[Any, Any] = {}
        if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping):
            given, metrics = given
        scores = self._numbers(given, "scores", response_texts)
        self.means = {
            str(name): self._numbers(values, f"the metric {name!r}", response_texts).mean().item()
            for name, values in metrics.items()
        }
        return scores

    def _numbers(self, given: Any, what: str, responses: list[str]) -> Tensor:
        """One finite number for each response, (B,), float32; UserError for anything else."""
        try:
            numbers = torch.as_tensor(given, dtype=torch.float32, device=self.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{self.name} gave {given!r:.60} as {what}: return a list of numbers, one per response"
            ) from error
        if numbers.shape != (len(responses),):
            raise UserError(
                f"{self.name} gave {what} of shape {tuple(numbers.shape)} for {len(responses)} responses: "
                "return one number for each"
            )
        if not numbers.isfinite().all():
            bad = int(numbers.isfinite().logical_not().nonzero()[0])
            raise UserError(
                f"{self.name} gave {numbers[bad].item()} as {what} for the response {responses[bad]!r:.60}: "
                "return finite numbers"
            )
        return numbers


def _parameters(function: Any) -> list[Parameter]:
    """The parameters beyond prompts and responses, as far as they can be known."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # a builtin that does not tell its parameters
        return []
    set_already = function.keywords if isinstance(function, functools.partial) else {}
    positional = [p for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    return [p for p in parameters if p not in positional[:2] and p.name not in set_already]


def _by_name(function: Any) -> list[Parameter]:
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return [p for p in _parameters(function) if p.kind in named]


def _needed(function: Any) -> list[str]:
    """The columns without which the function cannot be called."""
    return [p.name for p in _by_name(function) if p.default is Parameter.empty]


def _asked(function: Any, columns: Mapping[str, Any]) -> list[str]:
    """Those of the columns that the function takes."""
    if any(p.kind is Parameter.VAR_KEYWORD for p in _parameters(function)):
        named = {p.name for p in inspect.signature(function).parameters.values()}
        own = named - {p.name for p in _by_name(function)}  # prompts and responses themselves, by whatever name
        return [name for name in columns if name not in own]
    return [p.name for p in _by_name(function) if p.name in columns]


def _check_column(name: str, columns: Mapping[str, str | None], who: str) -> None:
    if name not in columns:
        there = f"have {', '.join(columns)}" if columns else "have none but the prompt"
        raise UserError(
            f'{who} asks for the column "{name}", which the data of the prompts lack (they {there}): add it'
        )
    if columns[name] is not None:
        raise UserError(f'{columns[name]} has no "{name}", which {who} asks for: add it')


def _check_signature(function: Any, columns: Sequence[str], name: str) -> None:
    try:
        inspect.signature(function).bind([], [], **dict.fromkeys(columns))
    except TypeError as error:
        raise UserError(f"{name} must accept (prompts, responses): {error}") from error
    except ValueError:  # a builtin that does not tell its parameters
        pass
