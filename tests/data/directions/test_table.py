"""The built-in rows: each says of a reply what a reader would, and its functions agree with each other."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.corpus import load_corpus
from data.dialogue import dialogue_pairs
from data.directions.direction import Direction, inferred
from data.directions.drawing import Directions
from data.directions.headings import parse_direction
from data.directions.table import CONTENT_WORDS, HELD_OUT_COMBINATIONS, HELD_OUT_WORDS, SPECS
from data.pastiche import pastiche

BY_TEXT = {spec.text: spec for spec in SPECS}
PIECES = ["Now", "love", " ", ", ", "\n", "?", "!", ".", "'", "my Romeo", "Romeo,", "heart's", "I'll", "night", "(so)"]

replies = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
values = st.sampled_from(["Now", "love", "Romeo", "night", "I'll", "heart", "x"])


@given(replies, st.sampled_from(SPECS), values)
def test_the_score_is_1_exactly_where_the_direction_is_followed(reply: str, spec: object, value: str) -> None:
    assert spec in SPECS
    direction = Direction(spec, value if spec.has_value else "")
    assert (direction.nearly(reply) == 1) == direction.followed(reply)


@given(replies)
def test_what_is_inferred_is_followed_and_fits_a_heading(reply: str) -> None:
    for spec in SPECS:
        if found := inferred(spec, reply):
            assert found.followed(reply)
            assert parse_direction(str(found), SPECS) == found
        elif not spec.has_value:
            assert not Direction(spec).followed(reply)


@given(replies)
def test_rows_without_a_value_exclude_each_other_within_a_kind(reply: str) -> None:
    for kind in {spec.kind for spec in SPECS}:
        rows = [Direction(spec) for spec in SPECS if spec.kind == kind and not spec.has_value]
        assert sum(row.followed(reply) for row in rows) <= 1


@pytest.mark.parametrize(
    ("reply", "followed"),
    [
        ("Is it?", {"asking", "in one line", "in few words"}),
        ("Is it?  \n\n", {"asking", "in one line", "in few words"}),
        ("'Is it so?'", {"asking", "in one line", "in few words"}),
        ("He said (is it?)", {"asking", "in one line", "in few words"}),
        ("Is it? It is!", {"crying out", "in one line", "in few words"}),
        ("So it is,\nand so.", {"telling", "in two lines", "in few words"}),
        ("a b c\nd e f\ng", {"in three lines"}),
        ("So it is--\nso\nso\nso", {"in four lines", "in few words"}),
        ("", set()),
        ("\n", set()),
        ("so " * 25 + "!", {"crying out", "in one line", "at length"}),
    ],
)
def test_what_a_reply_follows(reply: str, followed: set[str]) -> None:
    rows = [spec for spec in SPECS if not spec.has_value]
    assert {spec.text for spec in rows if Direction(spec).followed(reply)} == followed


@pytest.mark.parametrize(
    ("text", "reply", "yes", "no"),
    [
        ("beginning with {}", "Now, is it? Come.", ["Now", "now"], ["Come", "No", "Nowhere"]),
        ("beginning with {}", "'I'll go", ["I'll"], ["I"]),
        ("with the word {}", "My love, Good night", ["love", "night", "good"], ["lov", "heart"]),
        ("to {}", "Come, Romeo: farewell", ["Romeo", "romeo"], ["Rom", "Juliet"]),
    ],
)
def test_what_a_value_must_be(text: str, reply: str, yes: list[str], no: list[str]) -> None:
    assert all(Direction(BY_TEXT[text], value).followed(reply) for value in yes)
    assert not any(Direction(BY_TEXT[text], value).followed(reply) for value in no)


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        ("Nay, Romeo, we must dance.", "Romeo"),
        ("Come, gentle Juliet!", "Juliet"),
        ("O Romeo, where art thou?", "Romeo"),
        ("I know thee. Come, sir.", None),  # a capital at the beginning of a sentence
        ("He is gone to Mantua.", None),  # who is spoken about
        ("Romeo, come.", None),  # any line begins with a capital
        ("Well, I thank thee.", None),
    ],
)
def test_a_name_is_one_that_is_spoken_to(reply: str, name: str | None) -> None:
    assert BY_TEXT["to {}"].infer(reply) == name


def test_a_content_word_is_one_of_the_table_and_the_held_out_ones_are_in_it() -> None:
    assert set(CONTENT_WORDS) >= HELD_OUT_WORDS
    assert len(HELD_OUT_WORDS) == 20
    assert len(set(CONTENT_WORDS)) == len(CONTENT_WORDS)
    assert BY_TEXT["with the word {}"].infer("A Truth of love.") == "truth"
    assert BY_TEXT["with the word {}"].infer("Nothing here.") is None
    for combination in HELD_OUT_COMBINATIONS:
        kinds = {direction.kind for text in combination if (direction := parse_direction(text, SPECS))}
        assert len(kinds) == len(combination) == 2


def fits_every_row(text: str) -> None:
    replies = [pair.completion for pair in dialogue_pairs(text)]
    values = Directions(SPECS, replies).values
    for spec in SPECS:
        assert sum(values[spec.text].values()) > len(replies) / 60, spec.text
    assert HELD_OUT_WORDS.isdisjoint(values["with the word {}"])


def test_the_pastiche_has_speeches_for_every_row() -> None:
    fits_every_row(pastiche(characters=60_000).text)


@pytest.mark.skipif("TINYSHAKESPEARE_PATH" not in os.environ, reason="needs TINYSHAKESPEARE_PATH")
def test_the_real_text_has_speeches_for_every_row() -> None:
    fits_every_row(load_corpus("tinyshakespeare").train)
