"""The reward of prompts that may ask for something: craft, and doing as told."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from data.dialogue import encode_prompt
from data.directions.headings import directions_of, undirected
from data.directions.specs import Direction, Spec
from data.tokenizers import Tokenizer
from reward.model import RewardModel
from rlhf.asked.balance import Balance
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.base import PolicyTokens, Responses, Reward, RewardRecipe
from rlhf.ppo.rewards.build import build_reward
from rlhf.ppo.rewards.model import ModelReward


class AsDirected(RewardRecipe):
    """Craft for a prompt that asks for nothing; doing as told, and craft, for one that does.

    Craft reads every prompt without its directions: it is what it was learned as.
    """

    def __init__(
        self,
        craft: Any,
        following: Callable[[Sequence[Prompt], Responses], Tensor],
        balance: Balance,
        specs: Sequence[Spec],
        tokenizer: Tokenizer,
        prompt_length: int,
    ) -> None:
        """craft: what `build_reward` takes. following: how far replies (B,) do as they are told, in [0, 1]."""
        self.source, self.following, self.balance, self.specs = craft, following, balance, tuple(specs)
        self.tokenizer, self.prompt_length = tokenizer, prompt_length
        self.means: dict[str, float] = {}
        self._plain: dict[str, tuple[str, list[int], tuple[Direction, ...]]] = {}

    def build(
        self, policy: PolicyTokens, batch_rows: int, device: torch.device
    ) -> tuple[Reward, PreTrainedModel | None]:
        self.craft, model = build_reward(self.source, policy, batch_rows, device)
        return self, model

    def __call__(self, prompts: Sequence[Prompt], responses: Responses) -> Tensor:
        plain = [self.plain(prompt) for prompt in prompts]
        craft = self.craft([prompt for prompt, _ in plain], responses).float()
        asked = torch.tensor([bool(directions) for _, directions in plain], device=craft.device)
        followed = torch.zeros_like(craft)
        if asked.any():
            rows = asked.nonzero().squeeze(1).tolist()
            found = self.following([prompts[row] for row in rows], [responses[row] for row in rows])
            followed[asked] = found.to(craft)
        self.means = {"craft": craft.mean().item()}
        self.means |= {f"craft/{name}": mean for name, mean in getattr(self.craft, "means", {}).items()}
        if asked.any():
            self.means["following"] = followed[asked].mean().item()
        lengths = torch.tensor([float(len(response)) for response in responses], device=craft.device)
        return self.balance.scores(craft, followed, asked, lengths)

    def plain(self, prompt: Prompt) -> tuple[Prompt, tuple[Direction, ...]]:
        """The prompt without its directions, and these."""
        text = prompt.text or ""
        if text not in self._plain:
            directions = directions_of(text, self.specs)
            bare = undirected(text, self.specs)
            ids = encode_prompt(self.tokenizer, bare, self.prompt_length) if directions else list(prompt)
            self._plain[text] = bare, ids, directions
        bare, ids, directions = self._plain[text]
        return replace(prompt, ids=ids, text=bare), directions


class Learned:
    """The probability that a reply does all that was asked, by the model that learned to tell."""

    def __init__(self, model: RewardModel, batch_rows: int) -> None:
        self.scores, self.model = ModelReward(model.model, batch_rows), model

    def __call__(self, prompts: Sequence[Prompt], responses: Responses) -> Tensor:
        return self.model.probability(self.scores(prompts, responses))


class Rule:
    """The table's own rule: the mean over what was asked of how nearly each was followed."""

    def __init__(self, specs: Sequence[Spec], tokenizer: Tokenizer) -> None:
        self.specs, self.tokenizer = tuple(specs), tokenizer

    def __call__(self, prompts: Sequence[Prompt], responses: Responses) -> Tensor:
        eos = self.tokenizer.eos_id
        scores = []
        for prompt, response in zip(prompts, responses, strict=True):
            text = self.tokenizer.decode([id for id in response if id != eos], keep_special=True)
            nearly = [direction.nearly(text) for direction in directions_of(prompt.text or "", self.specs)]
            scores.append(math.fsum(nearly) / max(1, len(nearly)))
        return torch.tensor(scores)
