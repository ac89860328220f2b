"""Several rewards as one, and what each of them is called in the log."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from data.console import UserError
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.base import Responses, Reward, RewardFunction, RewardRecipe
from sft.models.tokens import ModelSource


@dataclass(frozen=True)
class RewardEnsemble:
    """Several rewards of one thing, in the same units, of which none alone is to be trusted.

    A policy soon finds what one reward model likes too well; less soon what all of them do. The rules are worst-case
    and uncertainty-weighted optimization of Coste et al., "Reward Model Ensembles Help Mitigate Overoptimization"
    (arXiv 2310.02743), the latter with the standard deviation for their variance.
    """

    rewards: Sequence[Any] | Mapping[str, Any]
    """At least two, each anything that the trainer takes as a reward; a mapping names them in the log."""
    rule: Literal["min", "mean"] = "min"
    """min: the least score counts. mean: their mean minus `deviation_coef` times their standard deviation."""
    deviation_coef: float = 0.0
    """λ of rule "mean": score per unit of standard deviation between the rewards (that of a population)."""

    def __post_init__(self) -> None:
        if not isinstance(self.rewards, list | tuple | Mapping) or len(self.rewards) < 2:
            raise UserError("an ensemble needs a list, or a mapping from names, of at least two rewards")
        if self.rule not in ("min", "mean"):
            raise UserError(f"the rule of an ensemble is {self.rule!r}: it is min or mean")
        coef = self.deviation_coef
        if not (isinstance(coef, int | float) and 0 <= coef < math.inf):
            raise UserError(f"deviation_coef is {coef!r}: it must be a number of 0 or more")
        if coef and self.rule == "min":
            raise UserError('deviation_coef has no effect on rule "min": leave it out, or choose rule "mean"')


RewardSource = ModelSource | RewardFunction | RewardRecipe | RewardEnsemble


class CombinedReward:
    """Several rewards as one, each with its name in the log.

    rule: "sum" (by the weights), or one of `RewardEnsemble`. `means` holds the mean of each over the last call, before
    its weight, and under NAME/METRIC what it logs itself.
    """

    def __init__(self, parts: dict[str, tuple[Reward, float]], rule: str = "sum", deviation_coef: float = 0.0) -> None:
        self.parts, self.rule, self.deviation_coef = parts, rule, deviation_coef
        self.means: dict[str, float] = {}

    def __call__(self, prompts: Sequence[Prompt], responses: Responses) -> Tensor:
        scores = [reward(prompts, responses) for reward, _ in self.parts.values()]
        self.means = {name: score.mean().item() for name, score in zip(self.parts, scores, strict=True)}
        for name, (reward, _) in self.parts.items():
            for metric, mean in getattr(reward, "means", {}).items():
                self.means[free_name(f"{name}/{metric}", self.means)] = mean
        if self.rule == "sum":
            weights = [weight for _, weight in self.parts.values()]
            return torch.stack([weight * score for weight, score in zip(weights, scores, strict=True)]).sum(0)
        table = torch.stack([score.float() for score in scores])
        deviation = table.std(0, correction=0)
        self.means[free_name("deviation", self.means)] = deviation.mean().item()
        return table.amin(0) if self.rule == "min" else table.mean(0) - self.deviation_coef * deviation


def weighted(source: Sequence[Any]) -> list[tuple[Any, float]]:
    """Several rewards as (reward, weight); UserError on what is none."""
    if not source:
        raise UserError("there is no reward: the list of (reward, weight) is empty")
    for number, part in enumerate(source):
        if not (isinstance(part, list | tuple) and len(part) == 2 and isinstance(part[1], int | float)):
            raise UserError(f"each of several rewards is a pair (reward, weight); number {number} is {part!r:.60}")
        if not math.isfinite(part[1]):
            raise UserError(f"the weight of reward {number} is {part[1]}: give a finite number")
    return [(part, float(weight)) for part, weight in source]


def names_of(source: Sequence[Any] | Mapping[str, Any], rewards: Sequence[Any]) -> list[str]:
    """What each of several rewards is called in the log: no two alike, whatever they are called themselves.

    source: what the user gave, whose keys are the names if it is a mapping. rewards: what is in it.
    """
    if isinstance(source, Mapping):
        for name in source:
            if not (isinstance(name, str) and name):
                raise UserError(f"the name of a reward is {name!r}: give a text that is not empty")
        return list(source)
    wanted = [own_name(reward) for reward in rewards]
    names: list[str] = []
    for number, name in enumerate(wanted):
        # What is made up must not be another's own name, one that comes later included.
        names.append(name if name and name not in names else free_name(name or "reward", {*wanted, *names}, number))
    return names


def free_name(name: str, taken: Collection[str], number: int | None = None) -> str:
    """The name, or with a number (from `number` on, which is then always added) the first that nobody has."""
    found, count = (name, 1) if number is None else (f"{name}_{number}", number)
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    return found


def own_name(source: Any) -> str:
    """A function's own name, or the last part of where a model came from; nothing if there is none."""
    if isinstance(source, PreTrainedModel):
        source = source.config.name_or_path
    name = Path(source).name if isinstance(source, str | Path) else getattr(source, "__name__", "")
    return name if isinstance(name, str) and name != "<lambda>" else ""
