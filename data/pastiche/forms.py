"""Every word a slot may hold, in every form (plural, past, third person, -ing), with its stress pattern."""

import re
from dataclasses import dataclass

from data.pastiche import fields, lexicon, phrases
from data.pastiche.fixed import STRESS

VOWELS = "aeiou"
_PATTERN_OF = {word: pattern for pattern, words in STRESS.items() for word in words.split()}


@dataclass(frozen=True)
class Filler:
    """What fills a slot: its words, and a stress pattern such as `10` (letter) or `?` (a word of one syllable,
    which may stand on a strong or a weak place); a phrase's pattern joins its words' patterns."""

    text: str
    pattern: str


def word_pattern(word: str) -> str:
    """The stress pattern of a word in a template or phrase; words not listed have one syllable."""
    return _PATTERN_OF.get(word.lower(), "?")


def words_of(text: str) -> list[str]:
    """The words of a text; apostrophes belong to words, except that a possessive 's stands apart."""
    return re.findall(r"'s\b(?<=\w's)|(?:(?!'s\b)[\w'-])+", text)


def phrase(text: str) -> Filler:
    """A phrase of listed and one-syllable words."""
    return Filler(text, "".join(word_pattern(word) for word in words_of(text)))


def _doubles(verb: str) -> bool:
    """Whether a final consonant doubles before -ed and -ing: drop, dropped; but row, mix, burn."""
    return (
        len(verb) > 2
        and verb[-1] not in VOWELS + "wxy"
        and verb[-2] in VOWELS
        and verb[-3] not in VOWELS
        and len(re.findall("[aeiouy]+", verb)) == 1
    )


def with_s(word: str, pattern: str) -> tuple[str, str]:
    """Plural of a noun, third person of a verb."""
    if word in ("knife", "midwife", "leaf", "calf", "wolf", "thief", "loaf", "elf", "shelf"):
        return (word[:-2] if word.endswith("fe") else word[:-1]) + "ves", pattern
    if word in _PLURALS:
        return _PLURALS[word], pattern
    if word.endswith("man"):
        return word[:-2] + "en", pattern
    if re.search(r"(s|x|z|ch|sh)$", word) and word != "monarch":
        return word + "es", pattern + "0"
    if re.search(r"(ce|se|ge|ze)$", word):
        return word + "s", pattern + "0"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies", pattern
    return word + "s", pattern


_PLURALS = {
    "mouse": "mice",
    "goose": "geese",
    "salmon": "salmon",
    "herring": "herring",
    "stomach": "stomachs",
}


def past(verb: str, pattern: str) -> tuple[str, str]:
    """Past of a regular verb."""
    longer = pattern + "0" if verb[-1] in "td" or verb.endswith(("te", "de")) else pattern
    if verb.endswith("e"):
        return verb + "d", longer
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ied", longer
    return verb + (verb[-1] if _doubles(verb) else "") + "ed", longer


def participle(verb: str, pattern: str) -> tuple[str, str]:
    """The form in -ing."""
    stem = verb[:-1] if verb.endswith("e") else verb + (verb[-1] if _doubles(verb) else "")
    return stem + "ing", pattern + "0"


def _filler(pair: tuple[str, str]) -> Filler:
    word, pattern = pair
    return Filler(word, "?" if len(pattern) == 1 else pattern)


def _entries(groups: dict[str, str]) -> list[tuple[str, str]]:
    return [(word, pattern) for pattern, words in groups.items() for word in words.split()]


def _build() -> dict[str, list[Filler]]:
    fillers: dict[str, list[Filler]] = {}
    for name, groups in lexicon.NOUNS.items():
        fillers[name] = [_filler(entry) for entry in _entries(groups)]
        if name not in ("grief", "joy"):
            plural = {"sky": "skies"}.get(name, name + "s")
            fillers[plural] = [_filler(with_s(*entry)) for entry in _entries(groups)]
    for name, groups in lexicon.ADJECTIVES.items():
        fillers[name] = [_filler(entry) for entry in _entries(groups)]
    pasts = {"take": "took", "find": "found", "love": "loved", "weep": "wept", "sleep": "slept"}
    for name, groups in lexicon.VERBS.items():
        for entry, pattern in _entries(groups):
            verb, _, irregular = entry.partition(":")
            # An irregular past has the syllables of its verb in every case we list.
            forms = {
                name: (verb, pattern),
                name + "s": with_s(verb, pattern),
                pasts[name]: (irregular, pattern) if irregular else past(verb, pattern),
                name + "ing": participle(verb, pattern),
            }
            for form, pair in forms.items():
                fillers.setdefault(form, []).append(_filler(pair))
    fillers["adv"] = [_filler(entry) for entry in _entries(lexicon.ADVERBS["adv"])]
    fillers["how"] = list(fillers["adv"])
    for name, texts in phrases.PHRASES.items():
        fillers.setdefault(name, []).extend(phrase(text) for text in texts.split("|"))
    return fillers


FILLERS = _build()
"""Category -> its fillers; each text occurs once in a category."""

FIELDS = {name: [_filler(entry) for entry in _entries(groups)] for name, groups in fields.FIELDS.items()}
"""What a scene may be about -> the nouns of that field."""
