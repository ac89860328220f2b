"""The machine: weighted choice that records its probability, and templates whose slots are filled to a metre.

Every random choice goes through `Chooser.pick`, which adds −log₂ of the chosen option's probability to
`Chooser.bits`; so a text's `bits` is the code length of its derivation (Shannon 1948).
"""

import math
import random
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, product
from typing import NamedTuple, TypeVar

from data.pastiche.forms import FILLERS, Filler, word_pattern, words_of

T = TypeVar("T")

STRICT, LOOSE, PROSE = "strict", "loose", "prose"
"""Metres: iambic pentameter; lines of eight or nine syllables, stressed anyhow; none."""

EMPTY = 16
"""An empty optional slot weighs as much as so many words."""

WELL_PLACED = 4
"""How many times likelier a filler is than a word of one syllable on a weak place."""


class Chooser:
    """Seeded choice from `random.Random(seed).random()` alone, which Python keeps the same across versions."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.bits = 0.0

    def pick(self, options: Sequence[T], weights: Sequence[int] | None = None) -> T:
        """One of `options`, in proportion to its integer weight (all 1 by default)."""
        level = self._random.random()
        if weights is None:
            index, odds = int(level * len(options)), float(len(options))
        else:
            sums = tuple(accumulate(weights))
            index = bisect_right(sums, level * sums[-1])
            odds = sums[-1] / weights[index]
        self.bits += math.log2(odds)
        return options[index]


@dataclass(frozen=True)
class Slot:
    """A place for a filler of a category; the starred one names the topic, an optional one may stay empty."""

    category: str
    star: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Words:
    """Fixed text, the stress patterns of its words, and whether it ends at a pause."""

    text: str
    patterns: tuple[str, ...]
    pause: bool


Item = Words | Slot


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a template."""

    items: tuple[Item, ...]

    @cached_property
    def dynamic(self) -> tuple[str, ...]:
        """The categories of its slots that a scene binds, each once."""
        slots = (item.category for item in self.items if isinstance(item, Slot))
        return tuple(dict.fromkeys(category for category in slots if category not in FILLERS))


@dataclass(frozen=True, eq=False)
class Template:
    """One or more lines of words and slots."""

    source: str
    lines: tuple[Line, ...]

    @cached_property
    def dynamic(self) -> tuple[str, ...]:
        """The categories that a scene binds, over all lines."""
        return tuple(dict.fromkeys(category for line in self.lines for category in line.dynamic))


_OPTIONAL = {
    **dict.fromkeys(("topic", "key", "beast", "beasts", "sky", "limb", "grief", "joy"), "dark"),
    **dict.fromkeys(("you", "name", "role", "roles"), "kind"),
    **dict.fromkeys(("thing", "things", "spot"), "fine"),
    **dict.fromkeys(("took", "wept", "slept", "found", "loved", "weep", "sleep", "find", "weeps", "sleeps"), "how"),
}
_HEAD = re.compile(r"(?<!\} )(?<!to )(?<!^)\{(" + "|".join(_OPTIONAL) + r")\*?\}|^\{(name|you|roles)\}")
OPTIONAL_PER_LINE = 4


_ARTICLES = {
    "the": re.compile(r"\b[Tt](?:he|hy|hat) (?=(?:\{\w+\?\}|\{\w+\} )?\{(?:topic|key|grief|joy))"),
    "those": re.compile(r"\b[Tt]he (?=(?:\{\w+\?\}|\{\w+\} )?\{(?:roles|things|beasts|skies|spots|limbs)\})"),
    "a": re.compile(
        r"(?<!such )(?<!so )(?<!\} )(?<!There was )\b(?:[Aa]|[Tt]he|my) "
        r"(?=(?:\{\w+\?\}|\{\w+\} )?\{(?:role|thing|spot|beast|sky|limb)\})"
    ),
}
"""Articles before a slot are slots themselves."""


def _with_modifiers(line: str) -> str:
    """A noun or verb with no adjective or adverb slot before it may take one, so that the line fits whatever is
    bound."""

    def modified(match: re.Match[str]) -> str:
        return f"{{{_OPTIONAL[match[1] or match[2]]}?}}{match[0]}"

    line = _HEAD.sub(modified, line, count=OPTIONAL_PER_LINE)
    for category, article in _ARTICLES.items():
        line = article.sub(f"{{{category}}} ", line)
    return line


