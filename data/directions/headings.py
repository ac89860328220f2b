"""Directions at a speaker's heading: `ROMEO, asking, in two lines:`."""

from collections.abc import Sequence
from typing import NamedTuple

from data.console import UserError
from data.directions.direction import Direction, Spec

LONGEST_HEADING = 40
"""Characters of a speaker with the colon; a line with more before its colon, directions apart, is prose."""


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


def read_heading(line: str, specs: Sequence[Spec]) -> Heading | None:
    """The heading that a line is, with its colon; None for any other line."""
    line = line.rstrip()
    if not line.endswith(":"):
        return None
    heading = parse_heading(line[:-1], specs)
    named = heading.speaker.partition(",")[0].strip()
    return heading if named and len(heading.speaker) < LONGEST_HEADING else None


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
    heading = read_heading(last, specs) if prompt.endswith(":\n") else None
    return (before + newline, heading) if heading else (prompt, None)


def directions_of(prompt: str, specs: Sequence[Spec]) -> tuple[Direction, ...]:
    """What a prompt asks for."""
    heading = split_prompt(prompt, specs)[1]
    return heading.directions if heading else ()


def directed(prompt: str, directions: Sequence[Direction]) -> str:
    """The prompt, which asks for nothing yet, with these directions; itself where it does not end with a heading."""
    if not split_prompt(prompt, ())[1]:
        return prompt
    return ", ".join([prompt.removesuffix(":\n"), *map(str, directions)]) + ":\n"


def undirected(prompt: str, specs: Sequence[Spec]) -> str:
    """The prompt without the directions at its last heading."""
    before, heading = split_prompt(prompt, specs)
    return f"{before}{heading.speaker}:\n" if heading and heading.directions else prompt


def last_speaker(prompt: str) -> str:
    """Who speaks the cue of a prompt, in its own spelling and without directions; "" where nobody does."""
    cue = prompt.rstrip("\n").rpartition("\n\n")[0].rpartition("\n\n")[2]
    line = cue.partition("\n")[0].rstrip()
    heading = read_heading(line[:-1].partition(", ")[0] + ":", ()) if line.endswith(":") else None
    return heading.speaker if heading else ""
