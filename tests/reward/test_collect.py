"""Collecting responses: what is sampled, in which order, and ranked by whom."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.console import UserError
from data.dialogue import Pair
from data.jsonl import read_texts
from data.tokenizers import Tokenizer, character_tokenizer
from pretrain.fast.gpt import decoder
from pretrain.model import GPT, GPTConfig
from pretrain.sampling import CachedModel
from reward.collect import REDRAWS, choose_prompts, collect_rankings, draw_distinct, near_duplicates
from reward.config import RewardModelConfig
from sft.pairs import split_prompts

TEXT = "ANNE:\nGood morrow to you, sir.\n\nBEN:\nAnd to you.\n"
PAIRS = [Pair(f"ANNE:\n{'Good ' * n}\n\nBEN:\n", "And to you. Good sir" + "." * n) for n in (5, 1, 3, 2, 4)]
CONFIG = RewardModelConfig(
    responses=3, prompt_length=20, response_length=12, sample_batch_size=6, score="length", label_temperature=0.0
)


def length(prompt: str, text: str) -> float:
    return float(len(text))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return character_tokenizer(TEXT)


@pytest.fixture(scope="module")
def policy(tokenizer: Tokenizer) -> CachedModel:
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(vocab_size=tokenizer.vocab_size, context_length=32, width=16, layers=1, heads=2, feed_forward=32)
    )
    return decoder(model.eval())


def test_one_ranking_for_every_prompt_in_order(policy: CachedModel, tokenizer: Tokenizer) -> None:
    rankings = collect_rankings(policy, tokenizer, PAIRS, CONFIG, length, "sft", seed=7)
    assert [r.prompt for r in rankings] == [pair.prompt for pair in PAIRS]
    for ranking in rankings:
        assert len(ranking.completions) == 3
        assert len(ranking.prompt_ids) <= 20
        assert tokenizer.decode(ranking.prompt_ids) == ranking.prompt[-len(ranking.prompt_ids) :]
        for text, ids, stopped in zip(ranking.completions, ranking.completion_ids, ranking.stopped, strict=True):
            assert tokenizer.decode(ids) == text
            assert stopped == (ids[-1] == tokenizer.eos_id)
            assert stopped or len(ids) == 12
        # The exact labeller's order is the order of the scores.
        assert ranking.scores == [float(len(text)) for text in ranking.completions]
        lengths = [ranking.scores[group[0]] for group in ranking.ranking]
        assert lengths == sorted(lengths, reverse=True)


def test_equal_seeds_give_equal_rankings_and_others_do_not(policy: CachedModel, tokenizer: Tokenizer) -> None:
    noisy = replace(CONFIG, label_temperature=5.0)
    first = collect_rankings(policy, tokenizer, PAIRS, noisy, length, "sft", seed=7)
    assert collect_rankings(policy, tokenizer, PAIRS, noisy, length, "sft", seed=7) == first
    other = collect_rankings(policy, tokenizer, PAIRS, noisy, length, "sft", seed=8)
    assert [r.completions for r in other] != [r.completions for r in first]


def test_the_plays_own_reply_is_the_last_candidate(policy: CachedModel, tokenizer: Tokenizer) -> None:
    rankings = collect_rankings(policy, tokenizer, PAIRS, CONFIG, length, "sft", 7, lambda prompt, text: 99.0)
    for ranking in rankings:
        assert ranking.ranking[0] == [3]  # scored by a score of its own
        # Cut at the end of the sentence that fits 12 tokens, its end token included.
        assert ranking.completions[3:] == ["And to you."]
        assert ranking.stopped[3]


def test_a_prompt_without_an_own_reply_has_no_such_candidate(policy: CachedModel, tokenizer: Tokenizer) -> None:
    prompts = [Pair("ANNE:\n", "")]
    [ranking] = collect_rankings(policy, tokenizer, prompts, CONFIG, length, "sft", 7, length)
    assert len(ranking.completions) == 3


def test_a_tenth_of_the_users_prompts_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"P{i % 30}:\n"}) + "\n" for i in range(40)), "utf-8")
    rows = read_texts(path, "prompt")
    training, held_out = split_prompts(path, rows, seed=1)
    assert (len(training), len(held_out)) == (27, 3)
    assert {*training, *held_out} == {f"P{i}:\n" for i in range(30)}
    assert split_prompts(path, rows, seed=1) == (training, held_out) != split_prompts(path, rows, seed=2)


@pytest.mark.parametrize(
    ("second_line", "message"),
    [
        ('{"prompt": ', "line 2: not valid JSON"),
        ('{"text": "B:\\n"}', 'line 2: the key "prompt" is missing'),
        ('{"prompt": 3}', 'line 2: "prompt" must be a string'),
        ('{"prompt": " \\n"}', 'line 2: "prompt" is empty'),
        ('{"prompt": "A:\\n"}', "at least two different prompts"),
    ],
)
def test_a_broken_file_of_prompts(tmp_path: Path, second_line: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "A:\\n"}\n' + second_line + "\n", "utf-8")
    with pytest.raises(UserError, match=message) as caught:
        split_prompts(path, read_texts(path, "prompt"), seed=1)
    assert str(path) in str(caught.value)


def test_prompts_are_chosen_once_each_and_none_that_is_excluded() -> None:
    pairs = [Pair(f"P{index % 10}:\n", f"reply {index}") for index in range(30)]
    chosen = choose_prompts(pairs, 100, seed=1, excluded=frozenset({"P3:\n"}))
    assert sorted(pair.prompt for pair in chosen) == [f"P{index}:\n" for index in range(10) if index != 3]
    assert choose_prompts(pairs, 4, seed=1, excluded=frozenset({"P3:\n"})) == chosen[:4]
    assert choose_prompts(pairs, 9, seed=2, excluded=frozenset({"P3:\n"})) != chosen


def test_near_duplicates_by_hand() -> None:
    # Common words and marks, twice, over those of both: 8/9, 6/8, 8/10 and 6/9.
    assert near_duplicates("Ay, my lord", "ay,\nMY good lord")
    assert not near_duplicates("What say you?", "What say you.")
    assert near_duplicates("The king is dead.", "The king is slain.")
    assert not near_duplicates("The king lives", "The king, he lives")
    assert near_duplicates("", " \n")
    assert not near_duplicates("", "No.")


class _Scripted:
    """Draws what a list says, and counts how many are asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer, texts: list[str]) -> None:
        self.asked: list[int] = []
        rest = iter(texts)

        def drawn(policy: object, prompts: list[list[int]], **settings: object) -> list[list[int]]:
            assert settings["stop_ids"] == [tokenizer.eos_id]
            self.asked.append(len(prompts))
            return [[*tokenizer.encode(next(rest)), tokenizer.eos_id] for _ in prompts]

        monkeypatch.setattr("reward.collect.generate", drawn)


