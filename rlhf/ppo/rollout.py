"""What PPO learns from: sampled episodes with everything known about them, and how they are cut into batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from accelerate.utils import gather_object
from torch import Tensor


@dataclass
class Episodes:
    """What one process has sampled and evaluated: lists with one entry an episode; tensors (length,), on the CPU."""

    prompts: Sequence[list[int]]
    responses: list[list[int]]
    """Token ids, the stop token included."""
    scores: list[float]
    """As the reward gives them."""
    logprobs: list[Tensor]
    """Nats, of the policy that sampled."""
    entropies: list[Tensor]
    reference_logprobs: list[Tensor]
    values: list[Tensor]

    def gather(self) -> "Episodes":
        """The episodes of all processes, in the order of the processes. Every process must call it."""
        shares = [Episodes(*fields) for fields in gather_object([tuple(vars(self).values())])]
        return Episodes(*([entry for share in shares for entry in getattr(share, name)] for name in vars(self)))


@dataclass
class Rollout:
    """The episodes of one batch, those of all processes. Tensors (B, R) are aligned with the response tokens."""

    prompts: Sequence[list[int]]
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
    """Means over the batch, by their names in the log."""


def micro_batches(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], rows: list[int], size: int
) -> Iterator[list[int]]:
    """Cut `rows` into micro-batches of `size` rows of like length, so that little padding is computed."""
    by_length = sorted(rows, key=lambda i: len(prompts[i]) + len(responses[i]))
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]


def pad_rows(rows: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Rows of any length as one tensor like `mask` (B, R), which is True where they are; 0 elsewhere."""
    return unflatten(torch.cat(list(rows)).to(mask.device), mask)


def unflatten(tokens: Tensor, mask: Tensor) -> Tensor:
    """Tokens (N,), row by row, at the N True places of `mask` (B, R); 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=tokens.dtype, device=tokens.device).masked_scatter(mask, tokens)
