"""People's votes in the comparison: how often each policy was chosen, by whom, and whether the gold judge agrees."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from data.directions.specs import Spec
from rlhf.judging.metrics import TIE, share
from rlhf.judging.sources import SOURCES
from rlhf.judging.votes import count_votes, undirected_and_directed

Gold = Callable[[str, str], float]
"""(prompt, reply) -> score."""


def tally_votes(votes: Iterable[Mapping[str, Any]], gold: Gold, specs: Sequence[Spec] = ()) -> dict[str, Any]:
    """What votes say: {"votes", "pairs", "gold"}.

    Each of `pairs` has `first` and `second`, `directed` (whether it counts the votes on prompts with directions of the
    table `specs`, or the other ones), how often the first was chosen (`rlhf.judging.metrics.WinRate`), the same
    `by_annotator`, and `gold`: in which share of its votes the gold judge scores the chosen reply higher, with
    Wilson's 95 % interval. Ties, of people or of the gold judge, are not in that share; without others it is None.
    """
    groups = undirected_and_directed(votes, specs)
    pairs = []
    for directed, once in enumerate(groups):
        for (first, second), rate in count_votes(once).items():
            here = [vote for vote in once if {*vote["policies"]} == {first, second}]
            names = dict.fromkeys(_annotator(vote) for vote in here)
            by_annotator = {
                name: count_votes(vote for vote in here if _annotator(vote) == name)[first, second]._asdict()
                for name in sorted(names)
            }
            pairs.append(
                {"first": first, "second": second, "directed": bool(directed)}
                | rate._asdict()
                | {"by_annotator": by_annotator, "gold": agreement(here, gold)}
            )
    once = [vote for group in groups for vote in group]
    return {"votes": len(once), "pairs": pairs, "gold": agreement(once, gold)}


def agreement(votes: Iterable[Mapping[str, Any]], gold: Gold) -> dict[str, Any] | None:
    """In which share of the votes that decide, the gold judge decides the same; None where there are none."""
    agrees = []
    for vote in votes:
        first, second = (gold(vote["prompt"], text) for text in vote["completions"])
        if vote["choice"] is not None and abs(first - second) > TIE:
            agrees.append((second > first) == bool(vote["choice"]))
    return share(agrees)._asdict() if agrees else None


def title_of(policy: str) -> str:
    """What a policy is called, by its name in a vote: a stage or tastes/NAME."""
    return SOURCES[policy].title if policy in SOURCES else policy.removeprefix("tastes/")


def colour_of(policy: str) -> str:
    return SOURCES[policy].colour if policy in SOURCES else "taste"


def _annotator(vote: Mapping[str, Any]) -> str:
    return str(vote.get("annotator", "unknown"))
