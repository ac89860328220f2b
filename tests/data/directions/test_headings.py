"""Headings with directions: what is written is what is read, and what is none stays a name or prose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.console import UserError
from data.directions.headings import (
    Heading,
    directed,
    directions_of,
    last_speaker,
    parse_direction,
    parse_heading,
    read_directions,
    read_heading,
    split_prompt,
)
from data.directions.specs import Direction, Spec, load_specs

SPECS = load_specs("built-in")

values = st.text(st.characters(exclude_characters=",:{}", exclude_categories=("Z", "C")), min_size=1, max_size=9)
names = st.text("ABCDEFGHIJ ", min_size=1, max_size=39).map(str.strip).filter(bool)


@st.composite
def lists_of_directions(draw: st.DrawFn) -> tuple[Direction, ...]:
    """At most one direction of each kind, in any order."""
    rows = draw(st.lists(st.sampled_from(SPECS), unique_by=lambda spec: spec.kind, max_size=4))
    return tuple(Direction(spec, draw(values) if spec.has_value else "") for spec in rows)


@given(names, lists_of_directions())
def test_a_heading_is_read_as_it_was_written(name: str, directions: tuple[Direction, ...]) -> None:
    heading = Heading(name, directions)
    assert parse_heading(str(heading), SPECS) == heading
    assert read_heading(f"{heading}: ", SPECS) == heading
    prompt = f"ANNE:\nHow now?\n\n{name}:\n"
    assert split_prompt(directed(prompt, directions), SPECS) == ("ANNE:\nHow now?\n\n", heading)
    assert directions_of(directed(prompt, directions), SPECS) == directions
    assert directions_of(prompt, SPECS) == ()
    assert read_directions(", ".join(map(str, directions)), SPECS) == directions
    assert last_speaker(f"{heading}:\nHow now?\n\nANNE:\n") == name


@given(st.text(max_size=60))
def test_any_text_is_a_heading_of_some_name(text: str) -> None:
    """Nothing is lost, and reading it twice changes nothing."""
    heading = parse_heading(text, SPECS)
    assert parse_heading(str(heading), SPECS) == heading
    assert parse_heading(text, ()) == (text, ())


def test_only_the_end_of_a_heading_is_directions() -> None:
    assert parse_heading("ROMEO, asking, of Verona", SPECS) == ("ROMEO, asking, of Verona", ())
    assert parse_heading("asking", SPECS) == ("asking", ())
    speaker, directions = parse_heading("ROMEO, son of Montague, in two lines, asking", SPECS)
    assert (speaker, [*map(str, directions)]) == ("ROMEO, son of Montague", ["in two lines", "asking"])
    assert parse_direction(" beginning with I'll ", SPECS) == Direction(SPECS[7], "I'll")
    for text in ("beginning with", "beginning with two words", "Asking", "asking?", ""):
        assert parse_direction(text, SPECS) is None


@pytest.mark.parametrize("line", ["ROMEO", "ROMEO:x", ":", " :", "N" * 40 + ":", "N" * 40 + ", asking:", ", asking:"])
def test_what_is_no_heading(line: str) -> None:
    assert read_heading(line, SPECS) is None
    assert split_prompt(f"{line}\n", SPECS) == (f"{line}\n", None)
    assert directed(f"{line}\n", [Direction(SPECS[0])]) == f"{line}\n"


def test_the_limit_is_the_speakers_alone() -> None:
    heading = "KATHARINA, asking, in two lines, beginning with Now, with the word heart:"
    assert len(heading) > 40
    found = read_heading(heading, SPECS)
    assert found is not None
    assert (found.speaker, len(found.directions)) == ("KATHARINA", 4)
    assert read_heading(heading, ()) is None


def test_a_prompt_needs_its_line_break_and_a_cue_its_speaker() -> None:
    assert split_prompt("ROMEO:", SPECS) == ("ROMEO:", None)
    assert directed("ROMEO:", [Direction(SPECS[0])]) == "ROMEO:"
    assert directed("ROMEO:\n", [Direction(SPECS[0])]) == "ROMEO, asking:\n"
    for prompt in ("ROMEO:\n", "Who goes?\n\nROMEO:\n", "", "Well:\n\n"):
        assert last_speaker(prompt) == ""
    assert last_speaker("A:\nOne.\n\nDUKE OF YORK, to Anne:\nTwo.\nThree:\n\nROMEO:\n") == "DUKE OF YORK"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weeping", r"knows no direction 'weeping'; it knows: asking, .*beginning with WORD, "),
        ("asking, telling", "'asking' and 'telling' exclude each other: ask for one"),
        ("in two lines, with the word heart, in four lines", "'in two lines' and 'in four lines' exclude"),
        ("asking, asking", "exclude each other"),
    ],
)
def test_directions_that_cannot_be_asked_for(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_directions(text, SPECS)
    assert read_directions(" , asking ,", SPECS) == (Direction(SPECS[0]),)
    assert read_directions("", SPECS) == ()
    with pytest.raises(UserError, match="knows: none at all"):
        read_directions(text, ())


def test_a_row_is_found_by_its_own_words() -> None:
    dots = Spec("dots", "with {} dots. (or so)", lambda r, v: True, lambda r, v: 1.0, lambda r: "3")
    assert parse_direction("with 3 dots. (or so)", [dots]) == Direction(dots, "3")
    assert parse_direction("with 3 dotsX (or so)", [dots]) is None
