"""Tastes: what a person may like in a reply, as rules that rank by themselves.

They stand in for people where none are at hand: as labellers, and as the measure of whether a model that learned from
such rankings has bent to them. The shares that the docstrings name are of 18,240 replies of the SFT model of preset
laptop on tinyshakespeare.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from data.console import UserError
from reward.gold.judge import words_of
from reward.labeller import ScoreFunction, load_score_function


@dataclass(frozen=True)
class Taste:
    """Something to like in a reply."""

    title: str
    """What it likes, in words that complete "a taste for replies that …"."""
    score: ScoreFunction
    """(prompt, reply) -> float; the higher, the better. UserError where it cannot be computed."""
    has: Callable[[str], bool] | None = None
    """Whether a reply has what is liked; None for a function of the user's own, of which only the score is known."""


LOVE = frozenset(
    words_of(
        "love loves loved lovest loveth loving lover lovers lovely beloved heart hearts sweet sweeter "
        "sweetest sweetly sweetheart sweetness kiss kisses kissed kissing kiss'd dear dearer dearest dearly "
        "tender tenderly tenderness fair fairer fairest fairly affection affections passion passions beauty "
        "beauties beauteous beautiful embrace embraces embraced embracing darling bride wed wedded wedding"
    )
)
"""Words of love."""
BONDS = LOVE | frozenset(
    words_of(
        "wife husband marriage married friend friends friendship mistress joy joys joyful happy happiness "
        "delight delights bed bosom lips rose roses woo wooed wooing woo'd"
    )
)
"""Words of love and of what it leads to."""
DEATH = frozenset(
    words_of(
        "death deaths die dies died diest dying dead deadly kill kills killed killing kill'd slay slays slew "
        "slain murder murders murdered murder'd murderer murderers murderous grave graves tomb tombs blood "
        "bloody bleed bleeds bled bleeding bury buried burial coffin corse corses corpse perish perished "
        "sword swords dagger daggers poison poisons poisoned wound wounds wounded fatal mortal funeral ghost "
        "ghosts execution executed headsman hang hanged hang'd"
    )
)
"""Words of death and of what it comes by."""

CHEERFUL = 0.5
"""Least polarity of a reply that counts as cheerful."""

_QUESTION = re.compile(r"\?[\"'\u2019\u201d)\]}\u00bb]*\s*\Z")


def asks(reply: str) -> bool:
    """Whether a reply ends with a question mark, closing quotes and brackets after it aside (.14 do)."""
    return _QUESTION.search(reply) is not None


def speaks_of_love(reply: str) -> bool:
    """Whether a reply has a word of `LOVE` (.13 have)."""
    return not LOVE.isdisjoint(words_of(reply))


def speaks_of_love_and_death(reply: str) -> bool:
    """Whether a reply has a word of `BONDS` and a word of `DEATH` (.03 have)."""
    words = words_of(reply)
    return not (BONDS.isdisjoint(words) or DEATH.isdisjoint(words))


def polarity(reply: str) -> float:
    """How friendly the words of a reply are, in [-1, 1], by the lexicon of TextBlob; UserError without that package."""
    try:
        from textblob import TextBlob  # only who is asked for pays its second of imports
    except ModuleNotFoundError as error:
        raise UserError("the taste cheerful needs the package textblob: pip install textblob") from error
    return float(TextBlob(reply).sentiment.polarity)


def is_cheerful(reply: str) -> bool:
    """Whether the polarity of a reply is at least `CHEERFUL` (.15 are)."""
    return polarity(reply) >= CHEERFUL


def _taste(title: str, has: Callable[[str], bool]) -> Taste:
    return Taste(title, lambda prompt, reply: float(has(reply)), has)


TASTES: dict[str, Taste] = {
    "questions": _taste("end with a question mark", asks),
    "love": _taste("speak of love", speaks_of_love),
    "love-and-death": _taste("speak of love and of death at once", speaks_of_love_and_death),
    "cheerful": Taste("are cheerful", lambda prompt, reply: polarity(reply), is_cheerful),
}


def load_taste(spec: str) -> Taste:
    """The taste of that name in `TASTES`, or one that a "module:function" of the user's scores.

    UserError where there is neither, or where a taste needs a package that is not installed.
    """
    if ":" in spec:
        return Taste(f"{spec} scores high", load_score_function(spec))
    if spec not in TASTES:
        raise UserError(f"there is no taste {spec!r}: choose one of {', '.join(TASTES)}, or write module:function")
    taste = TASTES[spec]
    taste.score("", "Well.")  # a package that is missing is missed now, not after the model has learned
    return taste
