"""What changed, in words: how the replies of one model differ from another's to the same prompts.

It takes no view of what was wanted: it finds the words and punctuation marks whose use differs most, by the log-odds
ratio with an informative Dirichlet prior (Monroe, Colaresi and Quinn 2008, "Fightin' Words", section 3.5), and counts
shares of replies with their intervals.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from scipy.stats import false_discovery_control, norm

from data.corpus import Corpus
from data.dialogue import dialogue_pairs
from reward.gold.judge import words_and_marks, words_of
from reward.tastes import asks
from rlhf.judging.judge import common_words
from rlhf.judging.metrics import diversity, mean_interval, wilson_interval
from rlhf.judging.replies import Replies

ALPHA0 = 1000.0
"""Weight of the prior, in words: about a tenth of what 500 replies have."""
FALSE_DISCOVERIES = 0.05
"""Share of the words found that may be chance. Hundreds are compared, so |z| ≥ 1.96 alone would name about ten words
between two draws of the same model; with this bound, none of 56 pairs of draws named one."""
FEWEST = 10
"""Uses in both sets together; a word with fewer is not compared, as it could hardly differ beyond chance."""
SHARES_OF_WORDS = 3
"""Words found whose share of replies is counted, in each direction."""


@dataclass(frozen=True)
class WordUse:
    """How often a word or mark is used in two sets of replies."""

    word: str
    before: int
    after: int
    log_odds: float
    """Log-odds ratio after / before, with the prior."""
    z: float
    """`log_odds` in standard errors: positive for a word that is used more often after."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Rate:
    """One thing that is counted in both sets of replies."""

    name: str
    share: bool
    """Whether it is a share of replies, with Wilson's interval."""
    before: Estimate
    after: Estimate


@dataclass(frozen=True)
class Changes:
    """What changed from one set of replies to another."""

    more: list[WordUse]
    """Words that are used more often after, the plainest difference first."""
    less: list[WordUse]
    rates: list[Rate]
    compared: int
    """Different words and marks that were compared: those used often enough."""
    before_total: int
    """Words and marks in all replies before."""
    after_total: int
    fewest: int = FEWEST
    alpha0: float = ALPHA0
    false_discoveries: float = FALSE_DISCOVERIES

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word and punctuation mark is used."""
    return Counter(word for text in texts for word in words_and_marks(text))


def prior_counts(corpus: Corpus) -> Counter[str]:
    """What is usual: `count_words` of the replies of the training text."""
    return count_words(pair.completion for pair in dialogue_pairs(corpus.train))


def word_uses(
    before: Mapping[str, int], after: Mapping[str, int], prior: Mapping[str, int], alpha0: float = ALPHA0
) -> list[WordUse]:
    """Every word of two counts with its log-odds ratio and z-value, in the order of z, the largest first.

    The prior has the weight of `alpha0` words, shared among all words in proportion to their count in `prior` plus
    one. For word w of pseudo-count α, counted y times in n words, the log-odds are those of (y + α) in (n + α0); the
    variance of their difference is about 1/(y + α) + 1/(y' + α) (equation 20). Fewer than two words cannot differ.
    """
    vocabulary = {*prior, *before, *after}
    if len(vocabulary) < 2:
        return []
    total = sum(prior.values()) + len(vocabulary)
    size_before, size_after = sum(before.values()) + alpha0, sum(after.values()) + alpha0
    uses = []
    for word in {*before, *after}:
        alpha = alpha0 * (prior.get(word, 0) + 1) / total
        first, second = before.get(word, 0), after.get(word, 0)
        y, y_after = first + alpha, second + alpha
        log_odds = math.log(y_after / (size_after - y_after)) - math.log(y / (size_before - y))
        uses.append(WordUse(word, first, second, log_odds, log_odds / math.sqrt(1 / y + 1 / y_after)))
    return sorted(uses, key=lambda use: (-use.z, use.word))


def beyond_chance(uses: Sequence[WordUse]) -> list[WordUse]:
    """The uses that differ by more than chance, with a false discovery rate of `FALSE_DISCOVERIES`.

    Benjamini and Hochberg's procedure on the two-sided p-values of z: all it keeps have |z| ≥ 1.96.
    """
    if not uses:
        return []
    adjusted = false_discovery_control([2 * norm.sf(abs(use.z)) for use in uses])
    return [use for use, p in zip(uses, adjusted, strict=True) if p <= FALSE_DISCOVERIES]


def what_changed(
    before: Replies, after: Replies, prior: Mapping[str, int], has: Mapping[str, Callable[[str], bool]] | None = None
) -> Changes:
    """The words that changed and the rates of two sets of replies; `has` are further shares by name, put first."""
    first, second = count_words(before.texts), count_words(after.texts)
    uses = [use for use in word_uses(first, second, prior) if use.before + use.after >= FEWEST]
    found = beyond_chance(uses)
    more, less = [use for use in found if use.z > 0], [use for use in reversed(found) if use.z < 0]
    words = [use.word for use in (*more[:SHARES_OF_WORDS], *less[:SHARES_OF_WORDS]) if use.word != "!"]
    counted = rates(before, after, words, has or {})
    return Changes(more, less, counted, len(uses), first.total(), second.total())


def rates(
    before: Replies, after: Replies, words: Sequence[str], has: Mapping[str, Callable[[str], bool]]
) -> list[Rate]:
    """Named shares of replies with Wilson's intervals, then words per reply and distinct-2, before and after.

    `has` are shares that come first; `words` are words and marks whose share of replies is counted. distinct-2 is
    taken from equally many words of both: `rlhf.judging.judge.common_words`.
    """
    tests: dict[str, Callable[[str], bool]] = {
        **has,
        "ends with a question": asks,
        "exclaims": lambda text: "!" in text,
        "one line": lambda text: _lines(text) == 1,
        "two lines": lambda text: _lines(text) == 2,
        "more lines": lambda text: _lines(text) > 2,
    }
    both = before, after
    shares = {name: [[test(text) for text in replies.texts] for replies in both] for name, test in tests.items()}
    shares["stops by itself"] = [replies.stopped for replies in both]
    used = [[{*words_and_marks(text)} for text in replies.texts] for replies in both]
    shares |= {f"has “{word}”": [[word in text for text in texts] for texts in used] for word in words}
    counted = [Rate(name, True, *map(_share, found)) for name, found in shares.items()]
    length = [Estimate(*mean_interval([len(words_of(text)) for text in replies.texts])) for replies in both]
    common = common_words(both)
    distinct = [Estimate(diversity(replies.texts, common).distinct_2) for replies in both]
    return [*counted, Rate("words per reply", False, *length), Rate("distinct-2", False, *distinct)]


def _share(found: Sequence[bool]) -> Estimate:
    return Estimate(fmean(found), *wilson_interval(sum(found), len(found)))


def _lines(text: str) -> int:
    return sum(bool(line.strip()) for line in text.split("\n"))
