"""How far the policy has moved from the reference: estimators of the KL divergence and its coefficient.

For tokens drawn from the policy, the mean of each estimator is KL(policy ‖ reference) (Schulman,
"Approximating KL divergence"): k1 is unbiased and noisy, k3 unbiased, never negative and quieter, k2 biased
but a good measure of small steps. They are for rewards and for logs. As a *loss* only k2 will do: through fixed
samples the gradient of k1 is zero on average, that of k3 is the gradient of KL(reference ‖ policy), and that of k2 is
the gradient of the KL that is meant.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Nats = Float[Tensor, "*shape"]

LOG_RATIO_LIMIT = 20.0
"""Nats. exp(20) is far outside every clip range, and finite: one odd token cannot make a loss infinite."""


def clamp_log_ratio(log_ratio: Nats) -> Nats:
    """The log-ratio, any shape, clamped before it meets `exp`."""
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def k1(logprobs: Nats, reference_logprobs: Nats) -> Nats:
    """log(p/q), same shape, in nats: unbiased, may be negative. The one that the reward is penalised with."""
    return logprobs - reference_logprobs


def k2(logprobs: Nats, reference_logprobs: Nats) -> Nats:
    """log(p/q)² / 2, same shape, in nats."""
    return 0.5 * (logprobs - reference_logprobs).square()


def k3(logprobs: Nats, reference_logprobs: Nats) -> Nats:
    """q/p - 1 - log(q/p), same shape, in nats: unbiased and never negative."""
    log_ratio = clamp_log_ratio(reference_logprobs - logprobs)
    return torch.expm1(log_ratio) - log_ratio


class KLController:
    """The coefficient of the KL penalty, `coef` (score per nat), all there is to save of it.

    target: nats per sequence that the KL is steered to (Ziegler et al., arXiv 1909.08593, 2.2), by proportional
    control in log space: coef ← coef · (1 + clip(kl / target - 1, ±0.2) · episodes / horizon). None: the coefficient
    stays (Stiennon et al., arXiv 2009.01325).
    """

    MAX_ERROR = 0.2

    def __init__(self, coef: float, target: float | None = None, horizon: float = 10_000.0) -> None:
        self.coef, self.target, self.horizon = coef, target, horizon

    def update(self, kl: float, episodes: int) -> None:
        """Take note of the mean KL of a rollout (nats per sequence) of `episodes` sequences."""
        if self.target is not None:
            # Clipped, so that one wild rollout moves the coefficient no more than a steady error does.
            error = min(max(kl / self.target - 1.0, -self.MAX_ERROR), self.MAX_ERROR)
            self.coef *= 1.0 + error * episodes / self.horizon
