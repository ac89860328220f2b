"""Tables of directions: the built-in one, and those that users bring."""

import re
from collections.abc import Sequence
from typing import Any

from data.console import UserError
from data.directions.direction import PLACE, Direction, Spec, inferred
from data.directions.table import SPECS
from data.imports import import_named

__all__ = ["BUILT_IN", "NONE", "Direction", "Spec", "check_specs", "inferred", "load_specs"]

BUILT_IN, NONE = "built-in", "none"
"""Names of the table of `data.directions.table`, and of an empty one."""


def load_specs(name: str) -> tuple[Spec, ...]:
    """The table of that name: built-in, none, or module:NAME, a list of `Spec`; UserError where it is none."""
    if name == NONE:
        return ()
    if name == BUILT_IN:
        return SPECS
    found = import_named(name, "--directions", f"{BUILT_IN}, {NONE} or module:SPECS, a list of your own")
    return check_specs(found, f"--directions {name}")


def check_specs(found: Any, what: str) -> tuple[Spec, ...]:
    """`found` as a table, if it is one whose rows can be told apart; UserError otherwise."""
    if not isinstance(found, Sequence) or not found or not all(isinstance(spec, Spec) for spec in found):
        raise UserError(f"{what} is {found!r:.60}: give a list of data.directions.specs.Spec, at least one")
    for spec in found:
        for part in (spec.kind, spec.text):
            if not isinstance(part, str) or not part or part != " ".join(part.split()) or re.search("[,:]", part):
                raise UserError(f"{what}: kind and text are words without comma, colon or line break, not {part!r:.60}")
        if spec.text.count(PLACE) > 1 or not spec.text.replace(PLACE, ""):
            raise UserError(f"{what}: {spec.text!r} must have words and at most one place for a value")
        for name in ("check", "score", "infer"):
            if not callable(getattr(spec, name)):
                raise UserError(f"{what}: {name} of {spec.text!r} is not a function")
    for spec in found:
        example = spec.text.replace(PLACE, "word")
        if sum(bool(other.pattern.match(example)) for other in found) > 1:
            raise UserError(f"{what} has {example!r} twice: a heading could not say which is meant")
    return tuple(found)
