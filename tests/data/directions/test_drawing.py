"""Which directions a prompt gets: shares, seeds, and what nothing may learn from."""

import random
from collections import Counter
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.console import UserError
from data.directions.drawing import HOW_MANY, MOST_UNASKED, Directions
from data.directions.specs import Direction, Spec, load_specs
from data.directions.table import HELD_OUT_COMBINATIONS, HELD_OUT_WORDS

SPECS = load_specs("built-in")
REPLIES = [
    "What, is it night, Romeo?",
    "I love thee, gentle Juliet,\nand so good night.",
    "O love, be gone!",
    "What?",
    "So.\nSo.\nSo.",
    "I hear thy tongue, Romeo.\nA\nB\nC.",
]
TABLE = Directions(SPECS, REPLIES)
WORD = next(spec for spec in SPECS if spec.kind == "word")


def held_out(directions: tuple[Direction, ...]) -> bool:
    texts = set(map(str, directions))
    combined = any(combination <= texts for combination in HELD_OUT_COMBINATIONS)
    return combined or any(not each.spec.trained or each.value in each.spec.held_out for each in directions)


@given(st.integers(0, 10**6), st.lists(st.sampled_from([*REPLIES, "truth?\nnight", "Ay!"]), max_size=5).map("\n".join))
def test_hindsight_is_what_the_reply_follows_and_what_may_be_learned(seed: int, reply: str) -> None:
    told = TABLE.hindsight(reply, random.Random(seed))
    assert all(each.followed(reply) for each in told)
    assert not held_out(told)
    assert len({each.kind for each in told}) == len(told) < len(HOW_MANY)
    order = [spec.text for spec in SPECS]
    assert [*told] == sorted(told, key=lambda each: order.index(each.spec.text))
    assert told == TABLE.hindsight(reply, random.Random(seed))


def test_hindsight_has_the_shares_that_it_says() -> None:
    rng, reply = random.Random(0), "I hear thee, Romeo,\nand come."
    counts = Counter(len(TABLE.hindsight(reply, rng)) for _ in range(5000))
    for count, share in enumerate(HOW_MANY):
        assert counts[count] / 5000 == pytest.approx(share, abs=5 * (share * (1 - share) / 5000) ** 0.5)
    alone = Counter(len(TABLE.hindsight("?", rng)) for _ in range(1000))  # a mood and a line, no word
    assert set(alone) == {0, 1, 2}


def test_rows_of_one_kind_that_a_reply_follows_both_are_told_in_turn() -> None:
    def row(text: str) -> Spec:
        return Spec("size", text, lambda r: True, lambda r: 1.0, lambda r: "")

    table = Directions([row("in small"), row("in short")], ["So."])
    told = Counter(table.hindsight("So.", random.Random(seed)) for seed in range(400))
    assert {tuple(map(str, each)) for each in told} == {(), ("in small",), ("in short",)}


def test_values_count_what_may_be_learned() -> None:
    assert TABLE.values["with the word {}"] == {"love": 1, "gentle": 1, "hear": 1}
    assert TABLE.values["beginning with {}"] == {"What": 2, "I": 2, "O": 1, "So": 1}
    assert TABLE.values["to {}"] == {"Romeo": 2, "Juliet": 1}


def test_what_replies_seldom_do_unasked_is_asked_for_more_often() -> None:
    rng = random.Random(1)
    rows = {str(Direction(spec)): spec for spec in TABLE.kinds()["mood"]}
    unasked = {text: fmean(Direction(spec).followed(reply) for reply in TABLE.replies) for text, spec in rows.items()}
    weights = {text: 1 - min(share, MOST_UNASKED) for text, share in unasked.items()}
    assert len({*weights.values()}) > 1
    drawn = Counter(str(TABLE.draw("mood", rng, rarer=True)) for _ in range(4000))
    for text, weight in weights.items():
        assert drawn[text] / 4000 == pytest.approx(weight / sum(weights.values()), abs=0.03)
    assert TABLE.draw_several(["beginning"], rng, rarer=True), "what every reply does is asked for too"


