"""A play as dialogue: speeches, prompt–reply pairs, and their tokens."""

import itertools
import random
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from data.console import UserError
from data.directions.direction import Direction, Spec
from data.directions.headings import LONGEST_HEADING, Heading, parse_heading, read_heading
from data.directions.table import SPECS
from data.tokenizers import Tokenizer

FEWEST_TEST, FEWEST_DEV = 512, 128

# What follows a full stop tells it from that of 3.5 or mine.com; that of Chinese and Japanese is nothing else.
_SENTENCE_END = re.compile(
    r"""[.!?\u0964\u0965\u061f\u06d4]+["'\u2019\u201d)\]]*(?=\s|$)|[\u3002\uff01\uff1f]+["'\u2019\u201d)\]\u300d\u300f\uff09]*"""
)
# Thai, Lao, Burmese, Khmer, Japanese, Chinese: their texts have no spaces between words.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


class Speech(NamedTuple):
    """`speaker` without its colon; `lines` joined by newlines, none at the end; what the heading asks of them."""

    speaker: str
    lines: str
    directions: tuple[Direction, ...] = ()

    @property
    def heading(self) -> str:
        """Speaker and directions, without the colon."""
        return str(Heading(self.speaker, self.directions))

    def __str__(self) -> str:
        return f"{self.heading}:\n{self.lines}"


class Pair(NamedTuple):
    """prompt: the previous speech, a blank line, `SPEAKER:\\n`; completion: what that speaker says."""

    prompt: str
    completion: str


class HeldOut(NamedTuple):
    """Pairs of the validation text. dev: choices may be tuned on it; test: only the comparison reads it."""

    dev: list[Pair]
    test: list[Pair]


def speeches(text: str, specs: Sequence[Spec] = SPECS) -> list[Speech]:
    """The speeches of a play, in order; what has no speaker's heading is left out. specs: what headings may ask."""
    return [speech for speech in _chunks(text, specs) if speech is not None]


def dialogue_pairs(text: str, specs: Sequence[Spec] = SPECS) -> list[Pair]:
    """Each speech as the reply to the one right before it.

    A chunk between blank lines that is not a speech (a stage direction, a title, the cut beginning of a split)
    is skipped, and the speeches around it are not taken as cue and reply.
    """
    chunks = _chunks(text, specs)
    return [
        Pair(prompt=prompt_of([cue], reply.heading), completion=reply.lines)
        for cue, reply in itertools.pairwise(chunks)
        if cue is not None and reply is not None
    ]


def prompt_of(said: Iterable[Speech], heading: str) -> str:
    """What was said last, and who is to answer (with directions, if any), as every stage reads it."""
    return "\n\n".join([*map(str, said), f"{heading}:\n"])


def typed_speech(speaker: str, text: str, specs: Sequence[Spec] = SPECS) -> Speech:
    """A speech from what somebody typed: its heading on one line, no blank line in it. UserError where nothing is left.

    speaker: the name, and after it directions, if any.
    """
    name, lines = (typed.encode("utf-8", "replace").decode() for typed in (speaker, text))
    name, directions = parse_heading(re.sub(r"\s*,\s*", ", ", " ".join(name.replace(":", " ").split())), specs)
    name = name[: LONGEST_HEADING - 1].strip(" ,")
    lines = "\n".join(line.strip() for line in lines.splitlines() if line.strip())
    if not name or not lines:
        raise UserError(f"{'a speech' if name else 'a speaker'} is empty: write something")
    return Speech(name, lines, directions)


def heldout_pairs(validation_text: str, seed: int = 0) -> HeldOut:
    """Split the validation text's pairs into dev and test: every prompt once, on one side, in a seeded order.

    Test takes 60 % of the prompts, and at least 512 where that leaves 128 for dev.
    """
    first: dict[str, Pair] = {}
    for pair in dialogue_pairs(validation_text):
        first.setdefault(pair.prompt, pair)
    pairs = list(first.values())
    random.Random(seed).shuffle(pairs)
    n_test = round(0.6 * len(pairs))
    if len(pairs) >= FEWEST_TEST + FEWEST_DEV:
        n_test = max(n_test, FEWEST_TEST)
    return HeldOut(dev=pairs[n_test:], test=pairs[:n_test])


class Completion(NamedTuple):
    """A completion's token ids, `<|endoftext|>` the last, and whether its text was cut to fit."""

    ids: list[int]
    cut: bool


def encode_prompt(tokenizer: Tokenizer, prompt: str, prompt_length: int) -> list[int]:
    """At most `prompt_length` token ids; a longer prompt loses its beginning, so the reply's cue stays."""
    ids = tokenizer.encode(prompt)
    return ids[max(0, len(ids) - prompt_length) :]


def encode_completion(tokenizer: Tokenizer, completion: str, response_length: int) -> Completion | None:
    """Token ids and `<|endoftext|>`, at most `response_length` together.

    A longer completion is cut at the last end of a sentence that fits: cut elsewhere, or left without its
    end, it would teach not to stop. None where not even the first sentence fits.
    """
    ids = tokenizer.encode(completion)
    if len(ids) < response_length:
        return Completion([*ids, tokenizer.eos_id], cut=False)
    for end in reversed([match.end() for match in _SENTENCE_END.finditer(completion)]):
        ids = tokenizer.encode(completion[:end])
        if len(ids) < response_length:
            return Completion([*ids, tokenizer.eos_id], cut=completion[end:].strip() != "")
    return None


def count_words(text: str) -> int:
    """The words of a text: what stands between spaces, and each character of a script that has none."""
    without, unspaced = _UNSPACED.subn(" ", text)
    if not unspaced:
        return len(text.split())
    return unspaced + sum(any(map(str.isalnum, word)) for word in without.split())


def _chunks(text: str, specs: Sequence[Spec]) -> list[Speech | None]:
    """What stands between blank lines: a speech, or None for anything else."""
    return [_speech(chunk, specs) for chunk in re.split(r"\n(?:[^\S\n]*\n)+", text.strip("\n")) if chunk.strip()]


def _speech(chunk: str, specs: Sequence[Spec]) -> Speech | None:
    first, _, lines = chunk.partition("\n")
    heading, lines = read_heading(first, specs), lines.rstrip()
    return Speech(heading.speaker, lines, heading.directions) if heading and lines else None
