"""The embedded corpus: plays written by a seeded grammar, in the layout of tinyshakespeare, of known entropy.

Plays (plays.py) have scenes on a matter (fields.py, matters.py) in which two to four speakers take turns; each
speech answers the one before (its topic, its question) and passes the word on (verse.py, prose.py), in blank verse,
in looser verse or in prose (grammar.py, forms.py, lexicon.py).

How exact the entropy is.  Every choice goes through one Chooser, which adds −log₂ of the probability of what it
chose; the sum over a text is the code length of its derivation.  It is the text's own code length where the text
tells its derivation, and it does: no two templates that may compete have a line in common (tests check all pairs
exactly), and no category has a word twice.  What the text may leave open is what a scene keeps to itself before it
begins (its play, matter, cast, nouns, length), all of it `scene_bits_per_char`.  So the entropy printed is an upper
bound of the text's own, exact up to that amount: the floor lies between the two.
"""

from dataclasses import dataclass
from functools import cache

from data.pastiche.grammar import Chooser
from data.pastiche.scenes import write

VALIDATION_START = 0.9
"""The share of the characters that trains; the rest is the validation split."""


@dataclass(frozen=True)
class Pastiche:
    """The text and its entropy, in bits per character."""

    text: str
    entropy_bits_per_char: float
    """Of the whole text: the average code length that the grammar itself would reach on it."""
    validation_entropy_bits_per_char: float
    """Of the last tenth of its characters: the floor of a model's validation loss."""
    scene_bits_per_char: float
    """How much of it, at most, may not show in the text."""


@cache
def pastiche(seed: int = 1623, characters: int = 1_150_000) -> Pastiche:
    """Plays of at least `characters` characters (up to the end of a speech), the same for a seed on every machine."""
    chooser = Chooser(seed)
    texts: list[str] = []
    bits: list[float] = []
    scene_bits, length = 0.0, 0
    for speech in write(chooser):
        texts.append(speech.text)
        bits.append(speech.bits)
        scene_bits += speech.scene_bits
        length += len(speech.text) + 2
        if length >= characters:
            break
    text = "\n\n".join(texts) + "\n"
    start, position, validation_bits = int(len(text) * VALIDATION_START), 0, 0.0
    for speech_text, cost in zip(texts, bits, strict=True):
        end = position + len(speech_text) + 2
        # A speech across the boundary counts by its share of characters.
        validation_bits += cost * min(1.0, max(0.0, (end - start) / (end - position)))
        position = end
    return Pastiche(
        text,
        round(sum(bits) / len(text), 6),
        round(validation_bits / (len(text) - start), 6),
        round(scene_bits / len(text), 6),
    )