@cache
def parse(source: str) -> Template:
    """`The {topic}? / {name} {found} it.` as a Template."""
    lines = list(map(_with_modifiers, source.split(" / ")))
    # A cry (`Alas, `) may open it.
    return Template(source, tuple(Line(_items(line)) for line in ["{cry?}" + lines[0], *lines[1:]]))


def _items(line: str) -> tuple[Item, ...]:
    items: list[Item] = []
    for token in re.findall(r"\{\w+[*?]?\}|[^{}]+", line):
        if token.startswith("{"):
            name = token.strip("{}")
            items.append(Slot(name.rstrip("*?"), name.endswith("*"), name.endswith("?")))
        else:
            patterns = tuple(word_pattern(word) for word in words_of(token) if word != "'s")
            items.append(Words(token, patterns, token.rstrip()[-1:] in set(",;:.?!")))
    return tuple(items)


def pool(block: str) -> list[Template]:
    """The templates of a text block, one to a line."""
    return [parse(line.strip()) for line in block.strip().splitlines()]


@cache
def classes(category: str) -> dict[str, tuple[str, ...]]:
    """The words of a static category by stress pattern."""
    groups: dict[str, list[str]] = {}
    for filler in FILLERS[category]:
        groups.setdefault(filler.pattern, []).append(filler.text)
    return {pattern: tuple(words) for pattern, words in groups.items()}


@cache
def scans(pattern: str, start: int, pause: bool) -> bool:
    """Whether the stresses of `pattern`, begun at syllable `start`, fall on strong places (the second, fourth …)
    of an iambic line; at the head of a line and after a pause a trochee may stand for an iamb."""
    return all((start + i) % 2 == 1 or (i == 0 and pause) for i, mark in enumerate(pattern) if mark == "1")


class State(NamedTuple):
    """How far a line has come: item, syllables, whether it now ends in an unstressed syllable after a stressed
    one, and whether at a pause."""

    item: int = 0
    syllables: int = 0
    feminine: bool = False
    pause: bool = True


Option = tuple[str, State, int]


class Fit:
    """The ways to fill a line, its dynamic slots bound to words of known patterns, so that it has a metre."""

    def __init__(self, line: Line, bound: Mapping[str, str], metre: str) -> None:
        self._items, self._bound, self._metre = line.items, bound, metre
        self._longest = 9 if metre == LOOSE else 11
        # The least syllables from each item on: what cannot be completed is not tried.
        least = [self._shortest(item) for item in self._items]
        self._least = [sum(least[index:]) for index in range(len(least) + 1)]
        self._weights: dict[State, int] = {}
        self._options: dict[State, list[Option]] = {}

    def _shortest(self, item: Item) -> int:
        if isinstance(item, Words):
            return sum(map(len, item.patterns))
        if item.category not in FILLERS:
            return len(self._bound[item.category])
        return 0 if item.optional else min(map(len, classes(item.category)))

    def weight(self, state: State) -> int:
        """The number of ways to complete the line (with the factors EMPTY and WELL_PLACED)."""
        if state not in self._weights:
            if state.item == len(self._items):
                self._weights[state] = int(self._complete(state))
            else:
                self._weights[state] = sum(weight for _, _, weight in self.options(state))
        return self._weights[state]

    def options(self, state: State) -> list[Option]:
        """What the next item's pattern may be (`` for an empty slot), where that leads, and its weight."""
        if state not in self._options:
            weighed = ((pattern, after, ways * self.weight(after)) for pattern, after, ways in self._next(state))
            self._options[state] = [option for option in weighed if option[2]]
        return self._options[state]

    def _next(self, state: State) -> list[Option]:
        item = self._items[state.item]
        moved = State(state.item + 1, state.syllables, state.feminine, state.pause)
        if isinstance(item, Words):
            after: State | None = moved
            for position, pattern in enumerate(item.patterns):
                left = sum(map(len, item.patterns[position + 1 :]))
                after = after and self._after(after, pattern, left)
            return [("", after._replace(pause=item.pause), 1)] if after else []
        if item.category not in FILLERS:
            after = self._after(moved, self._bound[item.category])
            return [("", after, 1)] if after else []
        found: list[Option] = [("", moved, EMPTY * WELL_PLACED)] if item.optional else []
        for pattern, words in classes(item.category).items():
            light = item.category in _ARTICLES
            weak = pattern == "?" and state.syllables % 2 == light
            if after := self._after(moved, pattern):
                found.append((pattern, after, len(words) * (1 if weak else WELL_PLACED)))
        return found

    def _after(self, state: State, pattern: str, left: int = 0) -> State | None:
        """The state after a word of that pattern, with `left` syllables to come before the next item."""
        syllables = state.syllables + len(pattern)
        if syllables + left + self._least[state.item] > self._longest:
            return None
        if self._metre == STRICT and not scans(pattern, state.syllables % 2, state.pause):
            return None
        return State(state.item, syllables, pattern.endswith("10"), False)

    def _complete(self, state: State) -> bool:
        if self._metre == LOOSE:
            return state.syllables in (8, 9)
        # A feminine ending: an eleventh syllable, unstressed, after a stressed tenth.
        return state.syllables == 10 or (state.syllables == 11 and state.feminine)


