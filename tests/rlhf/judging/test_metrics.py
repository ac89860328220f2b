"""Every measure against values worked by hand."""

import math

import pytest
from scipy.stats import binomtest

from rlhf.judging.metrics import (
    cut_at_blank_line,
    distinct,
    diversity,
    first_words,
    mean_interval,
    pooled,
    share,
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


def test_shares_and_what_several_come_to() -> None:
    found = share([True, False, True, True])
    assert found == (0.75, *wilson_interval(3, 4), 4)
    both = pooled([found._asdict(), share([False] * 6)._asdict()])
    assert both == (0.3, *wilson_interval(3, 10), 10)
    assert pooled([found._asdict()]) == found
    with pytest.raises(ValueError, match="0 comparisons"):
        share([])
    with pytest.raises(ValueError, match="0 comparisons"):
        pooled([])


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
