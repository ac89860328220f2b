"""What prompts are asked for, and how often replies do as told, counted by hand."""

import math
from collections import Counter
from typing import Any

import pytest
import torch

from data.dialogue import Pair, dialogue_pairs
from data.directions.drawing import Directions
from data.directions.headings import directions_of
from data.directions.specs import Direction, Spec, load_specs
from data.directions.table import HELD_OUT_COMBINATIONS, HELD_OUT_WORDS
from reward.model import RewardModel
from rlhf.judging.directed import Asked, Asking, Request, draw_requests, request_sets
from rlhf.judging.judge import choose_pairs
from rlhf.judging.metrics import wilson_interval
from rlhf.judging.replies import Replies
from rlhf.judging.stages import Stages, read_chain

BUILT_IN = load_specs("built-in")
BY_TEXT = {spec.text: spec for spec in BUILT_IN}


@pytest.fixture(scope="module")
def table(directed_maker: Any) -> Directions:
    return Directions(BUILT_IN, [pair.completion for pair in dialogue_pairs(directed_maker.corpus.train)])


@pytest.fixture(scope="module")
def asking(directed_maker: Any, table: Directions) -> Asking:
    run, corpus = directed_maker.run, directed_maker.corpus
    pairs = choose_pairs(corpus, "test", 8)
    return Asking(Stages(run, read_chain(run), corpus, pairs, 1, torch.device("cpu")), table)


def pairs(count: int) -> list[Pair]:
    return [Pair(f"MASON:\nLine {i}.\n\nPILOT:\n", "Ay.") for i in range(count)]


def letters(kind: str, text: str, letter: str, **more: Any) -> Spec:
    """A row that asks for a letter."""
    return Spec(kind, text, lambda reply: letter in reply, lambda reply: float(letter in reply),
                lambda reply: "" if letter in reply else None, **more)  # fmt: skip


def test_one_request_is_for_a_mood_or_lines_half_each(table: Directions) -> None:
    requests = draw_requests(table, pairs(400), 1, "one")
    assert Counter(request.directions[0].kind for request in requests) == {"mood": 200, "lines": 200}
    moods = Counter(str(request.directions[0]) for request in requests if request.directions[0].kind == "mood")
    assert set(moods) == {"asking", "crying out", "telling"}
    assert min(moods.values()) > 45, "alike"
    for request in requests:
        assert request.other
        assert request.other.kind == request.directions[0].kind
        assert request.other != request.directions[0]
    assert requests == draw_requests(table, pairs(400), 1, "one")
    assert requests != draw_requests(table, pairs(400), 2, "one")


def test_more_requests_at_once_are_of_different_kinds_that_training_may_ask_for_together(table: Directions) -> None:
    for name, count in (("two", 2), ("three", 3)):
        requests = draw_requests(table, pairs(60), 1, name)
        for request in requests:
            kinds = [direction.kind for direction in request.directions]
            assert kinds[:2] == ["mood", "lines"]
            assert len(set(kinds)) == len(kinds) == count
            assert not any(apart <= {*map(str, request.directions)} for apart in HELD_OUT_COMBINATIONS)
            assert request.other is None
    assert Counter(request.directions[2].kind for request in requests) == {"beginning": 20, "word": 20, "to": 20}


def test_what_nothing_learns_from_is_asked_for_apart(table: Directions) -> None:
    assert [*request_sets(table)] == [
        "one", "two", "three", "kind mood", "kind lines", "kind beginning", "kind word", "kind to", "kind length",
        "words", "combinations",
    ]  # fmt: skip
    words = draw_requests(table, pairs(100), 1, "words")
    assert {request.directions[0].value for request in words} <= HELD_OUT_WORDS
    assert len({request.directions[0].value for request in words}) > 10
    assert all(request.other and request.other.value != request.directions[0].value for request in words)
    together = {frozenset(map(str, each.directions)) for each in draw_requests(table, pairs(9), 1, "combinations")}
    assert together == HELD_OUT_COMBINATIONS
    assert {each.directions[0].kind for each in draw_requests(table, pairs(9), 1, "kind length")} == {"length"}


def test_a_table_without_moods_is_asked_for_in_turn() -> None:
    specs = (letters("a", "a", "a"), letters("b", "b", "b"), letters("never", "z", "z", trained=False))
    table = Directions(specs, ["abz"])
    assert [*request_sets(table)] == ["one", "two", "kind a", "kind b", "kind never"]
    assert Counter(str(each.directions[0]) for each in draw_requests(table, pairs(10), 1, "one")) == {"a": 5, "b": 5}
    assert all(each.other is None for each in draw_requests(table, pairs(4), 1, "one")), "there is no other"
    assert {len(each.directions) for each in draw_requests(table, pairs(4), 1, "two")} == {2}


def test_rates_by_hand() -> None:
    question, cry, two = (Direction(BY_TEXT[text]) for text in ("asking", "crying out", "in two lines"))
    requests = [
        Request((question,), cry),
        Request((question, two), None),
        Request((two,), Direction(BY_TEXT["in one line"])),
    ]
    texts = ["Is it?", "Is it?", "One\ntwo."]
    asked = Asked(["", "", ""], requests, {"sft": Replies(texts, [[0]] * 3, [True] * 3)})
    assert asked.followed("sft") == [True, False, True], "of two requests both"
    low, high = wilson_interval(2, 3)
    assert asked.rates() == {"sft": {"rate": 2 / 3, "low": low, "high": high, "n": 3}}
    assert asked.rates("lines")["sft"]["n"] == 1
    assert asked.rates("nothing") == {}
    assert asked.wrong()["sft"]["rate"] == 0
    assert asked.wrong()["sft"]["n"] == 2, "where something else of the kind could be asked"


