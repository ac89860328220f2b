"""The replies that are compared: sampled from a model, or read from the text, all under the same length limit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch

from data.dialogue import Pair, encode_completion
from data.tokenizers import Tokenizer
from pretrain.fast.gpt import decoder
from pretrain.model import GPT
from pretrain.sampling import generate
from rlhf.judging.measures import cut_at_blank_line, response_logprobs

BATCH = 320
"""Rows sampled at once, at most."""


@dataclass
class Replies:
    """One reply to every prompt."""

    texts: list[str]
    ids: list[list[int]]
    """Tokens as the reward model reads them; `<|endoftext|>` is among them where the reply has ended."""
    stopped: list[bool]
    kl: float | None = None
    """Nats a sequence from the SFT model; None where nothing was sampled from a model."""
    gold: list[float] = field(default_factory=list)
    terms: list[dict[str, float]] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)

    def first(self, count: int) -> "Replies":
        """The replies to the first `count` prompts, without a KL."""
        return Replies(
            texts=self.texts[:count],
            ids=self.ids[:count],
            stopped=self.stopped[:count],
            gold=self.gold[:count],
            terms=self.terms[:count],
            reward=self.reward[:count],
        )


class Writer:
    """Has models write replies to the prompts, each source with random numbers of its own."""

    def __init__(
        self, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], response_length: int, sft: GPT, seed: int
    ) -> None:
        self.tokenizer, self.prompts, self.response_length = tokenizer, prompts, response_length
        self.sft, self.seed = sft, seed

    def sample(self, model: GPT, draw: int, temperature: float = 1.0, count: int | None = None) -> list[list[int]]:
        """One continuation of the first `count` prompts (of all by default), as token ids.

        `draw` numbers the random stream.
        """
        prompts = self.prompts[:count]
        generator = torch.Generator(model.device).manual_seed(self.seed * 1_000_003 + draw)
        drawn: list[list[int]] = []
        rows = math.ceil(len(prompts) / math.ceil(len(prompts) / BATCH))  # batches of like size
        for start in range(0, len(prompts), rows):
            drawn += generate(
                decoder(model),
                prompts[start : start + rows],
                max_new_tokens=self.response_length,
                temperature=temperature,
                stop_ids=[self.tokenizer.eos_id],
                generator=generator,
            )
        return drawn

    def write(self, model: GPT, draw: int, temperature: float = 1.0) -> Replies:
        """Replies of a model that ends them with `<|endoftext|>`, and their KL from the SFT model."""
        replies = self.write_more(model, draw, temperature)
        same = model is self.sft and temperature == 1
        replies.kl = 0.0 if same else self.kl(model, replies.ids, temperature)
        return replies

    def write_more(self, model: GPT, draw: int, temperature: float = 1.0, count: int | None = None) -> Replies:
        """Replies to the first `count` prompts, without their KL."""
        ids = self.sample(model, draw, temperature, count)
        return Replies([self.tokenizer.decode(reply) for reply in ids], ids, [self._ended(reply) for reply in ids])

    def write_pretrained(self, model: GPT, draw: int) -> Replies:
        """Replies of a model that knows no `<|endoftext|>`: cut at the first blank line, which is its stopping.

        The KL is that of the tokens before the blank line, since the two models end a reply by different tokens.
        """
        drawn = self.sample(model, draw)
        cuts = [cut_at_blank_line(self.tokenizer.decode(ids)) for ids in drawn]
        before, ended = list(drawn), list(drawn)
        for i, (text, stop) in enumerate(cuts):
            if stop:
                before[i] = self._tokens_within(drawn[i], len(text))
                ended[i] = [*before[i], self.tokenizer.eos_id]
        return Replies([text for text, _ in cuts], ended, [stop for _, stop in cuts], self.kl(model, before))

    def read_original(self, pairs: Sequence[Pair]) -> Replies:
        """The text's own replies, cut like SFT's examples: at the last end of a sentence that fits."""
        ids, stopped = [], []
        for pair in pairs:
            fitting = encode_completion(self.tokenizer, pair.completion, self.response_length)
            stopped.append(fitting is not None)
            ids.append(fitting.ids if fitting else self.tokenizer.encode(pair.completion)[: self.response_length])
        return Replies([self.tokenizer.decode(reply) for reply in ids], ids, stopped)

    def kl(self, model: GPT, ids: Sequence[Sequence[int]], temperature: float = 1.0) -> float:
        """KL(model ‖ SFT) in nats a sequence: the mean of log π(y) − log π_SFT(y) over the model's own y."""
        own = response_logprobs(model, self.prompts, ids, temperature)
        reference = response_logprobs(self.sft, self.prompts, ids)
        return fmean(a - b for a, b in zip(own, reference, strict=True))

    def _ended(self, ids: list[int]) -> bool:
        return ids[-1] == self.tokenizer.eos_id

    def _tokens_within(self, ids: list[int], characters: int) -> list[int]:
        count = next(n for n in range(len(ids), -1, -1) if len(self.tokenizer.decode(ids[:n])) <= characters)
        return ids[:count]
