"""What people are asked about, in which order, and what becomes of their judgements."""

import hashlib
from typing import Any

import pytest

from data.console import UserError
from reward.screens import REPEAT_EVERY, judgement_of, next_screen

REPLIES = 4
SCREENS: list[dict[str, Any]] = [
    {
        "id": f"screen {number}",
        "prompt": f"prompt {number}",
        "completions": [f"reply {number} {index}" for index in range(REPLIES)],
        "stopped": [True] * REPLIES,
        "policy": "sft 0123",
        "seed": 1,
        "prompt_ids": [1, 2],
        "completion_ids": [[3, index] for index in range(REPLIES)],
    }
    for number in range(40)
]


def said(rows: list[dict[str, Any]], annotator: str = "anna", **changes: Any) -> dict[str, Any]:
    """What a page would send about the next screen."""
    screen, order, _ = next_screen(annotator, rows, SCREENS)
    assert screen
    values = {
        "annotator": annotator,
        "id": hashlib.md5(f"{annotator} {len(rows)}".encode()).hexdigest(),
        "screen": screen["id"],
        "seconds": 3.14159,
        "all_bad": False,
        "ranking": [[index] for index in order],
    }
    return values | changes


def judged(count: int, annotator: str = "anna", **changes: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        rows.append(judgement_of(said(rows, annotator, **changes), rows, SCREENS))
    return rows


def test_a_judgement_is_a_line_of_rankings_and_says_who_when_and_how_long() -> None:
    [row] = judged(1, ranking=[[2], [0, 1], [3]])
    assert row["time"].endswith("+00:00")
    assert sorted(row.pop("shown")) == [0, 1, 2, 3]
    del row["time"], row["id"]
    screen = SCREENS[0] | {"screen": "screen 0"}
    del screen["id"]
    more = {"ranking": [[2], [0, 1], [3]], "annotator": "anna", "seconds": 3.14, "repeat": False}
    assert row == screen | more


def test_all_bad_is_one_group_a_skip_is_none_and_a_partial_ranking_lists_what_was_placed() -> None:
    [all_bad] = judged(1, all_bad=True, ranking=[])
    assert (all_bad["ranking"], all_bad["all_bad"]) == ([[0, 1, 2, 3]], True)
    [skipped] = judged(1, ranking=[])
    assert skipped["ranking"] == []
    [partial] = judged(1, ranking=[[3], [], [1]])
    assert partial["ranking"] == [[3], [1]]
    assert "all_bad" not in skipped | partial


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"screen": "screen 1"}, "judged elsewhere"),
        ({"ranking": [[0], [4]]}, "at most once"),
        ({"ranking": [[0], [-1]]}, "at most once"),
        ({"ranking": [[0], [0, 1]]}, "at most once"),
        ({"ranking": [[0]]}, "two replies at least"),
        ({"id": "../../x"}, "32 hexadecimal digits"),
        ({"id": "A" * 32}, "32 hexadecimal digits"),
    ],
)
def test_what_is_no_judgement_is_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        judgement_of(said([], **changes), [], SCREENS)


@pytest.mark.parametrize(
    ("seconds", "kept"), [(float("nan"), 0), (float("inf"), 1e6), (-5, 0), (1e300, 1e6), (2, 2), (0.004, 0)]
)
def test_seconds_are_a_number_that_json_knows(seconds: float, kept: float) -> None:
    assert judged(1, seconds=seconds)[0]["seconds"] == kept


def test_replies_are_shuffled_for_everyone_by_themselves() -> None:
    orders = {name: [tuple(row["shown"]) for row in judged(9, name)] for name in ("anna", "bert")}
    assert all(len(set(own)) > 3 for own in orders.values())
    assert orders["anna"] != orders["bert"]
    assert [row["screen"] for row in judged(9, "anna")] == [row["screen"] for row in judged(9, "bert")]


def test_every_tenth_screen_comes_back_in_another_order_and_each_but_once() -> None:
    rows = judged(40)
    again = [number for number, row in enumerate(rows, 1) if row["repeat"]]
    assert again == [10, 20, 30, 40]
    assert REPEAT_EVERY == 10
    first: dict[str, Any] = {}
    for number, row in enumerate(rows):
        if row["repeat"]:
            assert row["shown"] != rows[first[row["screen"]]]["shown"]
            assert number - first[row["screen"]] > 3
        else:
            first[row["screen"]] = number
    assert len({rows[number - 1]["screen"] for number in again}) == 4
    assert len(first) == 36


def test_what_was_skipped_does_not_come_back() -> None:
    assert not any(row["repeat"] for row in judged(30, ranking=[]))


def test_two_replies_come_back_the_other_way_round() -> None:
    two = [screen | {"completions": ["a", "b"], "stopped": [True, True]} for screen in SCREENS]
    rows: list[dict[str, Any]] = []
    for _ in range(10):
        screen, order, repeat = next_screen("anna", rows, two)
        assert screen
        rows.append({"screen": screen["id"], "ranking": [[0], [1]], "shown": order, "repeat": repeat})
    earlier = next(row for row in rows if row["screen"] == rows[9]["screen"])
    assert rows[9]["shown"] == earlier["shown"][::-1]


def test_where_nothing_is_left_there_is_none() -> None:
    assert next_screen("anna", [], []) == (None, [], False)
    rows = judged(9)
    assert next_screen("anna", rows, SCREENS[:9]) == (None, [], False)
    with pytest.raises(UserError, match="judged elsewhere"):
        judgement_of(said(rows), rows, SCREENS[:9])
