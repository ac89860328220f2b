"""The mathematics of PPO as pure functions.

B: sequences, R: response positions. Every (B, R) tensor is aligned with the response tokens and comes with a
mask (B, R), True on the tokens that the policy chose: up to and including the stop token. What lies outside
the mask never counts, in a loss or in a diagnostic.

References: PPO (Schulman et al., arXiv 1707.06347), GAE (Schulman et al., arXiv 1506.02438), Ziegler et al.
(arXiv 1909.08593), "The N+ Implementation Details of RLHF with PPO" (arXiv 2403.17031).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf.ppo.kl import clamp_log_ratio, k2

Cells = Float[Tensor, "B R"]
Mask = Bool[Tensor, "B R"]
Scalar = Float[Tensor, ""]


def masked_sum(values: Cells, mask: Mask) -> Scalar:
    """Sum (scalar) of `values` (B, R) where `mask` (B, R). NaN outside the mask does no harm."""
    return torch.where(mask, values, torch.zeros_like(values)).sum()


def masked_moments(values: Cells, mask: Mask) -> tuple[Scalar, Scalar]:
    """Mean and population variance (scalars) of `values` (B, R) where `mask`."""
    count = mask.sum().clamp(min=1)
    mean = masked_sum(values, mask) / count
    # A second pass: E[x²] - E[x]² loses its digits when the mean is large.
    return mean, masked_sum((values - mean).square(), mask) / count


def whiten(values: Cells, mask: Mask, *, shift_mean: bool = True) -> Cells:
    """Scale `values` (B, R) to unit variance over the mask; 0 outside it. B is the rollout of *all* processes.

    shift_mean: also move the mean to 0. False keeps the mean where it was, as for rewards, whose sign
    means something.
    """
    mean, variance = masked_moments(values, mask)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return torch.where(mask, whitened, torch.zeros_like(whitened))


def token_rewards(scores: Float[Tensor, "B"], kl_per_token: Cells, mask: Mask, kl_coef: float) -> Cells:
    """The reward of every token, (B, R): -kl_coef · k1 each, and the score once, on the last token.

    scores: (B,), score of the whole sequence. kl_per_token: (B, R), k1 in nats. mask: (B, R), at least one
    True per row. The last token is the stop token, or the one at the limit of length.
    """
    rewards = torch.where(mask, -kl_coef * kl_per_token, torch.zeros_like(kl_per_token))
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, positions, -1).amax(1)
    rows = torch.arange(mask.shape[0], device=mask.device)
    # On the stop token itself: one slot later is outside the mask and the score would never arrive.
    rewards[rows, last] = rewards[rows, last] + scores.to(rewards.dtype)
    return rewards


def gae(rewards: Cells, values: Cells, mask: Mask, gamma: float, lam: float) -> tuple[Cells, Cells]:
    """Generalised advantage estimates and returns, both (B, R), 0 outside the mask.

    The value after the last token is 0: an episode ends there. Masked positions are skipped, as if the
    sequence were written without them. Returns are advantages + values, from the *unwhitened* advantages:
    whitening is a matter of the policy loss, and the value must learn the true scale.
    """
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        here = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        next_advantage = torch.where(here, advantage, next_advantage)
        next_value = torch.where(here, values[:, t], next_value)
        advantages[:, t] = torch.where(here, advantage, torch.zeros_like(advantage))
    returns = torch.where(mask, advantages + values, torch.zeros_like(values))
    return advantages, returns


def policy_loss(
    logprobs: Cells,
    old_logprobs: Cells,
    advantages: Cells,
    mask: Mask,
    cliprange: float,
    denominator: Tensor | float,
    cliprange_high: float | None = None,
) -> tuple[Scalar, dict[str, Scalar]]:
    """PPO's clipped objective as a loss to minimise, and sums over the mask for the log.

    All tensors (B, R). `denominator`: response tokens of the *whole* optimisation step, over all micro-batches
    and processes, so that splitting the step differently gives the same gradient.
    The ratio is clipped to [1 - `cliprange`, 1 + `cliprange_high`], which is `cliprange` too where it is None.
    The dict holds sums (scalars): `approxkl` (k2 of old and new, nats), `clipfrac`, `ratio_shift` (ratio - 1)
    and `ratio_shift_squared`; and one maximum, `ratio_error` of |ratio - 1|.
    """
    log_ratio = clamp_log_ratio(logprobs - old_logprobs)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    highest = 1.0 + (cliprange if cliprange_high is None else cliprange_high)
    clipped = -advantages * ratio.clamp(1.0 - cliprange, highest)
    loss = masked_sum(torch.maximum(unclipped, clipped), mask) / denominator
    with torch.no_grad():
        stats = {
            "approxkl": masked_sum(k2(logprobs, old_logprobs), mask),
            "clipfrac": masked_sum((clipped > unclipped).to(ratio.dtype), mask),
            "ratio_shift": masked_sum(ratio - 1.0, mask),
            "ratio_shift_squared": masked_sum((ratio - 1.0).square(), mask),
            "ratio_error": torch.where(mask, (ratio - 1.0).abs(), torch.zeros_like(ratio)).amax(),
        }
    return loss, stats


def kl_loss(logprobs: Cells, reference_logprobs: Cells, mask: Mask, denominator: Tensor | float) -> Scalar:
    """The KL to the reference as a loss (scalar): the mean of k2 over the tokens; (B, R), `denominator` as above.

    On tokens that the policy sampled, the gradient of k2 is that of KL(policy ‖ reference) of each token: that of k1
    is zero on average, and that of k3 belongs to KL(reference ‖ policy).
    """
    return masked_sum(k2(logprobs, reference_logprobs), mask) / denominator


def value_loss(
    values: Cells,
    old_values: Cells,
    returns: Cells,
    mask: Mask,
    cliprange: float,
    denominator: Tensor | float,
) -> tuple[Scalar, dict[str, Scalar]]:
    """Half the squared error of the value, clipped around the old value, the larger of both taken.

    All tensors (B, R); `denominator` as in `policy_loss`. The dict holds sums: `clipfrac`.
    """
    clipped_values = torch.clamp(values, old_values - cliprange, old_values + cliprange)
    unclipped = (values - returns).square()
    clipped = (clipped_values - returns).square()
    loss = 0.5 * masked_sum(torch.maximum(unclipped, clipped), mask) / denominator
    with torch.no_grad():
        stats = {"clipfrac": masked_sum((clipped > unclipped).to(values.dtype), mask)}
    return loss, stats


def explained_variance(values: Cells, returns: Cells, mask: Mask) -> Scalar:
    """1 - Var(returns - values) / Var(returns) over the mask (scalar): 1 perfect, 0 no better than a constant."""
    _, residual = masked_moments(returns - values, mask)
    _, total = masked_moments(returns, mask)
    return 1.0 - residual / total.clamp(min=1e-12)
