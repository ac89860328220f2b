"""Blind votes, a line of votes.jsonl each: two unmarked replies, which was chosen, and how often a policy wins.

{"id", "prompt", "completions": [A, B], "stopped": [A, B], "policies": [A, B], "choice": 0, 1 or null (a tie),
"annotator", "time"}
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.console import UserError
from data.directions.headings import directions_of
from data.directions.specs import Spec
from data.jsonl import read_jsonl
from rlhf.judging.metrics import WinRate, win_rate
from rlhf.judging.sources import STAGES


def read_votes(path: str | Path) -> list[dict[str, Any]]:
    """The votes of a file; UserError, with file and line, for a line that is none."""
    return [*read_jsonl(path, {"prompt": str, "completions": list[str], "policies": list[str]}, _check)]


def distinct_votes(votes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The votes, each once: of those with the same id the first one."""
    once: dict[object, Mapping[str, Any]] = {}
    for number, vote in enumerate(votes):
        once.setdefault(vote.get("id") or number, vote)
    return [*once.values()]


def undirected_and_directed(
    votes: Iterable[Mapping[str, Any]], specs: Sequence[Spec]
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The votes, each once, on prompts that ask for nothing, and those on prompts with a direction of the table."""
    groups: tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]] = [], []
    for vote in distinct_votes(votes):
        groups[bool(directions_of(vote["prompt"], specs))].append(vote)
    return groups


def count_votes(votes: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], WinRate]:
    """(first, second) -> how often the reply of the policy `first` was chosen; a tie counts one half.

    A vote counts once, by its id if it has one. Of two policies the first is the one that comes later in the pipeline;
    a taste comes after the stages. The pairs are in that order too.
    """
    chosen: dict[tuple[str, str], list[float]] = {}
    for vote in distinct_votes(votes):
        second, first = sorted(vote["policies"], key=_place)
        winner = 0.5 if vote["choice"] is None else float(vote["policies"][vote["choice"]] == first)
        chosen.setdefault((first, second), []).append(winner)
    pairs = sorted(chosen, key=lambda pair: (_place(pair[1]), _place(pair[0])))
    return {pair: win_rate(chosen[pair], [1 - winner for winner in chosen[pair]]) for pair in pairs}


def _place(policy: str) -> tuple[int, str]:
    return (STAGES.index(policy) if policy in STAGES else len(STAGES)), policy


def _check(row: dict[str, Any]) -> None:
    """A row is a vote (UserError)."""
    if len(row["completions"]) != 2 or len(set(row["policies"])) != 2 or len(row["policies"]) != 2:
        raise UserError("a vote is between two completions of two different policies")
    if "choice" not in row or row["choice"] not in (0, 1, None) or isinstance(row["choice"], bool):
        raise UserError('"choice" must be 0 or 1, the completion that was chosen, or null for a tie')
