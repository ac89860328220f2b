"""Directions in fine-tuning: hindsight pairs, and whether replies do as they are told.

A real reply follows many directions by chance. Told some of them beforehand, its pair is an example of doing as told:
hindsight relabelling (HIR, arXiv 2302.05206; InstructCTG, arXiv 2304.14293).
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from data.dialogue import Pair, encode_prompt
from data.directions.drawing import Directions
from data.directions.headings import directed, last_speaker, split_prompt
from data.directions.specs import NONE, Direction, Spec, load_specs
from data.run.record import StageRecord
from data.tokenizers import Tokenizer
from sft.config import FineTuneConfig
from sft.pairs import Example, Examples

TWIN_TOKENS = 40
"""Longest completion that is read under another direction too. Longer ones would take most of the time."""


def run_directions(record: StageRecord) -> tuple[Spec, ...]:
    """The table that a run's sft stage learned; empty for a run without directions. UserError where it is gone."""
    return load_specs(record.config.get("directions", NONE))


def usable_directions(specs: Sequence[Spec], pairs: Sequence[Pair]) -> Directions | None:
    """The table over the replies of the pairs that have a heading for a direction; None without table or headings."""
    replies = [pair.completion for pair in pairs if split_prompt(pair.prompt, ())[1]] if specs else []
    return Directions(specs, replies) if replies else None


def hindsight_epochs(
    train: Examples, directions: Directions | None, tokenizer: Tokenizer, config: FineTuneConfig
) -> list[list[Example]]:
    """Every epoch's examples: of the directions that its reply follows, each pair is told others in each of them.

    One that asks for something already, or has no heading to ask at, is left as it is."""
    if directions is None:
        return [train.examples] * config.epochs
    rng = random.Random(f"hindsight {config.seed}")
    headings = [split_prompt(pair.prompt, directions.specs)[1] for pair in train.pairs]

    def encoded(prompt: str, asked: Sequence[Direction]) -> list[int]:
        return encode_prompt(tokenizer, directed(prompt, asked), config.prompt_length)

    def told(pair: Pair, example: Example) -> Example:
        own = directions.hindsight(pair.completion, rng)
        other = twin(own, pair.completion, directions, rng) if len(example.completion) <= TWIN_TOKENS else None
        return Example(encoded(pair.prompt, own), example.completion, encoded(pair.prompt, other) if other else ())

    return [
        [
            told(pair, example) if heading and not heading.directions else example
            for heading, pair, example in zip(headings, train.pairs, train.examples, strict=True)
        ]
        for _ in range(config.epochs)
    ]


def twin(
    chosen: Sequence[Direction], reply: str, directions: Directions, rng: random.Random
) -> tuple[Direction, ...] | None:
    """The directions that a reply follows with another of the kind, which it does not, in the place of one of them.

    None where there is no other, or the reply follows that too."""
    if not chosen:
        return None
    place = rng.randrange(len(chosen))
    other = directions.draw_other(chosen[place], rng)
    if other is None or other.followed(reply):
        return None
    changed = (*chosen[:place], other, *chosen[place + 1 :])
    return changed if directions.may_be_learned(changed) else None


class Request(NamedTuple):
    """One direction for a held-out prompt."""

    pair: Pair
    """With the direction in its prompt; the completion was written without it."""
    direction: Direction
    other: Direction | None
    """Another request of the same kind, which the prompt does not make: how often it is followed is chance."""


def draw_requests(pairs: Sequence[Pair], directions: Directions | None, seed: int) -> list[Request]:
    """A direction for each prompt that ends with a heading, of the main kinds in turn."""
    rng = random.Random(f"requests {seed}")
    requests: list[Request] = []
    for pair in pairs if directions else []:
        heading = split_prompt(pair.prompt, directions.specs)[1] if directions else None
        if directions and heading and not heading.directions:
            kind = directions.main_kinds[len(requests) % len(directions.main_kinds)]
            direction = directions.draw(kind, rng, last_speaker(pair.prompt))
            other = directions.draw_other(direction, rng)
            requests.append(Request(Pair(directed(pair.prompt, [direction]), pair.completion), direction, other))
    return requests


def share_followed(requests: Sequence[Request], replies: Sequence[str], other: bool = False) -> float | None:
    """Share of the replies that follow their direction, or the other one; None where there is nothing to follow."""
    asked = [request.other if other else request.direction for request in requests]
    found = [each.followed(reply) for each, reply in zip(asked, replies, strict=True) if each is not None]
    return sum(found) / len(found) if found else None
