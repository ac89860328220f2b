"""The pairs that are learned from, as tokens."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from data.console import UserError
from data.corpus import Corpus
from data.dialogue import Pair, count_words, dialogue_pairs, encode_completion, encode_prompt, heldout_pairs
from data.jsonl import read_texts
from data.tokenizers import Tokenizer
from sft.config import FineTuneConfig

IGNORED = -100
"""The label of a position that is not learned."""


class Example(NamedTuple):
    """A pair as token ids; a completion that has ended ends with `<|endoftext|>`.

    They are tokenised apart: sampling starts from a prompt's own tokens, so none may straddle the boundary.
    """

    prompt: list[int]
    completion: list[int]
    twin: Sequence[int] = ()
    """The prompt with another direction in the place of one of its own, which the completion does not follow."""

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.completion

    @property
    def labels(self) -> list[int]:
        """The ids, the prompt's replaced by IGNORED."""
        return [IGNORED] * len(self.prompt) + self.completion


class Examples(NamedTuple):
    """Encoded pairs and what became of the others."""

    examples: list[Example]
    pairs: list[Pair]
    """The pair of each example, its completion cut as it is learned."""
    cut: int
    """How many completions were cut at the end of a sentence to fit."""
    dropped: int
    """How many pairs were left out: a completion with too few words, or a first sentence that does not fit."""
    short: int
    """How many of them had too few words."""


class Passes(Protocol):
    """How often examples are learned from, and how many a step takes."""

    epochs: int
    batch_size: int
    seed: int


class Sources(NamedTuple):
    train: list[Pair]
    dev: list[Pair]
    """Held out: no prompt of theirs is in `train`'s text."""


def load_pairs(config: FineTuneConfig, corpus: Corpus, tokenizer: Tokenizer) -> Sources:
    """The corpus's dialogue (train and dev of its own split), or the user's file, a tenth of its prompts held out.

    UserError, with file and line, for what the tokenizer cannot encode.
    """
    if config.data is None:
        return corpus_pairs(corpus, "pairs with --data FILE.jsonl")
    rows = read_texts(config.data, "prompt", "completion", check=tokenizer.check)
    pairs = [Pair(row["prompt"], row["completion"]) for row in rows]
    _, held_out = split_prompts(config.data, rows, config.seed)
    return Sources(
        train=[pair for pair in pairs if pair.prompt not in held_out],
        dev=[pair for pair in pairs if pair.prompt in held_out],
    )


def corpus_pairs(corpus: Corpus, instead: str) -> Sources:
    """The corpus's dialogue, train and dev of its own split; UserError, with what to give instead, if there is none."""
    sources = Sources(dialogue_pairs(corpus.train), heldout_pairs(corpus.validation).dev)
    if not sources.train or not sources.dev:
        raise UserError(
            f"corpus '{corpus.name}' has no dialogue in its training or its validation split "
            f"(SPEAKER: on a line, the speech, a blank line): give {instead}"
        )
    return sources


def split_prompts(path: Path, rows: Sequence[Mapping[str, str]], seed: int) -> tuple[list[str], list[str]]:
    """(training, held out): the distinct prompts of a file's rows, a tenth of them, by a seeded order, held out."""
    prompts = sorted({row["prompt"] for row in rows})
    if len(prompts) < 2:
        raise UserError(f"{path}: needs at least two different prompts, one of them is held out")
    random.Random(seed).shuffle(prompts)
    held_out = max(1, len(prompts) // 10)
    return prompts[held_out:], prompts[:held_out]


def encode_pairs(
    pairs: Sequence[Pair], tokenizer: Tokenizer, config: FineTuneConfig, at_most: int | None = None
) -> Examples:
    """Encode the pairs that the configuration keeps, and count the rest; with `at_most`, of a random sample."""
    if at_most is not None:
        pairs = random.Random(config.seed).sample(pairs, len(pairs))
    examples: list[Example] = []
    kept: list[Pair] = []
    cut = dropped = short = 0
    for pair in pairs:
        if len(examples) == at_most:
            break
        completion = encode_completion(tokenizer, pair.completion, config.response_length)
        too_short = count_words(pair.completion) < config.fewest_words
        if completion is None or too_short:
            dropped += 1
            short += too_short
            continue
        examples.append(Example(encode_prompt(tokenizer, pair.prompt, config.prompt_length), completion.ids))
        kept.append(Pair(pair.prompt, tokenizer.decode(completion.ids)))
        cut += completion.cut
    return Examples(examples, kept, cut, dropped, short)


def training_order(lengths: Sequence[int], config: Passes) -> list[int]:
    """Indices of the examples in the order of training, all epochs in one row, as `order_of_epochs` says."""
    return [index for _, index in order_of_epochs([lengths] * config.epochs, config)]


def order_of_epochs(lengths: Sequence[Sequence[int]], config: Passes) -> list[tuple[int, int]]:
    """(epoch, index) of the examples in the order of training; `lengths`: those of every epoch's examples.

    Every epoch is shuffled; then the examples of one optimizer step are sorted by length, so that a micro
    batch holds little padding. The step sees the same pairs as without sorting, so nothing is biased. A fixed
    order also lets a resumed run continue from the step alone.
    """
    generator = random.Random(config.seed)
    order: list[tuple[int, int]] = []
    for number, epoch in enumerate(lengths):
        places = [(number, index) for index in range(len(epoch))]
        generator.shuffle(places)
        order += places
    steps = [order[first : first + config.batch_size] for first in range(0, len(order), config.batch_size)]
    return [
        place for step in steps for place in sorted(step, key=lambda place: lengths[place[0]][place[1]], reverse=True)
    ]
