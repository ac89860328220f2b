"""What PPO learns from: sampled episodes with everything known about them, and how they are cut into batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Rollout:
    """This process's episodes of one batch. Tensors (B, R) are aligned with the response tokens."""

    prompts: list[list[int]]
    responses: list[list[int]]
    """Token ids, the stop token included."""
    mask: Tensor
    """(B, R) bool, True on the response's tokens."""
    logprobs: Tensor
    """(B, R), nats, of the policy that sampled."""
    values: Tensor
    """(B, R), before each token."""
    rewards: Tensor
    """(B, R), KL penalty and score."""
    advantages: Tensor
    returns: Tensor
    scores: Tensor
    """(B,), after clipping and the rule for responses that never stop."""
    metrics: dict[str, float]
    """Means over all processes, by their names in the log."""


def micro_batches(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], rows: list[int], size: int
) -> Iterator[list[int]]:
    """Cut `rows` into micro-batches of `size` rows of like length, so that little padding is computed."""
    by_length = sorted(rows, key=lambda i: len(prompts[i]) + len(responses[i]))
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]


def unflatten(tokens: Tensor, mask: Tensor) -> Tensor:
    """Tokens (N,), row by row, at the N True places of `mask` (B, R); 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=tokens.dtype, device=tokens.device).masked_scatter(mask, tokens)
