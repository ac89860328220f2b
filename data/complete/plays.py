"""One play of the complete works: its source file as speeches and stage directions.

The source has `NAME<TAB>line` where a speech begins, `<TAB>line` where it continues, blank lines between speeches, and
stage directions in brackets; a list of persons, which ends with a line `SCENE<TAB>where`, comes first.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from data.dialogue import Speech

_PERSONS = re.compile(r"\A.*?^SCENE\t.*?\n[ \t]*\n", re.DOTALL | re.MULTILINE)
_PARAGRAPH = re.compile(r"\n(?:[ \t]*\n)+")
_HEADING = re.compile(r"(ACT|SCENE)\b.*|\t((THE )?(PROLOGUE|EPILOGUE|INDUCTION)\.?|SPOKEN BY [A-Z]+)", re.DOTALL)
_DIRECTION = re.compile(r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\][ \t]*")  # one may hold another: [Burthen [within] …]
_SONG = re.compile(r"^\t[A-Z' ]*SONG\.$", re.MULTILINE | re.IGNORECASE)
_TWO_LINES = re.compile(r"^([^\t\n]+)\n(?=[^\t\n]+\t)", re.MULTILINE)
_TO_NEXT_NAME = r".*\n(?:(?:\t.*)?\n)*"
_NOTHING = "\0"
_COLON = re.compile(r"^([A-Z][\w' ]*):[ \t]+", re.MULTILINE)


class Play(NamedTuple):
    """speeches: in order, none empty. directions: all stage directions in order; no speech holds any of them."""

    speeches: list[Speech]
    directions: list[str]


def read_play(source: str) -> Play:
    """The speeches and the stage directions of a play's source.

    Left out: the list of persons, titles, lines of acts and scenes, and text without a speaker. What several say
    together, which a brace of `|` joins, is said by the first of them.
    """
    title = _capitals(source.strip().partition("\n")[0])
    begun: list[tuple[str, list[str]]] = []
    directions: list[str] = []
    speaking = False
    for paragraph in _PARAGRAPH.split(_PERSONS.sub("", source)):
        if _HEADING.fullmatch(paragraph) or _capitals(paragraph) == title:
            speaking = False
            continue
        for line in _cleaned(paragraph, directions).split("\n"):
            name, tab, said = line.partition("\t")
            if tab and re.search(r"\w", name):
                begun.append((" ".join(name.split()).removesuffix(":"), []))
                speaking = True
            if speaking and (said := said.strip()):
                begun[-1][1].append(said.replace("\t", " "))
    return Play([Speech(name, "\n".join(lines)) for name, lines in begun if lines], directions)


def as_tinyshakespeare(source: str) -> str:
    """The play as tinyshakespeare has it, to the character, where it has The Taming of the Shrew and The Tempest.

    That text keeps only the heading of a speech that begins with a direction, and nothing of what follows a direction
    within another, up to the next heading.
    """
    kept = re.sub(r"^([^\t\n]+\t)\[" + _TO_NEXT_NAME, rf"\1{_NOTHING}\n\n", source, flags=re.MULTILINE)
    kept = re.sub(r"^\t\[[^\]\n]*\[" + _TO_NEXT_NAME, "", kept, flags=re.MULTILINE)
    return layout(read_play(kept).speeches).replace(f"\n{_NOTHING}", "")


def layout(speeches: Iterable[Speech]) -> str:
    """The speeches as tinyshakespeare writes them: a heading, its lines, a blank line between."""
    return "\n\n".join(map(str, speeches)) + "\n"


def _cleaned(paragraph: str, directions: list[str]) -> str:
    """A paragraph without its directions, which are added to `directions`, and without the source's slips."""
    if "|" in paragraph:
        first, *others = paragraph.split("\n")
        paragraph = "\n\t".join([first.replace("|", ""), *(line.rpartition("|")[2] for line in others)])
    if paragraph.startswith("\t[") and not _DIRECTION.match(paragraph, 1):
        paragraph += "]"
    paragraph = _TWO_LINES.sub(r"\1 ", _COLON.sub(r"\1\t", _SONG.sub("", paragraph)))
    directions += [" ".join(found.split()) for found in _DIRECTION.findall(paragraph)]
    return re.sub(r"[\[\]]", "", _DIRECTION.sub("", paragraph))


def _capitals(text: str) -> str:
    return re.sub(r"[^A-Z]", "", text)
