"""The files of rankings: what goes in comes out, what is wrong is named with file and line."""

import json
from pathlib import Path

import pytest

from data.console import UserError
from data.tokenizers import Tokenizer, bpe_tokenizer, character_tokenizer
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
    assert read_rankings(path, tokenizer, 64, 64)[1:] == (0, 0, 0)
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
    [kept], cut, dropped, _ = read_rankings(path, tokenizer, 64, 10)
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
        ({"ranking": [[0], [0]]}, "at most once"),
        ({"ranking": [[0, 0]]}, "at most once"),
        ({"ranking": [[0], [2]]}, "at most once"),
        ({"ranking": [0, 1]}, '"ranking" must be'),
        ({"ranking": [[True], [0]]}, '"ranking" must be'),
        ({"all_bad": True}, '"all_bad" is true'),
        ({"all_bad": 1}, '"all_bad" must be true or false'),
        ({"id": 7}, '"id" must be a string'),
        ({"seconds": "2"}, '"seconds" must be an integer or a number'),
        ({"policies": ["sft"]}, '"policies" must name one for each'),
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


def test_of_few_prompts_one_is_held_out_and_of_fewer_than_five_none() -> None:
    for count, expected in ((1, []), (4, []), (5, [4]), (9, [8]), (10, [9]), (20, [9, 19])):
        rankings = [make(prompt=f"P{index}:\n") for index in range(count)]
        assert split_by_prompt(rankings, frozenset())[1] == [rankings[index] for index in expected], count


def test_what_says_nothing_is_not_held_out() -> None:
    tied, telling = make(prompt="tied:\n", ranking=[[0, 1, 2]]), [make(prompt=f"P{index}:\n") for index in range(5)]
    training, heldout = split_by_prompt([*telling, tied, tied], frozenset())
    assert heldout == [telling[-1]]
    assert training == [*telling[:-1], tied, tied]


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_a_judgement_of_a_person_keeps_what_it_says_of_itself(tmp_path: Path, tokenizer: Tokenizer) -> None:
    said = {"id": "a1", "time": "2026-01-02T03:04:05Z", "seconds": 2.5, "screen": "s1", "annotator": "me"}
    rows = [line(**said), line(ranking=[[0, 1]], all_bad=True, id="a2")]
    rankings = read_rankings(write(tmp_path / "me.jsonl", *rows), tokenizer, 64, 64).rankings
    assert said.items() <= rankings[0].to_json().items()
    assert rankings[1].all_bad
    assert rankings[1].pairs() == []
    assert rankings[1].annotator == "me.jsonl"
    write_rankings(tmp_path / "kept.jsonl", rankings)
    assert read_collected(tmp_path / "kept.jsonl") == rankings


def test_a_partial_ranking_places_some_replies(tmp_path: Path, tokenizer: Tokenizer) -> None:
    row = line(completions=["so.", "And you.", "Good.", "sir."], ranking=[[3], [0, 1]])
    [read] = read_rankings(write(tmp_path / "r.jsonl", row), tokenizer, 64, 64).rankings
    assert read.pairs() == [(3, 0), (3, 1)]
    # The second is too long: it is left out, and the others keep their places.
    [read] = read_rankings(tmp_path / "r.jsonl", tokenizer, 64, 6).rankings
    assert (read.completions, read.ranking) == (["so.", "Good.", "sir."], [[2], [0]])


def test_a_repeated_request_is_one_judgement(tmp_path: Path, tokenizer: Tokenizer) -> None:
    first = write(tmp_path / "a.jsonl", line(id="x"), line(id="x", ranking=[[0], [1]]), line(), line())
    second = write(tmp_path / "b.jsonl", line(id="y"), line(id="x"))
    read = read_rankings([first, second], tokenizer, 64, 64, weights=[3.0, 0.5])
    assert read.repeated == 2
    assert [(r.id, r.ranking, r.weight, r.source) for r in read.rankings] == [
        ("x", [[1], [0]], 3.0, str(first)),
        (None, [[1], [0]], 3.0, str(first)),
        (None, [[1], [0]], 3.0, str(first)),
        ("y", [[1], [0]], 0.5, str(second)),
    ]
    assert read_rankings([first, first], tokenizer, 64, 64).repeated == 3


