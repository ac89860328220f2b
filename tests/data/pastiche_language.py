"""An independent reading of the pastiche's templates: which word sequences two templates have in common.

A template is a regular language over words: fixed words, slots (any filler of the category, of any length), optional
slots (also nothing).  Two templates of one choice point must have no sequence in common, or a line would not tell
which of them it came from and the derivation's entropy would exceed the text's.
"""

import re
from functools import cache

from data.pastiche.forms import FIELDS, FILLERS
from data.pastiche.grammar import Template, Words
from data.pastiche.plays import ALL_PLAYS

Words_ = tuple[str, ...]


def tokens(text: str) -> Words_:
    """Words and marks of a text, in lower case, with `an` as `a`."""
    found = re.findall(r"'s\b(?<=\w's)|--|[,.;:?!/]|(?:(?!'s\b|--)[\w'-])+", text.lower())
    return tuple("a" if token == "an" else token for token in found)


@cache
def fillers(category: str) -> dict[str, tuple[Words_, ...]]:
    """What may fill a slot in any scene: first word -> what follows it."""
    called = [speaker.called.text for play in ALL_PLAYS for speaker in play.cast]
    nouns = [noun.text for field in FIELDS.values() for noun in field]
    texts = {
        "you": [*called, "friend", "gossip"],
        "name": called,
        "topic": nouns,
        "key": nouns,
        "town": [town.text for play in ALL_PLAYS for town in play.towns],
    }.get(category) or [filler.text for filler in FILLERS[category]]
    by_first: dict[str, list[Words_]] = {}
    for text in texts:
        first, *rest = tokens(text)
        by_first.setdefault(first, []).append(tuple(rest))
    return {first: tuple(rests) for first, rests in by_first.items()}


@cache
def elements(template: Template) -> tuple[tuple[str | None, bool, Words_], ...]:
    """The template as (category, optional, words): a category, or fixed words."""
    found: list[tuple[str | None, bool, Words_]] = []
    for number, line in enumerate(template.lines):
        if number:
            found.append((None, False, ("/",)))
        for item in line.items:
            if isinstance(item, Words):
                found.append((None, False, tokens(item.text)))
            else:
                found.append((item.category, item.optional, ()))
    return tuple(found)


Place = tuple[int, Words_]


def common(a: Template, b: Template, prefix: bool = False) -> bool:
    """Whether some word sequence belongs to both templates (or, with `prefix`, begins the other's)."""
    seen: set[tuple[Place, Place]] = set()
    stack: list[tuple[Place, Place]] = [((0, ()), (0, ()))]
    while stack:
        pair = stack.pop()
        if pair in seen:
            continue
        seen.add(pair)
        left, right = (_moves(template, place) for template, place in zip((a, b), pair, strict=True))
        if (left[1] or right[1]) if prefix else (left[1] and right[1]):
            return True
        small, large = sorted((left[0], right[0]), key=len)
        for word in small:
            if word in large:
                stack += [(x, y) for x in left[0][word] for y in right[0][word]]
    return False


@cache
def _moves(template: Template, place: Place) -> tuple[dict[str, set[Place]], bool]:
    """The words that may come next and where each leads; and whether the sequence may end here."""
    index, rest = place
    if rest:
        return {rest[0]: {(index, rest[1:])}}, False
    if index == len(elements(template)):
        return {}, True
    category, optional, words = elements(template)[index]
    if category is None:
        return _moves(template, (index + 1, words))
    moves: dict[str, set[Place]] = {
        first: {(index + 1, following) for following in rests} for first, rests in fillers(category).items()
    }
    ends = False
    if optional:
        skipped, ends = _moves(template, (index + 1, ()))
        for first, places in skipped.items():
            moves[first] = moves.get(first, set()) | places
    return moves, ends


def ambiguous(template: Template) -> bool:
    """Whether two different fillings of the template make one word sequence."""
    seen: set[tuple[Place, Place, bool]] = set()
    stack: list[tuple[Place, Place, bool]] = [((0, ()), (0, ()), False)]
    while stack:
        state = stack.pop()
        if state in seen:
            continue
        seen.add(state)
        one, other, parted = state
        left, right = _moves(template, one), _moves(template, other)
        if parted and left[1] and right[1]:
            return True
        for word in left[0]:
            for x, y in ((x, y) for x in left[0][word] for y in right[0].get(word, ())):
                stack.append((x, y, parted or x != y))
    return False