def test_near_duplicates_are_drawn_again_prompt_by_prompt(
    monkeypatch: pytest.MonkeyPatch, policy: CachedModel, tokenizer: Tokenizer
) -> None:
    first_prompt, second_prompt = ["Good", "Good\n", "And to you."], ["Good", "morrow", "sir"]
    script = _Scripted(monkeypatch, tokenizer, [*first_prompt, *second_prompt, "And  to you.", "sir."])
    drawn = draw_distinct(policy, tokenizer, [[1], [2]], 3, max_new_tokens=9)
    assert script.asked == [6, 1, 1]
    assert [[tokenizer.decode(ids) for ids in replies] for replies in drawn] == [
        ["Good", "And to you.", "sir."],
        ["Good", "morrow", "sir"],
    ]


def test_a_model_that_says_one_thing_ends_the_redrawing(
    monkeypatch: pytest.MonkeyPatch, policy: CachedModel, tokenizer: Tokenizer
) -> None:
    script = _Scripted(monkeypatch, tokenizer, ["Good"] * 100)
    [replies] = draw_distinct(policy, tokenizer, [[1]], 4, max_new_tokens=9)
    assert len(replies) == 1
    assert script.asked == [4, *[3] * REDRAWS]


def test_distinct_replies_of_a_model(policy: CachedModel, tokenizer: Tokenizer) -> None:
    def drawn(seed: int) -> list[list[list[int]]]:
        generator = torch.Generator().manual_seed(seed)
        return draw_distinct(policy, tokenizer, [[1, 2], [3]], 4, max_new_tokens=12, generator=generator)

    for replies in drawn(1):
        assert len(replies) == len({tokenizer.decode(ids).lower() for ids in replies}) == 4
        assert all(len(ids) <= 12 for ids in replies)
    assert drawn(1) == drawn(1) != drawn(2)