def test_a_vote_is_a_ranking_of_two(tmp_path: Path, tokenizer: Tokenizer) -> None:
    vote: dict[str, object] = {
        "id": "v",
        "prompt": "ANNE:\n",
        "completions": ["so.", "And."],
        "policies": ["sft", "rlhf"],
    }
    rows = [vote | {"id": str(number), "choice": choice} for number, choice in enumerate((0, 1, None))]
    read = read_rankings(write(tmp_path / "votes.jsonl", *rows), tokenizer, 64, 64).rankings
    assert [r.ranking for r in read] == [[[0], [1]], [[1], [0]], [[0, 1]]]
    assert (read[0].policy, read[0].policies) == ("sft / rlhf", ["sft", "rlhf"])
    wrong_ones: list[dict[str, object]] = [{"choice": 2}, {"choice": True}, {"choice": "sft"}]
    for changes in [*wrong_ones, {"choice": 0, "completions": ["a", "b", "c"]}]:
        wrong = write(tmp_path / "wrong.jsonl", rows[0], {"prompt": "x", "completions": ["a", "b"], **changes})
        with pytest.raises(UserError, match=r"wrong\.jsonl, line 2: a vote is between 2"):
            read_rankings(wrong, tokenizer, 64, 64)


def test_sampled_ids_are_kept_where_this_tokenizer_reads_the_same_text(tmp_path: Path) -> None:
    tokenizer = bpe_tokenizer(TEXT * 3, 290)
    whole, apart = tokenizer.encode("And you."), [token for char in "And you." for token in tokenizer.encode(char)]
    assert len(whole) < len(apart)
    eos = tokenizer.eos_id
    row = {"prompt": "ANNE:\n", "completions": ["And you."] * 2, "ranking": [[0], [1]]}
    prompt = [token for char in "NE:\n" for token in tokenizer.encode(char)]

    def read(prompt_ids: object, completion_ids: object) -> Ranking:
        changes = {"prompt_ids": prompt_ids, "completion_ids": completion_ids}
        [found] = read_rankings(write(tmp_path / "r.jsonl", row | changes), tokenizer, 20, 20).rankings
        return found

    kept = read(prompt, [[*apart, eos], [*whole, eos]])
    assert (kept.prompt_ids, kept.completion_ids) == (prompt, [[*apart, eos], [*whole, eos]])
    again = [[*whole, eos]] * 2
    for ids in ([apart, [*whole, eos, eos]], [[1, 2], [10**9]], [["a"], []], [[*apart, eos]], "ids", [None, apart * 4]):
        other = read("nothing", ids)
        assert other.prompt_ids == tokenizer.encode("ANNE:\n")
        assert other.completion_ids == again, ids


def test_a_file_made_for_another_model_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    long = "Good " * 20
    mixed = write(tmp_path / "mixed.jsonl", line(prompt=long), line())
    assert [len(r.prompt_ids) for r in read_rankings(mixed, tokenizer, 30, 40).rankings] == [30, 6]
    file = write(tmp_path / "long.jsonl", line(prompt=long))
    file.write_text("\n" + file.read_text())
    with pytest.raises(UserError, match=r"long\.jsonl, line 2 and all others: a prompt has 100 tokens .* room for 70"):
        read_rankings(file, tokenizer, 30, 40)
    with pytest.raises(UserError, match=r"wordy\.jsonl, line 1 and all others: fewer than two replies fit in 40"):
        read_rankings(write(tmp_path / "wordy.jsonl", line(completions=[long, "so"])), tokenizer, 30, 40)
