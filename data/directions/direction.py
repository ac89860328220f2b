"""What a direction is: a row of a table with what it says, and how one knows that a reply follows it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from data.console import UserError

PLACE = "{}"
"""The place for a value in the text of a row."""


@dataclass(frozen=True)
class Spec:
    """A row of the table. Directions of one kind exclude each other; those of several kinds can be asked for at once.

    The functions take a reply, and `check` and `score` after it the value, where the text has a place for one.
    """

    kind: str
    text: str
    """What the heading says, such as "asking", or with one place for a value: "beginning with {}"."""
    check: Callable[..., bool]
    """Whether a reply follows the direction."""
    score: Callable[..., float]
    """How nearly a reply follows it, in [0, 1] and 1 where `check` holds: a slope for what learns by rewards."""
    infer: Callable[[str], str | None]
    """The value that a real reply would have been told; "" where the text has no place for one; None: not this row."""
    trained: bool = True
    """Whether anything learns from it; a row that nothing learns from shows what carries over."""
    held_out: frozenset[str] = frozenset()
    """Values that nothing learns from."""
    spoken_to: bool = False
    """Whether the value is a name: a prompt's own cue then says which to ask for."""

    @property
    def has_value(self) -> bool:
        return PLACE in self.text

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        before, place, after = self.text.partition(PLACE)
        return re.compile(re.escape(before) + (r"(?P<value>[^\s,:]+)" if place else "") + re.escape(after) + r"\Z")


@dataclass(frozen=True)
class Direction:
    """A row with its value."""

    spec: Spec
    value: str = ""

    def __str__(self) -> str:
        return self.spec.text.replace(PLACE, self.value)

    @property
    def kind(self) -> str:
        return self.spec.kind

    def followed(self, reply: str) -> bool:
        """Whether the reply does as told; UserError where the row's `check` cannot say."""
        found = self._call("check", reply)
        if not isinstance(found, bool):
            raise UserError(f"the direction {str(self)!r}: its check gave {found!r:.60}: return True or False")
        return found

    def nearly(self, reply: str) -> float:
        """How nearly it does, in [0, 1]; UserError where the row's `score` gives anything else."""
        found = self._call("score", reply)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= 1:
            raise UserError(f"the direction {str(self)!r}: its score gave {found!r:.60}: return a number from 0 to 1")
        return float(found)

    def check_score(self, reply: str) -> None:
        """Raise UserError unless the row's `score` agrees with its `check` on a reply that follows."""
        if (score := self.nearly(reply)) < 1:
            raise UserError(
                f"the direction {str(self)!r}: its score is {score:g} where its check holds: return 1 there"
            )

    def _call(self, name: str, reply: str) -> Any:
        try:
            return getattr(self.spec, name)(reply, *([self.value] if self.spec.has_value else []))
        except Exception as error:  # a user's function raises what it likes
            raise UserError(
                f"the direction {str(self)!r}: its {name} raised {type(error).__name__}: {error}; correct it"
            ) from error


def inferred(spec: Spec, reply: str) -> Direction | None:
    """The direction of this row that a reply follows, if there is one; UserError where `infer` and `check` disagree."""
    try:
        value = spec.infer(reply)
    except Exception as error:
        raise UserError(f"the direction {spec.text!r}: its infer raised {type(error).__name__}: {error}") from error
    if value is None:
        return None
    if not isinstance(value, str) or bool(value) != spec.has_value:
        place = "the value of its place" if spec.has_value else '""'
        raise UserError(f"the direction {spec.text!r}: its infer gave {value!r:.60}: return {place}, or None")
    found = Direction(spec, value)
    if not spec.pattern.match(str(found)):
        return None  # a value that no heading can hold
    if not found.followed(reply):
        raise UserError(
            f"the direction {str(found)!r}: its infer finds it where its check does not hold: {reply!r:.80}"
        )
    return found
