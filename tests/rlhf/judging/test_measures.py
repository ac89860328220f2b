"""Every measure against values worked by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import binomtest

from pretrain.model import GPT, GPTConfig
from rlhf.judging.measures import (
    cut_at_blank_line,
    distinct,
    diversity,
    first_words,
    mean_interval,
    response_logprobs,
    wilson_interval,
    win_rate,
    word_count,
)


def test_distinct_counts_ngrams_within_texts() -> None:
    texts = [["a", "rose", "is", "a", "rose"], ["a", "rose"]]
    assert distinct(texts, 1) == 3 / 7
    # a-rose, rose-is, is-a, a-rose | a-rose: three kinds of five; no pair runs from one text into the next.
    assert distinct(texts, 2) == 3 / 5
    assert distinct([["alone"]], 2) == 0.0


def test_diversity_is_taken_from_equally_many_words() -> None:
    texts = ["The cat, the dog!", "The owl and the cat."]
    assert first_words(texts, 6) == [["the", "cat", "the", "dog"], ["the", "owl"]]
    assert first_words(texts, 4) == [["the", "cat", "the", "dog"]]
    varied = diversity(texts, 6)
    assert varied.vocabulary == 4
    assert varied.distinct_1 == 4 / 6
    assert varied.distinct_2 == 1.0  # the-cat, cat-the, the-dog, the-owl
    assert diversity(texts, 9).distinct_2 == 6 / 7  # ... owl-and, and-the, and the-cat again
    assert word_count(texts) == 9


@pytest.mark.parametrize(
    ("wins", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)]
)
def test_wilson_interval_has_the_published_values(wins: int, n: int, low: float, high: float) -> None:
    # 81 of 263 is Newcombe's example (1998, Statistics in Medicine 17).
    assert wilson_interval(wins, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_agrees_with_scipy_and_takes_halves() -> None:
    for wins, n in ((0, 1), (7, 9), (500, 539), (539, 539)):
        theirs = binomtest(wins, n).proportion_ci(method="wilson")
        assert wilson_interval(wins, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    below, between, above = wilson_interval(6, 9), wilson_interval(6.5, 9), wilson_interval(7, 9)
    assert below[0] < between[0] < above[0]
    assert below[1] < between[1] < above[1]
    with pytest.raises(ValueError, match="0 comparisons"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match="11 wins"):
        wilson_interval(11, 10)


def test_win_rate_is_paired_and_counts_ties_half() -> None:
    rate = win_rate([0.9, 0.2, 0.5, 0.5], [0.1, 0.8, 0.5, 0.4])
    assert (rate.rate, rate.n, rate.ties) == (2.5 / 4, 4, 1)
    assert (rate.low, rate.high) == wilson_interval(2.5, 4)
    assert win_rate([1.0, 0.0], [0.0, 1.0]).rate == 0.5
    assert win_rate([0.3] * 5, [0.3] * 5).rate == 0.5
    with pytest.raises(ValueError, match=r"shorter|longer"):
        win_rate([1.0], [1.0, 2.0])


def test_mean_interval() -> None:
    mean, low, high = mean_interval([1.0, 2.0, 3.0, 4.0])
    error = math.sqrt((1.5**2 + 0.5**2 + 0.5**2 + 1.5**2) / 3 / 4)
    assert mean == 2.5
    assert (mean - low, high - mean) == pytest.approx((1.959964 * error, 1.959964 * error), rel=1e-6)
    assert mean_interval([2.0]) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("Go to.\n\nNURSE:\nI go.", ("Go to.", True)),
        ("Go to.\nI will.", ("Go to.\nI will.", False)),
        ("\nNURSE:\nI go.", ("", True)),  # the prompt's own newline makes it a blank line
        ("", ("", False)),
    ],
)
def test_cut_at_blank_line(text: str, cut: tuple[str, bool]) -> None:
    assert cut_at_blank_line(text) == cut


class _Coin:
    """A model that says token 0 with probability `p` and token 1 otherwise, whatever it has read."""

    device = torch.device("cpu")
    config = SimpleNamespace(vocab_size=2)

    def __init__(self, p: float) -> None:
        self.logits = torch.tensor([p, 1 - p]).log() + 5.0  # a shift that the softmax must take out

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*ids.shape, 2)


def test_kl_by_hand_on_a_tiny_distribution() -> None:
    prompts, replies = [[0], [0, 1, 1], [1]], [[0, 1, 0], [1], []]
    own = response_logprobs(_Coin(0.75), prompts, replies)  # type: ignore[arg-type]
    reference = response_logprobs(_Coin(0.5), prompts, replies)  # type: ignore[arg-type]
    differences = [a - b for a, b in zip(own, reference, strict=True)]
    assert differences == pytest.approx([2 * math.log(1.5) + math.log(0.5), math.log(0.5), 0.0], abs=1e-5)
    # At temperature .5 probabilities are squared: 9/16 and 1/16, so .9 and .1.
    sharp = response_logprobs(_Coin(0.75), prompts, replies, temperature=0.5)  # type: ignore[arg-type]
    assert sharp == pytest.approx([2 * math.log(0.9) + math.log(0.1), math.log(0.1), 0.0], abs=1e-5)


@pytest.mark.parametrize("family", ["modern", "gpt2"])
def test_response_logprobs_are_those_of_each_row_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = GPTConfig(family=family, vocab_size=31, context_length=24, width=32, layers=2, heads=2, feed_forward=64)  # type: ignore[arg-type]
    model = GPT(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    prompts, replies = [[1, 2, 3], [4], [5, 6]], [[7, 8], [9, 10, 11, 12, 13], [14]]
    expected = []
    for prompt, reply in zip(prompts, replies, strict=True):
        logits = model(torch.tensor([prompt + reply])).log_softmax(-1)[0]
        expected.append(sum(logits[len(prompt) - 1 + t, token].item() for t, token in enumerate(reply)))
    assert response_logprobs(model, prompts, replies) == pytest.approx(expected, abs=1e-4)
    monkeypatch.setattr("rlhf.judging.measures.LOGITS_AT_ONCE", 1)  # one row a forward pass
    assert response_logprobs(model, prompts, replies) == pytest.approx(expected, abs=1e-4)