def test_everybody_reads_the_directions_and_says_the_same_again(asking: Asking) -> None:
    calls: list[None] = []
    asked = asking.ask("one", lambda: calls.append(None))
    assert len(calls) == asking.steps
    assert [*asked.replies] == ["pretrain", "sft", "rlhf", "best_of_4", "original"]
    for prompt, request, pair in zip(asked.prompts, asked.requests, asking.stages.pairs, strict=True):
        assert directions_of(prompt, BUILT_IN) == request.directions
        assert prompt.startswith(pair.prompt.removesuffix(":\n"))
    assert asked.replies["original"].texts == asking.stages.sampler.original(asking.stages.pairs).texts
    again = asking.ask("one")
    assert {key: each.texts for key, each in again.replies.items()} == {
        key: each.texts for key, each in asked.replies.items()
    }
    assert asking.ask("kind mood").replies["sft"].texts != asked.replies["sft"].texts


@pytest.mark.parametrize("following", ["none", "rule", "model"])
def test_the_best_of_four_is_best_by_what_ppo_maximised(
    asking: Asking, following: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = asking.stages
    settings = stages.records["rlhf"].config
    monkeypatch.setitem(settings, "reward_following", following)
    asking = Asking(stages, asking.table)
    prompts = stages.encoded([f"{pair.prompt[:-2]}, asking:\n" for pair in stages.pairs])

    def replies(text: str) -> Replies:
        ids = [*stages.tokenizer.encode(text), stages.tokenizer.eos_id]
        return Replies([text] * 5, [ids] * 5, [True] * 5)

    candidates = [replies("The king keeps the harbour."), replies("Is it the king?")]
    best = asking.best(candidates, prompts)
    lengths = [len(each.ids[0]) for each in candidates]
    for each, length in zip(candidates, lengths, strict=True):
        sequences = [(plain, ids) for plain, ids in zip(stages.judge.prompts, each.ids, strict=False)]
        craft = stages.reward_model.score(sequences)
        if following == "none":
            expected = craft
        else:
            followed = torch.full((5,), float(each.texts[0].endswith("?")) + 0.0)
            if following == "model":
                model = RewardModel.load(stages.run / "following")
                told = [(prompt, ids) for prompt, ids in zip(prompts, each.ids, strict=False)]
                followed = torch.sigmoid(2 * model.score(told) - 0.5)
            short = math.log(length / (0.6 * sum(lengths) / 2))
            expected = craft.clamp(max=0.5) + 4 * followed + min(0.0, short)
        assert each.scores == pytest.approx(expected.tolist(), abs=1e-4)
    if following == "rule":
        assert best.texts == candidates[1].texts, "the one that does as told"


def test_craft_is_judged_without_directions_and_the_distance_with_them(asking: Asking) -> None:
    asked = asking.ask("one")
    craft = asking.craft(asked)
    stages = asking.stages
    assert [*craft] == [*asked.replies]
    for key, row in craft.items():
        texts = asked.replies[key].texts
        gold = [stages.judge.gold(pair.prompt, text) for pair, text in zip(stages.pairs, texts, strict=True)]
        assert row["gold"] == pytest.approx(sum(gold) / len(gold), abs=1e-5)
        free = [
            len(ids)
            for ids, request in zip(asked.replies[key].ids, asked.requests, strict=True)
            if request.directions[0].kind == "mood"
        ]
        assert row["tokens_free"] == sum(free) / len(free)
    assert craft["sft"]["kl_to_sft"] == 0
    assert craft["rlhf"]["kl_to_sft"] > 0.5
    assert craft["original"]["kl_to_sft"] is None
    assert asking.craft(asking.ask("kind lines"))["sft"]["tokens_free"] is None


def test_a_control_may_answer_fewer_prompts(asking: Asking) -> None:
    whole, asked = asking.ask("one"), asking.ask("one", best_of=3)
    for key in ("pretrain", "sft", "rlhf"):
        assert asked.replies[key].texts == whole.replies[key].texts
    assert {key: share["n"] for key, share in asked.rates().items()} == {
        "pretrain": 8, "sft": 8, "rlhf": 8, "best_of_4": 3, "original": 8,
    }  # fmt: skip
    assert [asked.rates(kind)["best_of_4"]["n"] for kind in ("mood", "lines")] == [2, 1]
    assert asked.wrong()["best_of_4"]["n"] == 3
    assert asking.craft(asked)["best_of_4"]["n"] == 3
    assert ["best_of_4" in sample for sample in asking.samples(asked)] == [True] * 3 + [False] * 5


def test_samples_say_who_did_as_told(asking: Asking) -> None:
    asked = asking.ask("one")
    asking.craft(asked)
    for i, sample in enumerate(asking.samples(asked)):
        assert sample["prompt"] == asked.prompts[i]
        assert sample["directions"] == [str(direction) for direction in asked.requests[i].directions]
        for key in ("pretrain", "sft", "rlhf", "best_of_4"):
            assert sample["followed"][key] == asked.requests[i].directions[0].followed(sample[key])
        assert "original" not in sample
