"""The built-in directions."""

import re
from functools import lru_cache

from data.directions.direction import Spec

_CLOSING = "\"'\u2019\u201d)]"
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
_NAME = re.compile(
    r"(?:(?<=[,;] )|\b(?:O|ho|my|thou|[Gg]ood|[Ss]weet|[Gg]entle|[Dd]ear|[Ff]air|[Nn]oble|[Bb]rave|[Ww]orthy|[Pp]oor"
    r"|old|[Ll]ord|[Ll]ady|[Mm]aster|[Kk]ing|[Bb]rother|[Cc]ousin|[Uu]ncle) )([A-Z][a-z]{2,})(?=[,;:.!?])"
)
"""A name that is spoken to, inside a line: set off by marks, or after what one is called by. Of what it finds in
tinyshakespeare five in six are speakers, most others are named in the play; after the end of a sentence any word has a
capital."""


def _listed(names: str) -> tuple[str, ...]:
    return tuple(names.split())


CONTENT_WORDS = _listed(
    "love heart good lord man come king great death life time day night true sweet blood hand eyes world heaven "
    "noble brother father mother son wife daughter friend honour soul name house fair poor dead die fear grace god "
    "peace war word tongue tears live speak hear think crown hope gentle cousin prince queen joy grief sword truth "
    "face head old young long little better grave fortune power royal"
)
HELD_OUT_WORDS = frozenset(
    _listed(
        "mother night blood friend peace tongue hope joy sword grave young wife soul fear crown world hand fair dead "
        "truth"
    )
)
HELD_OUT_COMBINATIONS = frozenset(
    {
        frozenset({"asking", "in two lines"}),
        frozenset({"crying out", "in one line"}),
        frozenset({"telling", "in three lines"}),
    }
)
"""Directions that nothing learns from together."""


@lru_cache(maxsize=4096)  # every row asks for the words of a reply in turn
def words(reply: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(reply))


def count_lines(reply: str) -> int:
    return sum(bool(line.strip()) for line in reply.split("\n"))


def last_mark(reply: str) -> str:
    """The mark that ends the last sentence; "" where the reply breaks off."""
    return reply.rstrip().rstrip(_CLOSING)[-1:]


def _mood(text: str, mark: str) -> Spec:
    def check(reply: str) -> bool:
        return last_mark(reply) == mark

    def score(reply: str) -> float:
        return 1.0 if check(reply) else 0.25 if mark in reply else 0.0

    return Spec("mood", text, check, score, lambda reply: "" if check(reply) else None)


def _lines(text: str, count: int) -> Spec:
    def check(reply: str) -> bool:
        return count_lines(reply) == count

    def score(reply: str) -> float:
        off = abs(count_lines(reply) - count)
        return max(0.0, 0.6 - 0.15 * off) if off else 1.0

    return Spec("lines", text, check, score, lambda reply: "" if check(reply) else None)


def _starts(reply: str, word: str) -> bool:
    return [found.lower() for found in words(reply)[:1]] == [word.lower()]


def _first_word(reply: str) -> str | None:
    found = words(reply)[:1]
    return found[0] if found and found[0][0].isupper() else None


def _has(reply: str, word: str) -> bool:
    return word.lower() in {found.lower() for found in words(reply)}


def _content_word(reply: str) -> str | None:
    """The rarest content word of a reply, by the order of the table."""
    found = {word.lower() for word in words(reply)}
    return next((word for word in reversed(CONTENT_WORDS) if word in found), None)


def _name(reply: str) -> str | None:
    found = _NAME.search(reply)
    return found[1] if found else None


def _length(text: str, least: int, most: int) -> Spec:
    def check(reply: str) -> bool:
        return least <= len(words(reply)) <= most

    def score(reply: str) -> float:
        length = len(words(reply))
        return min(1.0, length / least if length < least else (most + 1) / (length + 1))

    return Spec("length", text, check, score, lambda reply: "" if check(reply) else None, trained=False)


SPECS: tuple[Spec, ...] = (
    _mood("asking", "?"),
    _mood("crying out", "!"),
    _mood("telling", "."),
    _lines("in one line", 1),
    _lines("in two lines", 2),
    _lines("in three lines", 3),
    _lines("in four lines", 4),
    Spec("beginning", "beginning with {}", _starts, lambda reply, word: float(_starts(reply, word)), _first_word),
    Spec(
        "word", "with the word {}", _has, lambda reply, word: float(_has(reply, word)), _content_word,
        held_out=HELD_OUT_WORDS,
    ),
    Spec("to", "to {}", _has, lambda reply, name: float(_has(reply, name)), _name, spoken_to=True),
    _length("in few words", 1, 6),
    _length("at length", 25, 10_000),
)  # fmt: skip
