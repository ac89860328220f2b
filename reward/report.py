"""report.html: how good the reward model is, on what, and how good it could be, as one self-contained page.

Shares are of pairs, with Wilson's 95 % intervals. The pairs of one ranking are not independent, so intervals over few
rankings are a little too narrow.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

from markupsafe import Markup
from scipy.stats import spearmanr

from data.run.charts import Dot, calibration_chart, curve_chart, dot_chart
from data.run.page import write_page
from data.run.plots import curve
from reward.evaluate import Bin, Judged, judge_pairs
from reward.labeller import ScoreFunction, ceiling_from_agreement, pair_agreement, wilson_interval
from reward.rankings import Ranking

EXTREMES = 5
"""Replies to read at either end of the scale."""
ROWS = 12
"""Rows of a chart, at most; what is judged most comes first."""
JUDGED_BY_GOLD = 400
"""Rankings of people that the gold judge is compared with, at most: it scores 1,500 replies per second."""

_WEIGHTS = re.compile(r" [0-9a-f]{12}$")  # of which model of that name, which no reader compares


class Share(NamedTuple):
    """A share of `n` pairs with Wilson's 95 % interval."""

    share: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, wins: float, n: int) -> "Share | None":
        """None where there are no pairs."""
        return cls(wins / n, *wilson_interval(wins, n), n) if n else None


def accuracy_by(judged: Sequence[Judged], key: Callable[[Judged], Hashable]) -> dict[str, Share]:
    """Accuracy per value of `key` (None: left out), those with most pairs first, at most `ROWS`."""
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for pair in judged:
        groups[key(pair)].append(pair.right)
    groups.pop(None, None)
    largest = sorted(groups.items(), key=lambda item: -len(item[1]))[:ROWS]
    return {str(name): found for name, right in largest if (found := Share.of(sum(right), len(right)))}


def source_of(pair: Judged) -> str:
    """The file that the ranking was read from, or whose replies were sampled, and who wrote the two replies."""
    ranking = pair.ranking
    named = ranking.policies
    policy = " / ".join(sorted({named[pair.better], named[pair.worse]})) if named else ranking.policy
    policy = _WEIGHTS.sub("", policy)
    return f"{Path(ranking.source).name}: {policy}" if ranking.source else policy


def places_apart(pair: Judged) -> str:
    """How many places of the ranking lie between the two, as words."""
    place = {index: place for place, group in enumerate(pair.ranking.ranking) for index in group}
    apart = place[pair.worse] - place[pair.better]
    return "next to each other" if apart == 1 else f"{apart} places apart"


def accuracy_by_margin(judged: Sequence[Judged]) -> dict[str, Share]:
    """Accuracy by how far apart the annotator's own scores are, in four groups of equally many pairs, nearest first.

    Where rankings have scores, that is; empty otherwise. A pair that noise has turned round has a margin too.
    """
    scored = [(abs(s[p.better] - s[p.worse]), p.right) for p in judged if (s := p.ranking.scores) is not None]
    if len(scored) < 8:
        return {}
    cuts = quantiles([margin for margin, _ in scored], n=4)
    edges = [0.0, *cuts, max(margin for margin, _ in scored)]
    groups = [[right for margin, right in scored if sum(margin > cut for cut in cuts) == k] for k in range(4)]
    return {
        f"{low:.2f} to {high:.2f}": found
        for low, high, right in zip(edges, edges[1:], groups, strict=False)
        if (found := Share.of(sum(right), len(right)))
    }


def self_agreement(rankings: Sequence[Ranking]) -> Share | None:
    """How often annotators order a pair again as they did before: over the screens that came back to them."""
    return _agreement([[each[0], later] for each in _by_screen(rankings).values() for later in each[1:]])


def mutual_agreement(rankings: Sequence[Ranking]) -> Share | None:
    """How often two annotators order a pair alike: over the screens that both have judged, the first time."""
    screens: dict[str, list[Ranking]] = defaultdict(list)
    for (_, screen), each in _by_screen(rankings).items():
        screens[screen].append(each[0])
    return _agreement([two for each in screens.values() for two in combinations(each, 2)])


def gold_agreement(rankings: Sequence[Ranking], gold: ScoreFunction) -> Share | None:
    """How often people order a pair as the gold judge does, a tie of its scores one half."""
    judged = []
    for ranking in [r for r in rankings if r.scores is None and r.pairs()][:JUDGED_BY_GOLD]:
        scores = [gold(ranking.prompt, text) for text in ranking.completions]
        judged += judge_pairs([ranking], [scores])
    return Share.of(sum(pair.right for pair in judged), len(judged))


def leaks(training: Sequence[Ranking], heldout: Sequence[Ranking], test_prompts: frozenset[str]) -> dict[str, int]:
    """What stands on both sides of the split, and what stands twice on one; the first two must be 0.

    Replies that occur on both sides are counted, since a short one may be sampled anywhere: no prompt comes with them.
    """
    ours, theirs = ({r.prompt for r in side} for side in (training, heldout))
    said, asked = ({text for r in side for text in r.completions} for side in (training, heldout))
    rows = Counter((r.prompt, tuple(r.completions), str(r.ranking), r.annotator) for r in training)
    return {
        "prompts_on_both_sides": len(ours & theirs),
        "test_prompts_in_training": len(ours & test_prompts),
        "replies_on_both_sides": len(said & asked),
        "rankings_twice": rows.total() - len(rows),
    }


