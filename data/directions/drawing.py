"""Which directions a prompt gets: those that a real reply happens to follow, or requests drawn for nobody's reply."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

from data.console import UserError
from data.directions.direction import Direction, Spec, inferred
from data.directions.table import HELD_OUT_COMBINATIONS

HOW_MANY = (0.1, 0.75, 0.1, 0.05)
"""Probability that a pair that is learned from has 0, 1, 2 or 3 directions, where its reply follows so many."""
MAIN_KINDS = ("mood", "lines")
MAIN_SHARE = 0.9
"""How often one of a main kind replaces a direction of a pair that has none: what many ask for is learned."""
MOST_UNASKED = 0.9
"""What nearly every reply does unasked is still asked for now and then."""


class Directions:
    """A table of directions over a training text, whose replies say which values are usual."""

    def __init__(self, specs: Sequence[Spec], replies: Iterable[str]) -> None:
        self.specs, self.replies = tuple(specs), list(replies)
        for kind, rows in self.kinds(self.specs).items():
            if self.replies and any(spec.trained or spec.has_value for spec in rows):
                self._check_fits(kind, rows)

    def _check_fits(self, kind: str, rows: Sequence[Spec]) -> None:
        fits = ((found, reply) for reply in self.replies for spec in rows if (found := inferred(spec, reply)))
        if (first := next(fits, None)) is None:
            raise UserError(
                f"no speech of the training text fits a direction of the kind {kind!r} ({rows[0].text!r}): use a text "
                "that has some, a table without that kind, or --directions none"
            )
        first[0].check_score(first[1])

    @cached_property
    def values(self) -> dict[str, Counter[str]]:
        """By the text of a row: how many training replies have each value that may be learned from."""
        values: dict[str, Counter[str]] = {spec.text: Counter() for spec in self.specs}
        for reply in self.replies:
            for spec in self.specs:
                if (found := inferred(spec, reply)) and found.value not in spec.held_out:
                    values[spec.text][found.value] += 1
        return values

    @property
    def trained(self) -> tuple[Spec, ...]:
        return tuple(spec for spec in self.specs if spec.trained)

    def fitting(self, reply: str) -> list[Direction]:
        """What may be learned that a reply follows, in the order of the table."""
        found = [inferred(spec, reply) for spec in self.trained]
        return [each for each in found if each and each.value not in each.spec.held_out]

    def hindsight(self, reply: str, rng: random.Random) -> tuple[Direction, ...]:
        """Some of the directions that a reply follows, none among the outcomes: what it could have been told."""
        by_kind: dict[str, list[Direction]] = {}
        for each in self.fitting(reply):
            by_kind.setdefault(each.kind, []).append(each)
        count = min(len(by_kind), rng.choices(range(len(HOW_MANY)), HOW_MANY)[0])
        chosen = rng.sample([*by_kind], count)
        main = [kind for kind in self.main_kinds if kind in by_kind]
        if chosen and main and not {*main} & {*chosen} and rng.random() < MAIN_SHARE:
            chosen[0] = rng.choice(main)
        return self._learned_together([rng.choice(by_kind[kind]) for kind in by_kind if kind in chosen])

    def kinds(self, specs: Iterable[Spec] | None = None) -> dict[str, list[Spec]]:
        """The rows that are trained (or these), by their kind."""
        rows: dict[str, list[Spec]] = {}
        for spec in self.trained if specs is None else specs:
            rows.setdefault(spec.kind, []).append(spec)
        return rows

    @property
    def main_kinds(self) -> list[str]:
        """The kinds of the numbers that compare models: mood and lines; without both, all that are trained."""
        kinds = [*self.kinds()]
        return [*MAIN_KINDS] if set(MAIN_KINDS) <= set(kinds) else kinds

    def draw(
        self, kind: str, rng: random.Random, spoken_to: str = "", held_out: bool = False, rarer: bool = False
    ) -> Direction:
        """A request of a kind: its rows alike, a value as often as training replies have it.

        spoken_to: who spoke last, in the prompt's own spelling. held_out: a value that nothing learns from. rarer: a
        row the more often, the fewer training replies do it unasked.
        """
        rows = self._drawable(kind, held_out)
        chosen = rng.choices(rows, [1 - self._unasked(spec) for spec in rows])[0] if rarer else rng.choice(rows)
        return self._with_value(chosen, rng, spoken_to, held_out)

    def _unasked(self, spec: Spec) -> float:
        """Share of the training replies, at most MOST_UNASKED, that do what a row without a value says."""
        share = self.values[spec.text].total() / max(1, len(self.replies))
        return 0.0 if spec.has_value else min(share, MOST_UNASKED)

    def draw_other(self, direction: Direction, rng: random.Random, spoken_to: str = "") -> Direction | None:
        """Another request of the same kind; None where there is no other."""
        held_out = direction.value in direction.spec.held_out
        rows = [spec for spec in self._drawable(direction.kind, held_out) if spec.has_value or spec != direction.spec]
        for _ in range(100 if rows else 0):
            found = self._with_value(rng.choice(rows), rng, "", held_out)
            if found != direction:
                return found
        return None

    def draw_several(
        self, kinds: Sequence[str], rng: random.Random, spoken_to: str = "", rarer: bool = False
    ) -> tuple[Direction, ...]:
        """One request of each of these kinds, see `draw`, in the order of the table, none of a held-out combination."""
        order = [*self.kinds(self.specs)]
        for _ in range(100):
            drawn = [self.draw(kind, rng, spoken_to, rarer=rarer) for kind in sorted(kinds, key=order.index)]
            if self.may_be_learned(drawn):
                break
        return tuple(drawn)

    def _drawable(self, kind: str, held_out: bool) -> list[Spec]:
        """The rows of a kind, less those without a value to draw."""
        rows = self.kinds(self.specs)[kind]
        return [spec for spec in rows if not spec.has_value or self.values[spec.text] or (held_out and spec.held_out)]

    def _with_value(self, spec: Spec, rng: random.Random, spoken_to: str, held_out: bool = False) -> Direction:
        if not spec.has_value:
            return Direction(spec)
        if held_out and spec.held_out:
            return Direction(spec, rng.choice(sorted(spec.held_out)))
        values = self.values[spec.text]
        name = spoken_to.split()[-1].capitalize() if spoken_to.strip() else ""
        if spec.spoken_to and name in values:
            return Direction(spec, name)
        return Direction(spec, rng.choices([*values], [*values.values()])[0])

    @classmethod
    def may_be_learned(cls, directions: Sequence[Direction]) -> bool:
        """Whether no combination of them is held out."""
        return len(cls._learned_together(directions)) == len(directions)

    @staticmethod
    def _learned_together(directions: Sequence[Direction]) -> tuple[Direction, ...]:
        """The directions without the last of a combination that is held out."""
        texts = {str(each) for each in directions}
        apart = [combination for combination in HELD_OUT_COMBINATIONS if combination <= texts]
        if not apart:
            return tuple(directions)
        return Directions._learned_together([each for each in directions if str(each) != max(apart[0])])
