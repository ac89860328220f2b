"""What becomes of a score before an algorithm maximises it: the same for PPO and all others."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from data.console import UserError
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.base import Responses, Reward


class ScoreRules(NamedTuple):
    """See the fields of the same names of `PPOConfig`."""

    missing_eos_rule: Literal["subtract", "replace"]
    missing_eos_penalty: float
    score_clip: float | None


class Scored(NamedTuple):
    """What responses are worth; each (B,)."""

    raw: Tensor
    """As the reward gives it."""
    scores: Tensor
    """After the clip and the rule for responses that never stop: what an algorithm maximises."""
    stopped: Tensor
    """bool: the last token is a stop token."""


class Scorer:
    """Scores of token ids, prompts and responses (the stop token included), by a reward and the rules on it."""

    def __init__(self, reward: Reward, stop_ids: frozenset[int], rules: ScoreRules) -> None:
        self.reward, self.stop_ids, self.rules = reward, stop_ids, rules

    def __call__(self, prompts: Sequence[Prompt], responses: Responses) -> Scored:
        """UserError where a score is not a finite number."""
        return self.apply_rules(self.raw(prompts, responses), responses)

    def raw(self, prompts: Sequence[Prompt], responses: Responses) -> Tensor:
        """Scores (B,) as the reward gives them; UserError where one is not a finite number."""
        raw = self.reward(prompts, responses)
        if not raw.isfinite().all():
            raise UserError("the reward is not a finite number for some response: check the reward")
        return raw

    def apply_rules(self, raw: Tensor, responses: Responses) -> Scored:
        """The clip, then the rule for responses that never stop; raw: (B,)."""
        rule, penalty, clip = self.rules
        # Stopped means: a stop token within the response, which then is its last.
        stopped = torch.tensor([ids[-1] in self.stop_ids for ids in responses], device=raw.device)
        scores = raw if clip is None else raw.clamp(-clip, clip)
        return Scored(raw, apply_missing_stop(scores, stopped, rule, penalty), stopped)


def apply_missing_stop(scores: Tensor, stopped: Tensor, rule: str, penalty: float) -> Tensor:
    """Scores (B,) after the rule for responses that never stop; `stopped` (B,) says which did.

    rule "subtract": score - penalty (keeps the order among them); "replace": -penalty, whatever the score
    (Stiennon et al.: an unfinished text has no claim to a good score).
    """
    if rule == "subtract":
        return torch.where(stopped, scores, scores - penalty)
    if rule == "replace":
        return torch.where(stopped, scores, torch.full_like(scores, -penalty))
    raise ValueError(f"unknown rule {rule!r} for responses that never stop: subtract or replace")
