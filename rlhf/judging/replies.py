"""The replies that are judged: sampled from a model, or the text's own, all under the same length limit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from data.dialogue import Pair, encode_completion
from data.tokenizers import Tokenizer
from pretrain.machine import full_precision_matmul, one_thread_each, seeded
from pretrain.sampling import generate
from rlhf.judging.metrics import cut_at_blank_line
from sft.models.sampling import sampler

BATCH, GPU_BATCH = 64, 1024
"""Rows of a batch, at most: on a CPU every core has one of its own, a GPU takes one after the other."""


@dataclass
class Replies:
    """One reply to every prompt; `rlhf.judging.judge.Judge` fills in what it is worth."""

    texts: list[str]
    ids: list[list[int]]
    """Tokens as the reward model reads them; `<|endoftext|>` is among them where the reply has ended."""
    stopped: list[bool]
    kl: float | None = None
    """Nats per reply from the SFT model; None where nothing was sampled from a model."""
    gold: list[float] = field(default_factory=list)
    terms: list[dict[str, float]] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    """The rewards after the rules on them: what an algorithm maximises, and what the best of n is chosen by."""

    def first(self, count: int) -> "Replies":
        """The replies to the first `count` prompts, without a KL."""
        return choose([self], [0] * min(count, len(self.texts)))


def choose(replies: Sequence[Replies], chosen: Sequence[int]) -> Replies:
    """To prompt i the reply of `replies[chosen[i]]`, without a KL; of the judgements those that all of them have."""
    picked: dict[str, Any] = {
        name: [getattr(replies[k], name)[i] for i, k in enumerate(chosen)]
        for name in ("texts", "ids", "stopped", "gold", "terms", "reward", "scores")
        if all(getattr(each, name) for each in replies)
    }
    return Replies(**picked)


def end_at_blank_line(tokenizer: Tokenizer, ids: list[int]) -> tuple[str, list[int], bool]:
    """(text, ids, whether it ended) of a reply up to its first blank line, with `<|endoftext|>` in the line's place."""
    text, stopped = cut_at_blank_line(tokenizer.decode(ids))
    if not stopped:
        return text, ids, False
    count = next(n for n in range(len(ids), -1, -1) if len(tokenizer.decode(ids[:n])) <= len(text))
    return text, [*ids[:count], tokenizer.eos_id], True


class ReplySampler:
    """Samples replies to the same prompts from any model, each time with random numbers of its own."""

    def __init__(self, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], response_length: int, seed: int) -> None:
        self.tokenizer, self.prompts, self.response_length, self.seed = tokenizer, prompts, response_length, seed

    def sample(self, lm: PreTrainedModel, draw: int, temperature: float = 1.0, count: int | None = None) -> Replies:
        """Replies of a model as it is now, on its device, to the first `count` prompts (default: all).

        `draw` numbers the random stream. The model's mode (training or evaluation) stays what it is.
        """
        return self.several(lm, draw, 1, temperature, count)[0]

    def several(
        self, lm: PreTrainedModel, draw: int, times: int, temperature: float = 1.0, count: int | None = None
    ) -> list[Replies]:
        """`times` replies to each prompt, of one random stream; a prompt runs through the model once for all."""
        prompts = [prompt for prompt in self.prompts[:count] for _ in range(times)]
        drawn = self._draw(lm, prompts, draw, temperature)
        return [self._replies(drawn[number::times]) for number in range(times)]

    def sample_pretrained(self, lm: PreTrainedModel, draw: int, temperature: float = 1.0) -> Replies:
        """Replies of a model that knows no `<|endoftext|>`: they end at the first blank line, the text's own end."""
        newline = self.tokenizer.encode("\n")
        drawn = self._draw(lm, self.prompts, draw, temperature, newline[0] if len(newline) == 1 else None)
        texts, replies, stopped = zip(*[end_at_blank_line(self.tokenizer, ids) for ids in drawn], strict=True)
        return Replies(list(texts), list(replies), list(stopped))

    def _replies(self, ids: list[list[int]]) -> Replies:
        eos = self.tokenizer.eos_id
        return Replies([self.tokenizer.decode(reply) for reply in ids], ids, [reply[-1] == eos for reply in ids])

    def original(self, pairs: Sequence[Pair]) -> Replies:
        """The text's own replies, cut like SFT's examples: at the last end of a sentence that fits."""
        ids, stopped = [], []
        for pair in pairs:
            fitting = encode_completion(self.tokenizer, pair.completion, self.response_length)
            stopped.append(fitting is not None)
            ids.append(fitting.ids if fitting else self.tokenizer.encode(pair.completion)[: self.response_length])
        return Replies([self.tokenizer.decode(reply) for reply in ids], ids, stopped)

    def _draw(
        self,
        lm: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        draw: int,
        temperature: float,
        stop_twice: int | None = None,
    ) -> list[list[int]]:
        """One continuation, as token ids, of each of the prompts."""
        was_training = lm.training
        model = sampler(lm.eval())
        count = math.ceil(len(prompts) / (BATCH if lm.device.type == "cpu" else GPU_BATCH))
        rows = math.ceil(len(prompts) / max(1, count))  # batches of similar size

        def batch(number: int) -> list[list[int]]:
            return generate(
                model,
                prompts[number * rows : (number + 1) * rows],
                max_new_tokens=self.response_length,
                temperature=temperature,
                stop_ids=[self.tokenizer.eos_id],
                stop_twice=stop_twice,
                generator=seeded((self.seed * 1_000_003 + draw) * 1_009 + number, lm.device),
            )

        with full_precision_matmul(), one_thread_each(lm.device) as workers:
            drawn = [reply for replies in workers.map(batch, range(count)) for reply in replies]
        lm.train(was_training)
        return drawn
