"""What PPO learns from: sampled episodes with everything known about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.ppo import losses
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.kl import k1, k3
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.rules import Scored
from sft.models.batch import response_mask


class Episode(NamedTuple):
    """A prompt and what was sampled, with all that is computed before learning; tensors (length,), on the CPU."""

    prompt: Prompt
    response: list[int]
    """Token ids, the stop token included."""
    score: float
    """As the reward gives it."""
    baseline: float | None
    """Mean score of the reference's replies to the prompt, where scores are measured by it."""
    logprobs: Tensor
    """Nats, of the policy that sampled."""
    entropies: Tensor
    reference_logprobs: Tensor
    values: Tensor

    @property
    def kl(self) -> float:
        """k1 to the reference, nats, summed over the response."""
        return k1(self.logprobs, self.reference_logprobs).sum().item()


@dataclass
class Rollout:
    """The episodes of one batch, those of all processes. Tensors (B, R) are aligned with the response tokens."""

    prompts: list[Prompt]
    responses: list[list[int]]
    mask: Tensor
    """(B, R) bool, True on the response's tokens."""
    logprobs: Tensor
    """(B, R), nats, of the policy that sampled."""
    reference_logprobs: Tensor
    """(B, R), nats."""
    values: Tensor
    """(B, R), before each token."""
    rewards: Tensor
    """(B, R), KL penalty and score."""
    advantages: Tensor
    returns: Tensor
    scores: Tensor
    """(B,), after clipping and the rule for responses that never stop."""
    kl_coef: float
    """Score per nat, of this rollout."""
    metrics: dict[str, float]
    """Means over the batch, by their names in the log."""


def build_rollout(episodes: Sequence[Episode], scored: Scored, kl_coef: float, config: PPOConfig) -> Rollout:
    """KL, rewards, advantages, returns and metrics of the episodes of all processes, on the device of `scored`."""
    device = scored.scores.device
    prompts, responses = [episode.prompt for episode in episodes], [episode.response for episode in episodes]
    mask = response_mask(responses, device)
    logprobs, entropies, reference_logprobs, values = (
        unflatten(torch.cat([getattr(episode, name) for episode in episodes]).to(device), mask)
        for name in ("logprobs", "entropies", "reference_logprobs", "values")
    )
    kl = k1(logprobs, reference_logprobs)
    price = kl_coef if config.kl_in == "reward" else 0.0
    rewards = losses.token_rewards(scored.scores, kl, mask, price)
    if config.whiten_rewards:
        rewards = losses.whiten(rewards, mask, shift_mean=False)
    advantages, returns = losses.gae(rewards, values, mask, config.gamma, config.gae_lambda)
    explained = losses.explained_variance(values, returns, mask)
    if config.whiten_advantages:
        advantages = losses.whiten(advantages, mask)

    per_sequence = {
        "objective/kl": kl.sum(1),
        "objective/kl_k3": k3(logprobs, reference_logprobs).sum(1),
        "objective/entropy": entropies.sum(1),
        "objective/reward_scores": scored.raw,
        "objective/scores": scored.scores,
        "objective/non_score_reward": -price * kl.sum(1),
        "objective/stopped": scored.stopped.float(),
        "objective/response_length": mask.sum(1).float(),
    }
    means = torch.stack(list(per_sequence.values())).mean(1).tolist()
    metrics = dict(zip(per_sequence, means, strict=True))
    metrics["objective/rlhf_reward"] = metrics["objective/scores"] + metrics["objective/non_score_reward"]
    metrics["objective/kl_coef"] = kl_coef
    metrics["val/explained_variance"] = explained.item()
    metrics["val/num_eos_tokens"] = float(scored.stopped.sum())
    return Rollout(
        prompts,
        responses,
        mask,
        logprobs,
        reference_logprobs,
        values,
        rewards,
        advantages,
        returns,
        scored.scores,
        kl_coef,
        metrics,
    )


def unflatten(tokens: Tensor, mask: Tensor) -> Tensor:
    """Tokens (N,), row by row, at the N True places of `mask` (B, R); 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=tokens.dtype, device=tokens.device).masked_scatter(mask, tokens)