def length_correlation(rewards: Sequence[float], lengths: Sequence[int]) -> float | None:
    """Spearman's rank correlation of reward and length; None where one of them does not vary."""
    if len(set(rewards)) < 2 or len(set(lengths)) < 2:
        return None
    return round(float(spearmanr(rewards, lengths).statistic), 4)


class Reading(NamedTuple):
    """A reply to read."""

    prompt: str
    reply: str
    reward: float
    gold: float


def extremes(
    rankings: Sequence[Ranking], rewards: Sequence[Sequence[float]], gold: ScoreFunction
) -> list[list[Reading]]:
    """[the highest, the lowest] replies by their reward, each text once."""
    found = {
        text: (ranking.prompt, reward)
        for ranking, of in zip(rankings, rewards, strict=True)
        for text, reward in zip(ranking.completions, of, strict=True)
    }
    ordered = sorted(found, key=lambda text: -found[text][1])
    ends = ordered[:EXTREMES], ordered[EXTREMES:][: -EXTREMES - 1 : -1]
    return [[Reading(found[t][0], t, found[t][1], gold(found[t][0], t)) for t in texts] for texts in ends]


def details(
    judged: Sequence[Judged],
    training: Sequence[Ranking],
    heldout: Sequence[Ranking],
    test_prompts: frozenset[str],
    label_ceiling: float | None,
    gold: ScoreFunction,
) -> dict[str, Any]:
    """What the page shows besides the metrics of `evaluate_reward`, as stage.json keeps it; None where there is none.

    label_ceiling: the best accuracy that the labels allow, where their noise is known.
    """
    everything = [*training, *heldout]
    with_self = self_agreement(everything)
    ceiling = with_self and {
        name: ceiling_from_agreement(value) for name, value in zip(Share._fields[:3], with_self, strict=False)
    }
    shares = {
        "accuracy": Share.of(sum(pair.right for pair in judged), len(judged)),
        "self_agreement": with_self,
        "mutual_agreement": mutual_agreement(everything),
        "gold_agreement": gold_agreement(everything, gold),
    }
    groups = {
        "by_source": accuracy_by(judged, source_of),
        "by_annotator": accuracy_by(judged, lambda pair: pair.ranking.annotator),
        "by_places": accuracy_by(judged, places_apart),
        "by_margin": accuracy_by_margin(judged),
    }
    return {
        **{name: share and share._asdict() for name, share in shares.items()},
        **{name: {key: share._asdict() for key, share in group.items()} for name, group in groups.items()},
        "ceiling_from_labels": label_ceiling,
        "ceiling_from_self_agreement": ceiling,
        "leaks": leaks(training, heldout, test_prompts),
    }


def write_report(
    path: Path,
    results: Mapping[str, Any],
    corpus: Mapping[str, Any],
    bins: Sequence[Bin],
    metrics: Sequence[Mapping[str, Any]],
    readings: Sequence[Sequence[Reading]],
) -> None:
    """Write the page; `results` has the `details`, `metrics` are the lines of metrics.jsonl."""
    found = results["details"]
    points = [line for line in metrics if line.get("heldout_accuracy") is not None]
    learning = curve(points, "comparisons", "heldout_accuracy")
    write_page(
        path,
        Path(__file__).parent,
        "report.html.j2",
        results=results,
        details=found,
        notice=corpus["notice"],
        corpus=corpus["name"],
        charts=[(title, meaning, _dots(found[key], title)) for key, title, meaning in GROUPS if found[key]],
        calibration=Markup(calibration_chart({"held-out": [(b.predicted, b.observed) for b in bins]}, ["sft"]))
        if bins
        else None,
        learning=Markup(curve_chart({"": learning}, "comparisons", "held-out accuracy", ["rlhf"], logarithmic=True))
        if len(points) > 1
        else None,
        points=points,
        readings=[(name, each) for name, each in zip(("Highest", "Lowest"), readings, strict=True) if each],
    )


GROUPS = (
    ("by_source", "By source", "the file that was read, or whose replies were sampled"),
    ("by_annotator", "By annotator", "who ranked"),
    ("by_places", "By distance in the ranking", "how many places apart the two replies are"),
    ("by_margin", "By margin", "how far apart the annotator's own scores are, in quarters of the pairs"),
)
"""Key in the details, title and meaning of the charts of accuracy."""


def _dots(shares: Mapping[str, Mapping[str, Any]], title: str) -> Markup:
    rows = {
        f"{_shortened(name)} ({share['n']:,})": [Dot(share["share"], share["low"], share["high"], "sft")]
        for name, share in shares.items()
    }
    return Markup(dot_chart(rows, "share of pairs right", f"Accuracy {title.lower()}", 0.5))


def _shortened(name: str) -> str:
    """At most 24 characters, the middle left out, of one line."""
    name = " ".join(name.split())
    return name if len(name) <= 24 else f"{name[:12]}…{name[-11:]}"


def _by_screen(rankings: Sequence[Ranking]) -> dict[tuple[str, str], list[Ranking]]:
    """What an annotator said of a screen, in the order in which it was said."""
    said: dict[tuple[str, str], list[Ranking]] = defaultdict(list)
    for ranking in sorted((r for r in rankings if r.screen is not None), key=lambda r: r.time or ""):
        said[ranking.annotator, str(ranking.screen)].append(ranking)
    return said


def _agreement(twos: Sequence[Sequence[Ranking]]) -> Share | None:
    return Share.of(*pair_agreement((first.ranking, second.ranking) for first, second in twos))
