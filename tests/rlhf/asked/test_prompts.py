"""The mixture of prompts: shares, kinds and seeds."""

from collections import Counter

from data.directions.drawing import Directions
from data.directions.headings import directions_of, undirected
from data.directions.table import HELD_OUT_COMBINATIONS, SPECS
from rlhf.asked.prompts import PASSES, mixed_prompts

REPLIES = ["Now speak, good Romeo, speak.", "What is thy will?", "Fie!\nOut, out!", "My lord,\nI hear;\nI go.\nAdieu."]
PROMPTS = [f"JULIET:\nLine {number}.\n\nROMEO:\n" for number in range(200)]


def table() -> Directions:
    return Directions(SPECS, REPLIES)


def test_the_share_that_asks_is_the_share_asked_for() -> None:
    mixed = mixed_prompts(PROMPTS, table(), 0.6, seed=1)
    assert len(mixed) == PASSES * len(PROMPTS)
    assert Counter(undirected(prompt, SPECS) for prompt in mixed) == Counter(PROMPTS * PASSES)
    asked = [directions for prompt in mixed if (directions := directions_of(prompt, SPECS))]
    assert abs(len(asked) / len(mixed) - 0.6) < 0.06  # four standard deviations
    first = Counter(directions[0].kind for directions in asked)
    assert first["lines"] > first["mood"] > first["word"]
    assert {len(directions) for directions in asked} == {1, 2}


def test_nothing_is_asked_that_nothing_learns_from() -> None:
    for prompt in mixed_prompts(PROMPTS, table(), 1.0, seed=2):
        asked = directions_of(prompt, SPECS)
        assert all(each.spec.trained and each.value not in each.spec.held_out for each in asked)
        assert not any(apart <= {str(each) for each in asked} for apart in HELD_OUT_COMBINATIONS)


def test_without_a_heading_nothing_can_be_asked() -> None:
    assert mixed_prompts(["Once upon a time"], table(), 1.0, seed=1) == ["Once upon a time"] * PASSES


def test_equal_seeds_give_equal_prompts() -> None:
    first, same, other = (mixed_prompts(PROMPTS, table(), 0.5, seed) for seed in (1, 1, 2))
    assert first == same != other
