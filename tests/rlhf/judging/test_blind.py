"""The booth shows unmarked pairs, takes each vote once, and keeps it."""

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from data.console import UserError
from data.directions.headings import directions_of, split_prompt
from data.jsonl import read_appended
from rlhf.judging import blind
from rlhf.judging.blind import Booth
from rlhf.judging.cast import Cast
from rlhf.judging.votes import read_votes

PAIR = "sft rlhf"


@pytest.fixture(scope="module")
def cast(whole_run: Path) -> Cast:
    return Cast(whole_run, "cpu")


@pytest.fixture
def booth(cast: Cast, tmp_path: Path) -> Booth:
    booth = Booth(cast, random.Random(3))
    booth.path = tmp_path / "votes.jsonl"
    return booth


def test_every_two_can_be_compared_the_aligned_model_with_sft_first(booth: Booth) -> None:
    assert next(iter(booth.pairs)) == PAIR
    assert len(booth.pairs) == 6
    assert booth.pairs["pretrain tastes/mine"] == ("pretrain", "tastes/mine")


def test_a_pair_says_nothing_of_who_wrote_it(booth: Booth, cast: Cast) -> None:
    pairs = [booth.draw(PAIR) for _ in range(12)]
    for shown in pairs:
        assert set(shown) == {"id", "prompt", "completions"}
        assert shown["completions"][0] != shown["completions"][1]
        assert shown["prompt"] in [pair.prompt for pair in cast.heldout]
    assert len({shown["id"] for shown in pairs}) == 12
    told = [booth.vote(shown["id"], None, "me")["titles"] for shown in pairs]
    assert sorted(map(tuple, told))[0] != sorted(map(tuple, told))[-1], "either stands first"
    assert all(sorted(titles) == ["SFT", "aligned"] for titles in told)


def test_prompts_of_the_training_text_on_request(booth: Booth, cast: Cast) -> None:
    shown = booth.draw(PAIR, heldout=False)
    assert shown["prompt"] in [pair.prompt for pair in cast.training]
    booth.vote(shown["id"], 0, "me")
    assert [vote["heldout"] for vote in read_votes(booth.path)] == [False]


def test_a_vote_is_a_line_that_the_comparison_reads(booth: Booth) -> None:
    first, second = booth.draw(PAIR), booth.draw("sft tastes/mine")
    booth.vote(second["id"], 1, "anna")
    booth.vote(first["id"], None, "me")
    votes = read_votes(booth.path)
    assert [vote["id"] for vote in votes] == [second["id"], first["id"]]
    for vote, shown in zip(votes, (second, first), strict=True):
        assert {key: vote[key] for key in shown} == shown
        assert [type(stopped) for stopped in vote["stopped"]] == [bool, bool]
        assert vote["time"].endswith("+00:00")
    assert [vote["choice"] for vote in votes] == [1, None]
    assert [vote["annotator"] for vote in votes] == ["anna", "me"]
    assert sorted(votes[0]["policies"]) == ["sft", "tastes/mine"]


def test_a_repeated_vote_counts_once_and_the_first_stands(booth: Booth) -> None:
    shown = booth.draw(PAIR)
    told = booth.vote(shown["id"], 0, "me")
    assert booth.vote(shown["id"], 1, "me") == told
    again = Booth(booth.cast)
    again.path = booth.path
    assert again.vote(shown["id"], 1, "me") == told, "as a server that was started again says too"
    [vote] = read_appended(booth.path)
    assert vote["choice"] == 0


def test_votes_at_once_are_all_kept(booth: Booth) -> None:
    shown = [booth.draw(PAIR) for _ in range(8)]

    def vote_twice(which: dict[str, Any]) -> None:
        for _ in range(2):
            booth.vote(which["id"], 1, "me")

    threads = [threading.Thread(target=vote_twice, args=(which,)) for which in shown]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(vote["id"] for vote in read_votes(booth.path)) == sorted(which["id"] for which in shown)
    [rate] = booth.rates()
    assert rate["n"] == 8


def test_the_running_win_rate_is_that_of_all_votes(booth: Booth) -> None:
    assert booth.rates() == []
    for _ in range(3):
        shown = booth.draw(PAIR)
        policies = booth._shown[shown["id"]]["policies"]
        told = booth.vote(shown["id"], policies.index("rlhf"), "me")
    assert told["rates"] == booth.rates()
    [rate] = told["rates"]
    assert (rate["first"], rate["second"], rate["rate"], rate["n"], rate["ties"]) == ("aligned", "SFT", 1.0, 3, 0)
    assert 0.3 < rate["low"] < 0.5


def test_half_a_line_is_no_vote_and_does_not_stop_the_next(booth: Booth) -> None:
    booth.vote(booth.draw(PAIR)["id"], 0, "me")
    with booth.path.open("a") as file:
        file.write('{"id": "torn')
    booth.vote(booth.draw(PAIR)["id"], 0, "me")
    assert [json.loads(line)["choice"] for line in booth.path.read_text().splitlines()] == [0, 0]


def test_what_is_no_vote_is_refused_and_leaves_nothing(booth: Booth, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = booth.draw(PAIR)
    wrong: list[tuple[Any, ...]] = [("gone", 0, "me"), (shown["id"], 2, "me"), (shown["id"], True, "me")]
    for arguments in [*wrong, (shown["id"], 0, "../me"), (shown["id"], 0, "")]:
        with pytest.raises(UserError):
            booth.vote(*arguments)
    assert not booth.path.exists()
    with pytest.raises(UserError, match="no pair"):
        booth.draw("sft sft")
    monkeypatch.setattr(blind, "OPEN", 2)
    for _ in range(2):
        booth.draw(PAIR)
    with pytest.raises(UserError, match="no longer open"):
        booth.vote(shown["id"], 0, "me")


@pytest.fixture(scope="module")
def told(directed_maker: Any) -> Cast:
    """The models of a run with directions."""
    return Cast(directed_maker.run, "cpu")


def test_half_of_the_prompts_ask_where_the_run_has_directions(told: Cast, tmp_path: Path) -> None:
    booth = Booth(told, random.Random(4))
    booth.path = tmp_path / "votes.jsonl"
    shown = [booth.draw(PAIR) for _ in range(24)]
    asked = [pair for pair in shown if directions_of(pair["prompt"], told.specs)]
    assert 6 <= len(asked) <= 18
    assert {direction.kind for pair in asked for direction in directions_of(pair["prompt"], told.specs)} == {
        "mood", "lines",
    }  # fmt: skip
    plain = {pair.prompt for pair in told.heldout}
    for pair in shown:
        before, heading = split_prompt(pair["prompt"], told.specs)
        assert heading
        assert f"{before}{heading.speaker}:\n" in plain


def test_rates_are_told_apart_by_whether_the_prompt_asked(told: Cast, tmp_path: Path) -> None:
    booth = Booth(told, random.Random(4))
    booth.path = tmp_path / "votes.jsonl"
    shown = [booth.draw(PAIR) for _ in range(8)]
    asked = sum(bool(directions_of(pair["prompt"], told.specs)) for pair in shown)
    for pair in shown:
        rates = booth.vote(pair["id"], None, "me")["rates"]
    assert {rate["second"]: rate["n"] for rate in rates} == {"SFT": 8 - asked, "SFT, as directed": asked}
    assert [vote["prompt"] for vote in read_votes(booth.path)] == [pair["prompt"] for pair in shown]
