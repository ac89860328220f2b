"""People's votes counted by hand, and pairs for readers on paper that give nothing away."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlhf.compare.blind import PAIRS, POLICIES, blind_pairs, write_blind
from rlhf.compare.votes import agreement, tally_votes, title_of
from rlhf.judging.metrics import wilson_interval
from rlhf.judging.votes import count_votes, read_votes


def gold(prompt: str, reply: str) -> float:
    return float(len(reply))


def vote(first: str, second: str, choice: int | None, annotator: str = "ann", **more: Any) -> dict[str, Any]:
    """`second` has the longer reply, which this gold judge prefers."""
    return {
        "prompt": "A:\n", "completions": ["x", "xy"], "policies": [first, second], "choice": choice,
        "annotator": annotator, **more,
    }  # fmt: skip


def test_votes_are_tallied_by_pair_and_annotator() -> None:
    votes = [
        vote("sft", "rlhf", 1),
        vote("sft", "rlhf", 1, "ben"),
        vote("rlhf", "sft", 1, "ben"),
        vote("rlhf", "sft", None, "ben"),
        vote("sft", "tastes/love", 1),
        vote("sft", "tastes/love", 1, id="once"),
        vote("sft", "tastes/love", 0, id="once"),
    ]
    told = tally_votes(votes, gold)
    assert told["votes"] == 6
    aligned, love = told["pairs"]
    assert (aligned["first"], aligned["second"], aligned["n"], aligned["ties"]) == ("rlhf", "sft", 4, 1)
    assert aligned["rate"] == 2.5 / 4
    assert (aligned["low"], aligned["high"]) == wilson_interval(2.5, 4)
    assert [(name, rate["n"], rate["rate"]) for name, rate in aligned["by_annotator"].items()] == [
        ("ann", 1, 1.0),
        ("ben", 3, 1.5 / 3),
    ]
    assert (love["first"], love["n"], love["rate"]) == ("tastes/love", 2, 1)
    # Each choice was of the longer reply; the tie is no choice.
    assert (aligned["gold"]["rate"], aligned["gold"]["n"]) == (1, 3)
    assert told["gold"]["n"] == 5
    assert [title_of(policy) for policy in ("rlhf", "tastes/love", "else")] == ["aligned", "love", "else"]


def test_the_gold_judge_agrees_with_those_who_choose_what_it_prefers() -> None:
    votes = [vote("sft", "rlhf", 1), vote("sft", "rlhf", 0), vote("sft", "rlhf", 0)]
    agreed = agreement(votes, gold)
    assert agreed is not None
    assert (agreed["rate"], agreed["n"]) == (1 / 3, 3)
    assert (agreed["low"], agreed["high"]) == wilson_interval(1, 3)
    assert agreement(votes, lambda prompt, reply: 0.5) is None, (
        "where the gold judge sees no difference it says nothing"
    )
    assert agreement([vote("sft", "rlhf", None)], gold) is None


def samples(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{i}:\n"} | {policy: f"{policy} {i}" for policy in POLICIES} for i in range(count)]


def test_blind_pairs_are_random_balanced_and_of_different_prompts() -> None:
    pairs = blind_pairs(samples(539), seed=1)
    assert len(pairs) == PAIRS
    assert len({pair["prompt"] for pair in pairs}) == PAIRS
    sides = Counter(tuple(pair["policies"]) for pair in pairs)
    assert len(sides) == 6, "every pair in both orders"
    kinds = Counter(tuple(sorted(pair["policies"])) for pair in pairs)
    assert sorted(kinds.values()) == [33, 33, 34]
    for pair in pairs:
        number = pair["prompt"].removesuffix(":\n")
        assert pair["completions"] == [f"{policy} {number}" for policy in pair["policies"]]
    order = [int(pair["prompt"].removesuffix(":\n")) for pair in pairs]
    assert order != sorted(order)
    assert pairs == blind_pairs(samples(539), seed=1)
    assert pairs != blind_pairs(samples(539), seed=2)


def test_replies_that_are_the_same_are_no_pair() -> None:
    same = [{"prompt": f"{i}:\n"} | dict.fromkeys(POLICIES, "Ay.") for i in range(30)]
    pairs = blind_pairs(same + samples(5), seed=3)
    assert len(pairs) == 5


@pytest.mark.parametrize(("count", "expected"), [(7, 7), (120, PAIRS)])
def test_the_page_for_readers_names_nobody_and_the_key_makes_votes(tmp_path: Path, count: int, expected: int) -> None:
    texts = [{"prompt": f"{i}:\n", "pretrain": "", "sft": f"two {i}", "rlhf": f"three ``` {i}"} for i in range(count)]
    write_blind(tmp_path, texts, seed=5)
    page = (tmp_path / "blind.md").read_text("utf-8")
    assert page.count("\n## ") == expected
    assert f"{expected} pairs of replies" in page
    assert (f"fewer than {PAIRS}: the comparison has {count} prompts" in page) == (expected < PAIRS)
    asked = page.split("\n## ", 1)[1]
    assert not any(word in asked for word in (*POLICIES, "SFT", "aligned"))
    assert "(says nothing)" in page
    key = json.loads((tmp_path / "blind-key.json").read_text("utf-8"))
    assert len(key["pairs"]) == expected
    first = page.split("\n## ")[1]
    assert first.startswith("1. Better: ☐ A  ☐ B  ☐ no difference")
    assert first.index("**A**") < first.index("**B**")
    with (tmp_path / "votes.jsonl").open("w") as file:
        for pair in key["pairs"]:
            file.write(json.dumps(pair | {"choice": 0, "annotator": "ann"}) + "\n")
    rates = count_votes(read_votes(tmp_path / "votes.jsonl"))
    assert sum(rate.n for rate in rates.values()) == expected
