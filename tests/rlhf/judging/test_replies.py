"""Replies are sampled under the same limits, several to a prompt at the price of one reading."""

from collections.abc import Sequence
from typing import Any

import pytest

from data.dialogue import heldout_pairs
from data.tokenizers import Tokenizer
from rlhf.judging import replies as module
from rlhf.judging.replies import ReplySampler
from sft.models.loading import load_causal_lm

LENGTH = 24


@pytest.fixture(scope="module")
def sampler(directed_maker: Any) -> ReplySampler:
    tokenizer = Tokenizer.load(directed_maker.run / "sft")
    prompts = [tokenizer.encode(pair.prompt) for pair in heldout_pairs(directed_maker.corpus.validation).test[:9]]
    return ReplySampler(tokenizer, prompts, LENGTH, seed=1)


def test_several_replies_are_of_all_prompts_and_differ(sampler: ReplySampler, directed_maker: Any) -> None:
    lm = load_causal_lm(directed_maker.run / "sft", "cpu")
    several = sampler.several(lm, 5, 3)
    assert [len(each.texts) for each in several] == [9, 9, 9]
    assert len({tuple(each.texts) for each in several}) == 3
    for each in several:
        assert each.texts == [sampler.tokenizer.decode(ids) for ids in each.ids]
        assert each.stopped == [ids[-1] == sampler.tokenizer.eos_id for ids in each.ids]
    assert [each.texts for each in sampler.several(lm, 5, 3)] == [each.texts for each in several]
    assert [len(each.texts) for each in sampler.several(lm, 5, 2, count=4)] == [4, 4]
    one = sampler.sample(lm, 6)
    assert one == sampler.several(lm, 6, 1)[0]


def test_each_reply_answers_its_own_prompt(
    sampler: ReplySampler, directed_maker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At temperature 0 all replies to a prompt are the one that it has alone."""
    lm = load_causal_lm(directed_maker.run / "sft", "cpu")
    monkeypatch.setattr(module, "BATCH", 5)
    alone = sampler.sample(lm, 1, temperature=0.0)
    assert len(set(alone.texts)) > 1
    for each in sampler.several(lm, 1, 3, temperature=0.0):
        assert each.texts == alone.texts


def test_the_pretrained_model_is_not_asked_beyond_its_blank_line(
    sampler: ReplySampler, directed_maker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [newline] = sampler.tokenizer.encode("\n")
    given: list[dict[str, Any]] = []

    def generate(model: Any, prompts: Sequence[Any], **settings: Any) -> list[list[int]]:
        given.append(settings)
        ends = [[newline, newline], [], [newline, *sampler.tokenizer.encode("and"), newline]]
        return [[*sampler.tokenizer.encode("The king"), *ends[i % 3]] for i in range(len(prompts))]

    monkeypatch.setattr(module, "generate", generate)
    lm = load_causal_lm(directed_maker.run / "pretrain", "cpu")
    replies = sampler.sample_pretrained(lm, 0)
    assert {settings["stop_twice"] for settings in given} == {newline}
    assert replies.texts[:3] == ["The king", "The king", "The king\nand\n"]
    assert replies.stopped[:3] == [True, False, False]
    assert replies.ids[0] == [*sampler.tokenizer.encode("The king"), sampler.tokenizer.eos_id]
    given.clear()
    sampler.sample(lm, 0)
    assert {settings["stop_twice"] for settings in given} == {None}, "whoever knows an end token may write blank lines"
