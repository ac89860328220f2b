"""What is measured on replies: pure functions of texts and numbers, each worked by hand in the tests."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

from reward.gold.judge import words_of
from reward.labeller import wilson_interval

TIE = 1e-9
"""Scores that differ by no more are equal."""


class WinRate(NamedTuple):
    """How often the first of two beats the second on the same prompt; a tie counts one half."""

    rate: float
    low: float
    high: float
    n: int
    ties: int


class Share(NamedTuple):
    """Of how many something holds, with Wilson's 95 % interval."""

    rate: float
    low: float
    high: float
    n: int


class Mean(NamedTuple):
    """A mean with its 95 % interval: ± 1.96 standard errors."""

    mean: float
    low: float
    high: float


class Diversity(NamedTuple):
    """Of the first `words` words of some texts: see `diversity`."""

    distinct_1: float
    distinct_2: float
    vocabulary: int


def win_rate(first: Sequence[float], second: Sequence[float]) -> WinRate:
    """Share of prompts on which `first` scores higher, ties one half, with Wilson's 95 % interval.

    The scores are paired: entry i of both belongs to prompt i. ValueError where the lengths differ or are 0.
    With ties the interval is a little too wide, since one half varies less than a win or a loss.
    """
    wins = ties = 0
    for a, b in zip(first, second, strict=True):
        tied = abs(a - b) <= TIE
        ties += tied
        wins += a > b and not tied
    n = len(first)
    low, high = wilson_interval(wins + ties / 2, n)
    return WinRate((wins + ties / 2) / n, low, high, n, ties)


def share(holds: Sequence[bool]) -> Share:
    """Of how many it holds; ValueError where there are none."""
    return Share(sum(holds) / max(1, len(holds)), *wilson_interval(sum(holds), len(holds)), len(holds))


def pooled(shares: Sequence[Mapping[str, Any]]) -> Share:
    """The share of all that these shares (as dicts) count; ValueError where there are none."""
    n = sum(each["n"] for each in shares)
    holds = sum(round(each["rate"] * each["n"]) for each in shares)
    return Share(holds / max(1, n), *wilson_interval(holds, n), n)


def mean_interval(values: Sequence[float]) -> Mean:
    """Mean of `values` and its 95 % interval by the normal approximation; ValueError where there are none."""
    if not values:
        raise ValueError("no values, so no mean")
    n, mean = len(values), math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / max(1, n - 1)
    half = NormalDist().inv_cdf(0.975) * math.sqrt(variance / n)
    return Mean(mean, mean - half, mean + half)


def distinct(texts_words: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams over all n-grams (Li et al., arXiv 1510.03055), none across two texts; 0 without any."""
    grams: Counter[tuple[str, ...]] = Counter()
    for words in texts_words:
        grams.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return len(grams) / grams.total() if grams else 0.0


def first_words(texts: Sequence[str], count: int) -> list[list[str]]:
    """The words of the texts in order up to `count` in all; the text that exceeds it is cut."""
    taken: list[list[str]] = []
    for text in texts:
        words = words_of(text)[:count]
        count -= len(words)
        taken.append(words)
        if count <= 0:
            break
    return taken


def diversity(texts: Sequence[str], words: int) -> Diversity:
    """distinct-1, distinct-2 and the number of different words among the first `words` words of the texts.

    All three depend on how long a text is, so what is compared must have equally many words.
    """
    taken = first_words(texts, words)
    vocabulary = {word for text in taken for word in text}
    return Diversity(distinct(taken, 1), distinct(taken, 2), len(vocabulary))


def word_count(texts: Sequence[str]) -> int:
    """Words in all texts together."""
    return sum(len(words_of(text)) for text in texts)


def cut_at_blank_line(text: str) -> tuple[str, bool]:
    """The reply up to the first blank line, and whether there is one.

    A prompt ends with a newline, so a reply that begins with one begins with a blank line: it is empty.
    """
    end = 0 if text.startswith("\n") else text.find("\n\n")
    return (text, False) if end < 0 else (text[:end], True)