def test_draws_are_seeded_and_as_usual_as_the_text_has_them() -> None:
    def draws(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [str(TABLE.draw(kind, rng)) for kind in ("mood", "lines", "beginning", "to", "length") * 200]

    assert draws(1) == draws(1) != draws(2)
    counts = Counter(draws(1))
    for text in ("asking", "crying out", "telling"):
        assert counts[text] == pytest.approx(200 / 3, abs=35)
    for text in ("in one line", "in two lines", "in three lines", "in four lines"):
        assert counts[text] == pytest.approx(50, abs=31)
    assert counts["to Romeo"] == pytest.approx(133, abs=35)
    assert counts["in few words"] + counts["at length"] == 200


def test_the_one_who_spoke_is_spoken_to() -> None:
    rng = random.Random(0)
    for speaker, text in (("JULIET", "to Juliet"), ("LADY JULIET", "to Juliet"), ("Romeo", "to Romeo")):
        assert str(TABLE.draw("to", rng, speaker)) == text
    assert {str(TABLE.draw("to", rng, "SAMPSON")) for _ in range(50)} == {"to Romeo", "to Juliet"}
    assert TABLE.draw("word", rng, "LOVE").value in ("love", "gentle")


def test_held_out_values_are_drawn_where_they_are_asked_for() -> None:
    rng = random.Random(0)
    assert {TABLE.draw("word", rng, held_out=True).value for _ in range(500)} == HELD_OUT_WORDS
    assert not {TABLE.draw("word", rng).value for _ in range(200)} & HELD_OUT_WORDS
    other = TABLE.draw_other(Direction(WORD, "night"), rng)
    assert other is not None
    assert other.value in HELD_OUT_WORDS - {"night"}


@given(st.integers(0, 10**6), st.sampled_from(["mood", "lines", "beginning", "word", "to", "length"]))
def test_the_other_request_is_another_of_its_kind(seed: int, kind: str) -> None:
    rng = random.Random(seed)
    direction = TABLE.draw(kind, rng)
    other = TABLE.draw_other(direction, rng)
    assert other is not None
    assert other != direction
    assert other.kind == kind


def test_a_kind_of_one_row_has_no_other_request() -> None:
    asking = Spec("ask", "asking", lambda r: "?" in r, lambda r: float("?" in r), lambda r: "" if "?" in r else None)
    table = Directions([asking], REPLIES)
    assert table.draw_other(Direction(asking), random.Random(0)) is None
    assert table.main_kinds == ["ask"]
    assert TABLE.main_kinds == ["mood", "lines"]


@given(st.integers(0, 10**6), st.permutations(["mood", "lines", "beginning"]))
def test_several_requests_are_one_of_each_kind_that_may_be_learned_together(seed: int, kinds: list[str]) -> None:
    drawn = TABLE.draw_several(kinds, random.Random(seed))
    assert [each.kind for each in drawn] == ["mood", "lines", "beginning"]
    assert not held_out(drawn)


def test_a_row_that_nothing_fits_is_left_and_a_kind_is_not() -> None:
    plain = ["The mill stands, Romeo, my love.", "A good mill."]  # nobody asks, nobody cries out
    table = Directions(SPECS, plain)
    assert table.values["asking"] == Counter()
    assert {str(table.draw("mood", random.Random(n))) for n in range(30)} == {"asking", "crying out", "telling"}
    with pytest.raises(UserError, match=r"kind 'to' \('to {}'\): use a text that has some, .* --directions none"):
        Directions(SPECS, plain[1:])
    with pytest.raises(UserError, match="of the kind 'mood'"):
        Directions(SPECS, ["no mark, Romeo, love"])
    Directions(SPECS, ["The mill stands and, Romeo, my love is here."])  # of no length: nothing learns from that kind


def test_a_value_without_training_replies_is_not_drawn() -> None:
    def infer(reply: str) -> str | None:
        return "never" if "never" in reply else None

    never = Spec("word", "saying {}", lambda r, v: v in r, lambda r, v: float(v in r), infer)
    table = Directions([WORD, never], REPLIES)
    assert {table.draw("word", random.Random(n)).spec for n in range(50)} == {WORD}


def test_a_score_that_disagrees_with_its_check_is_found_before_anything_learns() -> None:
    half = Spec("ask", "asking", lambda r: "?" in r, lambda r: 0.5, lambda r: "" if "?" in r else None)
    with pytest.raises(UserError, match=r"'asking': its score is 0\.5 where its check holds"):
        Directions([half], REPLIES)