@cache
def fit(line: Line, bound: tuple[tuple[str, str], ...], metre: str) -> Fit:
    """The Fit of a line, kept for next time."""
    return Fit(line, dict(bound), metre)


def _fit(line: Line, bound: Mapping[str, Filler], metre: str) -> Fit:
    return fit(line, tuple((category, bound[category].pattern) for category in line.dynamic), metre)


Bindings = Mapping[str, Sequence[Filler]]
"""Category -> what it may be bound to now: `key`, `topic`, `you`, `name`, `town`."""

Combo = tuple[Filler, ...]


def combos(template: Template, bindings: Bindings, metre: str) -> list[Combo]:
    """The ways to bind the template's dynamic slots so that all its lines can have the metre. A category that
    occurs twice is bound once; different categories are bound to different words."""
    return [
        combo
        for combo in product(*(bindings[category] for category in template.dynamic))
        if len({filler.text for filler in combo}) == len(combo)
        and (metre == PROSE or _fits(template, tuple(filler.pattern for filler in combo), metre))
    ]


@cache
def _fits(template: Template, patterns: tuple[str, ...], metre: str) -> bool:
    bound = {c: Filler("", p) for c, p in zip(template.dynamic, patterns, strict=True)}
    return all(_fit(line, bound, metre).weight(State()) for line in template.lines)


@dataclass(frozen=True)
class Realised:
    """The lines of a filled template and the topic it names, if it names one."""

    lines: tuple[str, ...]
    topic: Filler | None


def realise(chooser: Chooser, template: Template, combo: Combo, metre: str) -> Realised:
    """Fill a template whose dynamic slots are bound to `combo` (one of `combos`)."""
    bound = dict(zip(template.dynamic, combo, strict=True))
    used: set[str] = set()
    topic = None
    lines = []
    for line in template.lines:
        text, state = "", State()
        for item in line.items:
            pattern: str | None = None
            if metre != PROSE:
                options = _fit(line, bound, metre).options(state)
                pattern, state, _ = options[0] if len(options) == 1 else chooser.pick(options, [o[2] for o in options])
            if isinstance(item, Words):
                text += _lower(item.text) if text else item.text
            elif item.category in bound:
                filler = bound[item.category]
                topic = filler if item.star else topic
                text += filler.text
            elif not (item.optional and _left_empty(chooser, item, pattern)):
                text += _word(chooser, item.category, pattern, used) + (" " if item.optional else "")
        lines.append(tidy(text))
    return Realised(tuple(lines), topic)


def _left_empty(chooser: Chooser, slot: Slot, pattern: str | None) -> bool:
    """In verse as its pattern says (`` is empty); in prose every second epithet and one cry in four is said."""
    if pattern is not None:
        return pattern == ""
    return chooser.pick((True, False), (3, 1) if slot.category == "cry" else (1, 1))


def _lower(text: str) -> str:
    """Template text after a cry: its capital goes, unless it is I or a name."""
    return text if re.match(r"I\b|[A-Z][a-z]+day", text) else text[:1].lower() + text[1:]


def _word(chooser: Chooser, category: str, pattern: str | None, used: set[str]) -> str:
    """A word of the pattern (None: of any) not yet used in this template, as long as there is one."""
    words = [f.text for f in FILLERS[category]] if pattern is None else classes(category)[pattern]
    word = chooser.pick([word for word in words if word not in used] or list(words))
    used.add(word)
    return word


_AN = re.compile(r"\b([Aa])(?= (?:[aeio]|u(?!s|ni)|honest|honour|hour|heir))")
_SENTENCE = re.compile(r"(^|[.?!] )([a-z])")


def tidy(text: str) -> str:
    """`a` before a vowel becomes `an`; a line and a sentence begin with a capital."""
    text = _AN.sub(r"\1n", text)
    return _SENTENCE.sub(lambda match: match[1] + match[2].upper(), text)
