"""The files of rankings: what goes in comes out, what is wrong is named with file and line."""

import json
from pathlib import Path

import pytest

from data.console import UserError
from data.tokenizers import Tokenizer, character_tokenizer
from reward.rankings import (
    Ranking,
    read_collected,
    read_rankings,
    split_by_prompt,
    write_pairs,
    write_rankings,
)

TEXT = "ANNE:\nGood morrow, sir.\n\nBEN:\nAnd you.\n"


@pytest.fixture
def tokenizer() -> Tokenizer:
    return character_tokenizer(TEXT)


def make(prompt: str = "ANNE:\n", ranking: list[list[int]] | None = None) -> Ranking:
    return Ranking(
        prompt=prompt,
        completions=["so.", "And.", "Good."],
        stopped=[True, False, True],
        ranking=ranking or [[2], [0], [1]],
        annotator="gold",
        policy="sft",
        seed=3,
        prompt_ids=[1, 2],
        completion_ids=[[3, 4], [5], [6, 7, 8]],
        scores=[0.5, 0.1, 0.75],
    )


def line(**changes: object) -> dict[str, object]:
    return {"prompt": "ANNE:\n", "completions": ["so.", "And."], "ranking": [[1], [0]]} | changes


def test_everything_comes_back(tmp_path: Path) -> None:
    rankings = [make(), make(ranking=[[0, 1, 2]])]
    write_rankings(tmp_path / "r.jsonl", rankings)
    assert read_collected(tmp_path / "r.jsonl") == rankings


def test_the_public_file_has_the_documented_keys_and_reads_back(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "r.jsonl"
    write_rankings(path, [make()])
    assert set(json.loads(path.read_text("utf-8"))) == {
        "prompt",
        "completions",
        "stopped",
        "ranking",
        "annotator",
        "policy",
        "seed",
        "scores",
        "prompt_ids",
        "completion_ids",
    }
    [read] = read_rankings(path, tokenizer, 64, 64).rankings
    assert read.pairs() == make().pairs() == [(2, 0), (2, 1), (0, 1)]
    assert [tokenizer.decode(ids) for ids in read.completion_ids] == read.completions
    # Only what stopped by itself ends with the end token.
    assert [ids[-1] == tokenizer.eos_id for ids in read.completion_ids] == [True, False, True]


def test_stopped_is_true_where_nothing_is_said(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "people.jsonl"
    path.write_text(json.dumps(line()) + "\n", "utf-8")
    [read] = read_rankings(path, tokenizer, 3, 64).rankings
    assert all(ids[-1] == tokenizer.eos_id for ids in read.completion_ids)
    assert tokenizer.decode(read.prompt_ids) == "E:\n"  # a long prompt loses its beginning
    assert read.annotator == "people.jsonl"


def test_a_reply_a_token_too_long_is_cut_as_fine_tuning_cuts_and_counted(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "people.jsonl"
    exact, long = "And you.", "And you. Good sir."  # 8 and 18 characters, a token each, and an end
    completions, ranking = [long, exact, "so", "Good morrow so morrow"], [[1], [2], [3], [0]]
    rows = [line(completions=completions, ranking=ranking), line(completions=["so", "Good " * 9])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert read_rankings(path, tokenizer, 64, 64)[1:] == (0, 0)
    read = read_rankings(path, tokenizer, 64, len(long))
    # No sentence of the fourth ends in time, nor one of the second row's, which has no pair left.
    assert (read.cut, read.dropped) == (1, 2)
    [kept] = read.rankings
    assert kept.completions == [exact, exact, "so"]
    assert kept.completion_ids[0] == kept.completion_ids[1] == [*tokenizer.encode(exact), tokenizer.eos_id]
    assert kept.ranking == [[1], [2], [0]]
    assert kept.pairs() == [(1, 2), (2, 0)]  # none of what has become one and the same
    whole = read_rankings(path, tokenizer, 64, len(long) + 1)
    assert whole.rankings[0].completions[0] == long
    assert whole.cut == 0


def test_a_reply_that_did_not_stop_is_cut_like_a_sample(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "people.jsonl"
    row = line(completions=["so.", "And you. Good sir"], stopped=[True, False])
    path.write_text(json.dumps(row) + "\n", "utf-8")
    [kept], cut, dropped = read_rankings(path, tokenizer, 64, 10)
    assert (cut, dropped) == (1, 0)
    assert kept.completions[1] == "And you. G"
    assert kept.completion_ids[1] == tokenizer.encode("And you. G")
    assert kept.stopped == [True, False]


def test_pairs_hold_the_text_of_every_pair(tmp_path: Path) -> None:
    write_pairs(tmp_path / "p.jsonl", [make(ranking=[[2], [0, 1]])])
    rows = [json.loads(row) for row in (tmp_path / "p.jsonl").read_text("utf-8").splitlines()]
    assert rows == [
        {"prompt": "ANNE:\n", "chosen": "Good.", "rejected": "so."},
        {"prompt": "ANNE:\n", "chosen": "Good.", "rejected": "And."},
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranking": [[0], [0]]}, "exactly once"),
        ({"ranking": [[0]]}, "exactly once"),
        ({"ranking": [[0], [2]]}, "exactly once"),
        ({"ranking": [0, 1]}, '"ranking" must be'),
        ({"completions": ["so."], "ranking": [[0]]}, "at least 2"),
        ({"completions": "so."}, '"completions" must be'),
        ({"prompt": ""}, '"prompt" is empty'),
        ({"stopped": [True]}, '"stopped" must hold'),
        ({"stopped": [1, 0]}, '"stopped" must hold'),
        ({"seed": "one"}, '"seed" must be'),
        ({"completions": ["so.", ""], "stopped": [True, False]}, "has no token"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, tokenizer: Tokenizer, changes: dict[str, object], message: str) -> None:
    path = tmp_path / "people.jsonl"
    # A blank line counts as a line, and the wrong one is the third.
    path.write_text(json.dumps(line()) + "\n\n" + json.dumps(line(**changes)) + "\n", "utf-8")
    with pytest.raises(UserError, match=rf"people\.jsonl, line 3.*{message}"):
        read_rankings(path, tokenizer, 64, 64)


def test_broken_json_and_missing_keys_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "people.jsonl"
    path.write_text(json.dumps(line()) + '\n{"prompt": "x"\n', "utf-8")
    with pytest.raises(UserError, match=r"line 2: not valid JSON"):
        read_rankings(path, tokenizer, 64, 64)
    path.write_text('{"prompt": "x", "completions": ["a", "b"]}\n', "utf-8")
    with pytest.raises(UserError, match=r'line 1: the key "ranking" is missing'):
        read_rankings(path, tokenizer, 64, 64)


def test_the_split_is_by_prompt() -> None:
    rankings = [make(prompt=f"P{index % 25}:\n") for index in range(100)]
    training, heldout = split_by_prompt(rankings, frozenset({"P0:\n"}))
    prompts, held = {r.prompt for r in training}, {r.prompt for r in heldout}
    assert not prompts & held
    assert len(training) + len(heldout) == 100
    assert "P0:\n" in held
    assert len(held) == 1 + 24 // 10
