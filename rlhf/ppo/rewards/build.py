"""From what a user gives as the reward to a `Reward`, or to the sum of several."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from data.console import UserError
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.base import PolicyTokens, Responses, Reward, RewardRecipe
from rlhf.ppo.rewards.function import FunctionReward
from rlhf.ppo.rewards.model import ModelReward, TranslatedReward
from sft.models.loading import check_fits, load_classifier
from sft.models.tokens import load_tokenizer, same_tokens


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


def build_reward(
    source: Any, policy: PolicyTokens, batch_rows: int, device: torch.device
) -> tuple[Reward, PreTrainedModel | None]:
    """The reward, and the first sequence-classification model in it that reads the policy's tokens.

    source: a folder, hub name or model of sequence classification, a function, a recipe, a list of (reward, weight), or
        a mapping from the name that each has in the log to (reward, weight).
    batch_rows: sequences per forward pass of a model. UserError on what cannot give a reward.
    """
    if isinstance(source, RewardRecipe):
        return source.build(policy, batch_rows, device)
    if isinstance(source, list | tuple | Mapping):
        parts: dict[str, tuple[Reward, float]] = {}
        first = None
        given = list(source) if isinstance(source, Mapping) else [None] * len(source)
        several = list(source.values()) if isinstance(source, Mapping) else source
        for number, (own_name, (part, weight)) in enumerate(zip(given, _weighted(several), strict=True)):
            reward, model = build_reward(part, policy, batch_rows, device)
            name = own_name or _name(part)
            parts[name if name and name not in parts else f"{name or 'reward'}_{number}"] = (reward, weight)
            first = model if first is None else first
        return WeightedReward(parts), first
    is_model = isinstance(source, str | Path | nn.Module)
    if not is_model:
        return FunctionReward(source, policy, device), None
    model = load_classifier(source, device)
    theirs = load_tokenizer(model)
    fits = model.config.get_text_config().vocab_size >= policy.vocab_size
    if theirs is not None and policy.tokenizer is not None and not (fits and same_tokens(policy.tokenizer, theirs)):
        return TranslatedReward(ModelReward(model, batch_rows), theirs, policy), None
    check_fits(model, "reward model", policy.vocab_size, policy.length)
    return ModelReward(model, batch_rows), model


def _weighted(source: Sequence[Any]) -> list[tuple[Any, float]]:
    """Several rewards as (reward, weight)."""
    if not source:
        raise UserError("there is no reward: the list of (reward, weight) is empty")
    for number, part in enumerate(source):
        if not (isinstance(part, list | tuple) and len(part) == 2 and isinstance(part[1], int | float)):
            raise UserError(f"each of several rewards is a pair (reward, weight); number {number} is {part!r:.60}")
        if not math.isfinite(part[1]):
            raise UserError(f"the weight of reward {number} is {part[1]}: give a finite number")
    return [(part, float(weight)) for part, weight in source]


def _name(source: Any) -> str:
    """A function's own name, or the last part of where a model came from; nothing if there is none."""
    if isinstance(source, PreTrainedModel):
        source = source.config.name_or_path
    name = Path(source).name if isinstance(source, str | Path) else getattr(source, "__name__", "")
    return name if name != "<lambda>" else ""
