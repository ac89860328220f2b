"""The judge against values worked by hand."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from data.console import UserError
from rlhf.judging.judge import Judge, choose_pairs, common_words
from rlhf.judging.replies import Replies
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.rules import Scorer, ScoreRules
from sft.models.forward import sequence_logprobs

PROMPTS, REPLIES = [[0], [0, 1, 1], [1]], [[0, 1, 0], [1], []]


def coin(p: float) -> PreTrainedModel:
    """A model that says token 0 with probability `p` and token 1 otherwise, whatever it has read."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=2, n_positions=8, n_embd=2, n_layer=1, n_head=1, bos_token_id=None,
                                       eos_token_id=None)).eval()  # fmt: skip
    body: Any = model.transformer
    with torch.no_grad():
        body.ln_f.weight.zero_()
        body.ln_f.bias.copy_(torch.tensor([1.0, 0.0]))
        body.wte.weight[:, 0] = torch.tensor([p, 1 - p]).log() + 5.0  # a shift that the softmax must take out
    return model


def judge_of(sft: PreTrainedModel, rewards: Any = None, stop_ids: frozenset[int] = frozenset()) -> Judge:
    scorer = Scorer(lambda prompts, responses: rewards, stop_ids, ScoreRules("subtract", 1.0, None))
    gold: Any = SimpleNamespace(terms=lambda prompt, text: {"length": len(text)}, score=lambda terms: terms["length"])
    return Judge(gold, scorer, ["a", "b", "c"], [Prompt(ids) for ids in PROMPTS], sft)


def test_kl_by_hand_on_a_tiny_distribution() -> None:
    lm, sft = coin(0.75), coin(0.5)
    own, reference = (sequence_logprobs(each, PROMPTS, REPLIES) for each in (lm, sft))
    expected = [2 * math.log(1.5) + math.log(0.5), math.log(0.5), 0.0]
    assert (own - reference).tolist() == pytest.approx(expected, abs=1e-5)
    # At temperature .5 probabilities are squared: 9/16 and 1/16, so .9 and .1.
    sharp = sequence_logprobs(lm, PROMPTS, REPLIES, temperature=0.5)
    assert sharp.tolist() == pytest.approx([2 * math.log(0.9) + math.log(0.1), math.log(0.1), 0.0], abs=1e-5)
    judge, replies = judge_of(sft), Replies(["", "", ""], REPLIES, [False] * 3)
    assert judge.kl(lm, replies) == pytest.approx(sum(expected) / 3, abs=1e-5)
    assert judge.kl(lm, replies, temperature=0.5) == pytest.approx(float((sharp - reference).mean()), abs=1e-5)
    assert judge.kl(sft, replies) == 0
    cold = judge_of(lm).kl(lm, replies, temperature=0.5)
    assert cold == pytest.approx(float((sharp - own).mean()), abs=1e-5), "at another temperature it is another policy"


def test_the_token_that_ends_a_reply_counts_where_the_model_has_one() -> None:
    lm, sft = coin(0.75), coin(0.5)
    judge, replies = judge_of(sft, stop_ids=frozenset([1])), Replies(["", "", ""], [[0, 1], [1], [0]], [True] * 3)
    up, down = math.log(1.5), math.log(0.5)
    assert judge.kl(lm, replies) == pytest.approx((up + down + down + up) / 3, abs=1e-5)
    assert judge.kl(lm, replies, end=False) == pytest.approx((up + 0 + up) / 3, abs=1e-5)


def test_what_is_filled_in() -> None:
    judge = judge_of(coin(0.5), torch.tensor([0.25, 2.0]), frozenset([1]))
    replies = judge.judge(Replies(["long", "x"], [[0, 1], [0]], [True, False]))
    assert replies.gold == [4, 1]
    assert replies.terms == [{"length": 4}, {"length": 1}]
    assert replies.reward == [0.25, 2.0]
    assert replies.scores == [0.25, 1.0], "a reply that does not stop pays"
    assert replies.kl is None


def test_diversity_is_measured_on_as_many_words_as_all_have() -> None:
    few, many = Replies(["one two"], [[0]], [True]), Replies(["a word " * 3000], [[0]], [True])
    assert common_words([few, many]) == 2
    assert common_words([many, many]) == 4000


def test_no_held_out_dialogue_is_one_line() -> None:
    corpus: Any = SimpleNamespace(name="prose", validation="No speaker speaks here. " * 50)
    with pytest.raises(UserError, match="'prose' holds no dialogue to judge on: use a longer text"):
        choose_pairs(corpus, "test")
    with pytest.raises(UserError, match="--prompts must be at least 1, not 0"):
        choose_pairs(corpus, "test", 0)
