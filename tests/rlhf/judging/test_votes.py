"""Votes are read strictly and counted by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from data.console import UserError
from data.directions.specs import load_specs
from rlhf.judging.metrics import wilson_interval
from rlhf.judging.votes import count_votes, read_votes, undirected_and_directed


def vote(first: str, second: str, choice: int | None, **more: Any) -> dict[str, Any]:
    return {"prompt": "A:\n", "completions": ["x", "y"], "policies": [first, second], "choice": choice, **more}


def test_wins_are_counted_for_the_policy_that_comes_later_whichever_side_it_stood_on() -> None:
    votes = [
        vote("sft", "rlhf", 1),
        vote("rlhf", "sft", 0),
        vote("rlhf", "sft", 1),
        vote("sft", "rlhf", None),
        vote("tastes/b", "rlhf", 0),
        vote("pretrain", "sft", 0),
        vote("tastes/b", "tastes/a", 1),
    ]
    rates = count_votes(votes)
    assert list(rates) == [("sft", "pretrain"), ("rlhf", "sft"), ("tastes/b", "rlhf"), ("tastes/b", "tastes/a")]
    aligned = rates["rlhf", "sft"]
    assert (aligned.n, aligned.ties, aligned.rate) == (4, 1, 2.5 / 4)
    assert (aligned.low, aligned.high) == wilson_interval(2.5, 4)
    assert rates["sft", "pretrain"].rate == 0
    assert rates["tastes/b", "tastes/a"].rate == 0
    assert rates["tastes/b", "rlhf"].rate == 1
    assert not count_votes([])


def test_a_vote_that_is_there_twice_counts_once_and_those_without_an_id_each() -> None:
    votes = [vote("sft", "rlhf", 1, id="a"), vote("sft", "rlhf", 1, id="a"), vote("sft", "rlhf", 1, id="b")]
    assert count_votes(votes)["rlhf", "sft"].n == 2
    assert count_votes([vote("sft", "rlhf", 1), vote("sft", "rlhf", 1)])["rlhf", "sft"].n == 2


def test_votes_on_prompts_that_ask_are_told_apart_by_the_table() -> None:
    plain, asked = vote("sft", "rlhf", 1), vote("sft", "rlhf", 0) | {"prompt": "A:\nb.\n\nC, asking:\n"}
    named = vote("sft", "rlhf", 0) | {"prompt": "A:\nb.\n\nC, the king:\n"}
    specs = load_specs("built-in")
    assert undirected_and_directed([plain, asked, named], specs) == ([plain, named], [asked])
    assert undirected_and_directed([plain, asked], ()) == ([plain, asked], []), "a run without directions"
    twice = [asked | {"id": "a"}, asked | {"id": "a"}]
    assert undirected_and_directed(twice, specs) == ([], twice[:1])


def test_votes_are_read_back(tmp_path: Path) -> None:
    rows = [vote("sft", "rlhf", choice, id=str(choice)) for choice in (0, 1, None)]
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert read_votes(path) == rows


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"choice": 2}, "choice"),
        ({"choice": True}, "choice"),
        ({"choice": "A"}, "choice"),
        ({"policies": ["sft", "sft"]}, "two different"),
        ({"policies": ["sft"]}, "two different"),
        ({"completions": ["x"]}, "two completions"),
        ({"policies": None}, "policies"),
    ],
)
def test_what_is_no_vote_is_named_with_its_line(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [vote("sft", "rlhf", 0), vote("sft", "rlhf", 0) | wrong]))
    with pytest.raises(UserError, match=rf"line 2: .*{said}"):
        read_votes(path)
    row = vote("sft", "rlhf", 0)
    del row["choice"]
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"line 1: .*choice"):
        read_votes(path)


def test_the_interval_narrows_with_votes() -> None:
    few, many = (count_votes([vote("sft", "rlhf", 1)] * n)["rlhf", "sft"] for n in (3, 30))
    assert few.rate == many.rate == 1
    assert few.low < many.low < 1
    assert math.isclose(few.high, 1)
