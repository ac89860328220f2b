"""What fine-tuning changed, measured on held-out pairs."""

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedModel

from data.tokenizers import Tokenizer
from pretrain.machine import seeded
from pretrain.sampling import CachedModel, generate
from sft.models.forward import LogProbs, sequence_logprobs
from sft.pairs import Example


def completion_nats(lm: PreTrainedModel | LogProbs, examples: Sequence[Example], batch_size: int = 32) -> float:
    """Mean −log p of a completion's token given all before it, `<|endoftext|>` included, in nats.

    The mean is over all tokens of all completions; its exponential is the perplexity. The model's mode (training or
    evaluation) stays what it is.
    """
    training = (lm.lm if isinstance(lm, LogProbs) else lm).training
    logprobs = lm if isinstance(lm, LogProbs) else LogProbs(lm)
    prompts, completions = [example.prompt for example in examples], [example.completion for example in examples]
    logprobs.lm.eval()
    nats = -sequence_logprobs(logprobs, prompts, completions, batch_size=batch_size).sum().item()
    logprobs.lm.train(training)
    return nats / sum(map(len, completions))


class SampledReplies(NamedTuple):
    texts: list[str]
    stop_share: float
    """Share of the replies that the model ended itself, with `<|endoftext|>`."""
    mean_tokens: float
    """Mean length in tokens, the end token included."""


def sample_replies(
    model: CachedModel, tokenizer: Tokenizer, prompts: Sequence[list[int]], response_length: int, seed: int
) -> SampledReplies:
    """Answer every prompt once, at temperature 1."""
    replies = generate(
        model,
        prompts,
        max_new_tokens=response_length,
        stop_ids=[tokenizer.eos_id],
        generator=seeded(seed, model.device),
    )
    return SampledReplies(
        texts=[tokenizer.decode(reply) for reply in replies],
        stop_share=sum(reply[-1] == tokenizer.eos_id for reply in replies) / len(replies),
        mean_tokens=sum(map(len, replies)) / len(replies),
    )
