"""What fine-tuning changed, measured on held-out pairs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from data.tokenizers import Tokenizer
from pretrain.sampling import CachedModel, generate
from sft.pairs import IGNORED, Example

Predict = Callable[[Tensor], Tensor]
"""Token ids (B, T), padded on the right, to logits (B, T, V) of a causal model."""


@torch.inference_mode()
def completion_nats(
    predict: Predict, examples: Sequence[Example], device: torch.device | str = "cpu", batch_size: int = 32
) -> float:
    """Mean −log p of a completion's token given all before it, `<|endoftext|>` included, in nats.

    The mean is over all tokens of all completions; its exponential is the perplexity.
    """
    total, count = 0.0, 0
    by_length = sorted(examples, key=lambda example: len(example.ids))
    for first in range(0, len(by_length), batch_size):
        batch = by_length[first : first + batch_size]
        longest = max(len(example.ids) for example in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        labels = torch.full((len(batch), longest), IGNORED)
        for row, example in enumerate(batch):
            ids[row, : len(example.ids)] = torch.tensor(example.ids)
            labels[row, : len(example.ids)] = torch.tensor(example.labels)
        # A causal model never looks at the padding on the right, so it needs no attention mask.
        logits, expected = predict(ids.to(device))[:, :-1].float(), labels[:, 1:].to(device)
        losses = F.cross_entropy(logits.flatten(0, 1), expected.flatten(), ignore_index=IGNORED, reduction="sum")
        total += losses.item()
        count += int((expected != IGNORED).sum())
    return total / count


class Replies(NamedTuple):
    texts: list[str]
    stop_share: float
    """Share of the replies that the model ended itself, with `<|endoftext|>`."""
    mean_tokens: float
    """Mean length in tokens, the end token included."""


def sample_replies(
    model: CachedModel, tokenizer: Tokenizer, prompts: Sequence[list[int]], response_length: int, seed: int
) -> Replies:
    """Answer every prompt once, at temperature 1."""
    replies = generate(
        model,
        prompts,
        max_new_tokens=response_length,
        stop_ids=[tokenizer.eos_id],
        generator=torch.Generator(model.device).manual_seed(seed),
    )
    return Replies(
        texts=[tokenizer.decode(reply) for reply in replies],
        stop_share=sum(reply[-1] == tokenizer.eos_id for reply in replies) / len(replies),
        mean_tokens=sum(map(len, replies)) / len(replies),
    )
