"""The blind booth: two unmarked replies to a held-out prompt, and a vote that is on disk before the next."""

import random
import threading
import uuid
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

from data.console import UserError
from data.directions.headings import directed, last_speaker
from data.jsonl import append_jsonl, read_appended
from data.run.options import check_name
from rlhf.judging.cast import Cast, Sampling
from rlhf.judging.votes import count_votes, undirected_and_directed

OPEN = 1000
"""Pairs that may be shown without a vote before the oldest is forgotten."""
DRAWS = 8
"""Pairs that are drawn for one whose replies differ."""


class Booth:
    """Shows pairs and takes votes, into RUN/votes.jsonl."""

    def __init__(self, cast: Cast, rng: random.Random | None = None) -> None:
        self.cast, self.path, self.rng = cast, cast.run / "votes.jsonl", rng or random.Random()
        self._shown: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    @property
    def pairs(self) -> dict[str, tuple[str, str]]:
        """What can be compared: "KEY KEY" of two speakers, the aligned model next to the SFT model first."""
        pairs = sorted(combinations(self.cast.speakers, 2), key=lambda pair: pair != ("sft", "rlhf"))
        return {" ".join(pair): pair for pair in pairs}

    def draw(self, pair: str, heldout: bool = True) -> dict[str, Any]:
        """{"id", "prompt", "completions"}: whose they are is not told before the vote.

        In a run with directions half of the prompts ask for something.
        heldout: prompts that nothing learns from, so that the votes judge; else those of the training text, so that the
        votes can be learned from too.
        """
        if (keys := self.pairs.get(pair)) is None:
            raise UserError(f"there is no pair {pair!r:.80}: {self.cast.run} has {', '.join(self.cast.speakers)}")
        asked = self.cast.heldout if heldout else self.cast.training
        if not asked:
            raise UserError("the run's text holds no dialogue to ask about")
        for _ in range(DRAWS):
            prompt, policies = self.rng.choice(asked).prompt, list(self.rng.sample(keys, 2))
            if (table := self.cast.directions) and self.rng.random() < 0.5:
                prompt = directed(
                    prompt, [table.draw(self.rng.choice(table.main_kinds), self.rng, last_speaker(prompt))]
                )
            replies = [
                self.cast.reply(prompt, who, Sampling(seed=self.rng.getrandbits(31), length=self.cast.length))
                for who in policies
            ]
            if replies[0]["text"] != replies[1]["text"]:
                break
        id = uuid.uuid4().hex
        shown = {"id": id, "prompt": prompt, "completions": [reply["text"] for reply in replies]}
        with self._lock:
            self._shown[id] = shown | {
                "stopped": [reply["stopped"] for reply in replies],
                "policies": policies,
                "heldout": heldout,
            }
            for forgotten in list(self._shown)[:-OPEN]:
                del self._shown[forgotten]
        return shown

    def vote(self, id: str, choice: int | None, annotator: str) -> dict[str, Any]:
        """Take the choice between the replies of `draw`, unless it was taken before: {"titles", "rates"}."""
        check_name("annotator", annotator)
        if choice not in (0, 1, None) or isinstance(choice, bool):
            raise UserError("the choice is 0, 1 or null, a tie")
        with self._lock:
            taken = next((vote for vote in read_appended(self.path) if vote["id"] == id), None)
            if taken is None:
                if (shown := self._shown.get(id)) is None:
                    raise UserError("these replies are no longer open: draw the next ones")
                taken = shown | {
                    "choice": choice,
                    "annotator": annotator,
                    "time": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                append_jsonl(self.path, taken)
        return {"titles": [self.title(policy) for policy in taken["policies"]], "rates": self.rates()}

    def rates(self) -> list[dict[str, Any]]:
        """How often a policy won over another, by all votes of the run: {"first", "second", "rate", "low", …, "n"}.

        Votes on prompts that ask for something are counted apart; `second` says so.
        """
        groups = undirected_and_directed(read_appended(self.path), self.cast.specs)
        return [
            {"first": self.title(first), "second": self.title(second) + where, **rate._asdict()}
            for where, votes in zip(("", ", as directed"), groups, strict=True)
            for (first, second), rate in count_votes(votes).items()
        ]

    def title(self, policy: str) -> str:
        speaker = self.cast.speakers.get(policy)
        return speaker.title if speaker else policy
