"""Directions at a speaker's heading: `ROMEO, asking, in two lines:`."""

from collections.abc import Sequence
from typing import NamedTuple

from data.console import UserError
from data.directions.specs import Direction, Spec


class Heading(NamedTuple):
    """Who speaks, and what is asked of the speech."""

    speaker: str
    directions: tuple[Direction, ...] = ()

    def __str__(self) -> str:
        """Without the colon."""
        return ", ".join([self.speaker, *map(str, self.directions)])


def parse_direction(text: str, specs: Sequence[Spec]) -> Direction | None:
    """The direction that a text is, by the first row that it fits."""
    for spec in specs:
        if found := spec.pattern.match(text.strip()):
            return Direction(spec, found["value"] if spec.has_value else "")
    return None


def parse_heading(heading: str, specs: Sequence[Spec]) -> Heading:
    """A heading without its colon: the parts at its end that are directions, and the speaker before them."""
    speaker, *parts = heading.split(", ")
    directions: list[Direction] = []
    for part in reversed(parts):
        if (found := parse_direction(part, specs)) is None:
            break
        directions.insert(0, found)
    named = [speaker, *parts[: len(parts) - len(directions)]]
    return Heading(", ".join(named), tuple(directions))


def read_directions(text: str, specs: Sequence[Spec]) -> tuple[Direction, ...]:
    """The directions that somebody asks for, separated by commas; UserError for what is none, or excludes another."""
    found: list[Direction] = []
    for part in filter(None, map(str.strip, text.split(","))):
        if (direction := parse_direction(part, specs)) is None:
            known = ", ".join(spec.text.replace("{}", "WORD") for spec in specs) or "none at all"
            raise UserError(f"the model knows no direction {part!r:.60}; it knows: {known}")
        if other := next((each for each in found if each.kind == direction.kind), None):
            raise UserError(f"the directions {str(other)!r} and {str(direction)!r} exclude each other: ask for one")
        found.append(direction)
    return tuple(found)


def split_prompt(prompt: str, specs: Sequence[Spec]) -> tuple[str, Heading | None]:
    """What stands before the heading that ends a prompt, and that heading; None where it ends with none."""
    before, newline, last = prompt.removesuffix("\n").rpartition("\n")
    if not prompt.endswith(":\n") or not last[:-1].strip():
        return prompt, None
    return before + newline, parse_heading(last[:-1], specs)


def directions_of(prompt: str, specs: Sequence[Spec]) -> tuple[Direction, ...]:
    """What a prompt asks for."""
    heading = split_prompt(prompt, specs)[1]
    return heading.directions if heading else ()


def directed(prompt: str, directions: Sequence[Direction]) -> str:
    """The prompt, which asks for nothing yet, with these directions; itself where it does not end with a heading."""
    before, heading = split_prompt(prompt, ())
    return f"{before}{Heading(heading.speaker, tuple(directions))}:\n" if heading else prompt


def last_speaker(prompt: str) -> str:
    """Who speaks the cue of a prompt, in its own spelling and without directions; "" where nobody does."""
    cue = prompt.rstrip("\n").rpartition("\n\n")[0].rpartition("\n\n")[2]
    heading = split_prompt(cue.partition("\n")[0] + "\n", ())[1]
    return heading.speaker.split(", ")[0] if heading else ""
