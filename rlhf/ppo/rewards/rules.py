"""What becomes of a score before an algorithm maximises it: the same for PPO and all others."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from data.console import UserError
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.base import Responses, Reward
from sft.models.stops import StopStrings


class ScoreRules(NamedTuple):
    """See the fields of the same names of `PPOConfig`."""

    missing_eos_rule: Literal["subtract", "replace"]
    missing_eos_penalty: float
    score_clip: float | None
    score_transform: str | None = None
    overlong_penalty: float = 0.0
    overlong_buffer: int | None = None


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

    def __init__(
        self,
        reward: Reward,
        stop_ids: frozenset[int],
        rules: ScoreRules,
        response_length: int = 0,
        stop_strings: StopStrings | None = None,
    ) -> None:
        """response_length: the longest that a response may be, in tokens; the length budget ends there."""
        self.reward, self.stop_ids, self.rules = reward, stop_ids, rules
        self.response_length, self.stop_strings = response_length, stop_strings

    def __call__(self, prompts: Sequence[Prompt], responses: Responses) -> Scored:
        """UserError where a score is not a finite number."""
        return self.apply_rules(self.raw(prompts, responses), responses)

    def raw(self, prompts: Sequence[Prompt], responses: Responses) -> Tensor:
        """Scores (B,) as the reward gives them; UserError where one is not a finite number."""
        raw = self.reward(prompts, responses)
        if not raw.isfinite().all():
            raise UserError("the reward is not a finite number for some response: check the reward")
        return raw

    def stopped(self, response: Sequence[int]) -> bool:
        """Whether a response ended by itself: by a stop token within it, which then is its last, or by a text."""
        return response[-1] in self.stop_ids or (self.stop_strings is not None and self.stop_strings.ended(response))

    def apply_rules(self, raw: Tensor, responses: Responses, baseline: Tensor | None = None) -> Scored:
        """The clip or the sigmoid, the rule for responses that never stop, and the length budget.

        raw: (B,). baseline: (B,), mean score of the reference's replies to each prompt, where the transform needs it.
        """
        rules = self.rules
        stopped = torch.tensor([self.stopped(ids) for ids in responses], device=raw.device)
        scores = raw if rules.score_clip is None else raw.clamp(-rules.score_clip, rules.score_clip)
        if rules.score_transform == "sigmoid" and baseline is not None:
            scores = torch.sigmoid(raw - baseline)
        scores = apply_missing_stop(scores, stopped, rules.missing_eos_rule, rules.missing_eos_penalty)
        if rules.overlong_penalty:
            lengths = torch.tensor([float(len(ids)) for ids in responses], device=raw.device)
            scores = scores - rules.overlong_penalty * overlong_share(
                lengths, self.response_length, rules.overlong_buffer
            )
        return Scored(raw, scores, stopped)


def overlong_share(lengths: Tensor, longest: int, buffer: int | None) -> Tensor:
    """How much of the length budget's penalty is due (B,): 0 until `buffer` tokens before `longest`, 1 there.

    buffer: None is a fifth of `longest`. DAPO (arXiv 2503.14476), eq. 13.
    """
    buffer = max(1, longest // 5) if buffer is None else buffer
    return ((lengths - (longest - buffer)) / buffer).clamp(0.0, 1.0)


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
