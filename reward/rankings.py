"""Rankings: K responses to one prompt in an order, as token ids in memory and as JSON lines on disk.

rankings.jsonl is the source of truth: {"prompt", "completions": […], "stopped": […], "ranking":
[[2], [0, 3], [1]], "annotator", "policy", "seed"}; a ranking groups indices of completions, best first, ties
together, and leaves out what was not placed. What a person judged has an "id", "time", "seconds" and "screen" too, and
"all_bad" where none of the replies was any good: one group of ties. pairs.jsonl, {"prompt", "chosen", "rejected"},
is derived from it.

What was sampled stays the tokens that were sampled: text read back from a file may be tokenised in
another way than the model wrote it. So the files of a run hold "prompt_ids" and "completion_ids" too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from data.console import UserError
from data.dialogue import Completion, encode_completion, encode_prompt
from data.jsonl import Kind, Row, read_jsonl, write_jsonl
from data.tokenizers import Tokenizer
from reward.labeller import ranking_to_pairs

OPTIONAL: dict[str, Kind] = {
    "id": str,
    "time": str,
    "seconds": (int, float),
    "screen": str,
    "all_bad": bool,
    "policies": list[str],
    "seed": int,
}
"""Keys that a line of people's rankings may have, besides `stopped`, `annotator` and `policy`."""
KEPT = ("id", "time", "seconds", "screen", "all_bad", "policies")
"""Of these, what a ranking keeps as it is."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One prompt, its K responses and their order."""

    prompt: str
    completions: list[str]
    stopped: list[bool]
    """Whether a response ended by itself, that is, with `<|endoftext|>`."""
    ranking: list[list[int]]
    """Indices of the completions, best first, ties grouped; a partial ranking leaves some out."""
    annotator: str
    policy: str
    seed: int
    prompt_ids: list[int]
    completion_ids: list[list[int]]
    """Token ids of each completion, its `<|endoftext|>` included if it stopped."""
    scores: list[float] | None = None
    """The annotator's scores before the noise, where there are any."""
    weight: float = 1.0
    """What the loss of each of its pairs is multiplied by."""
    source: str | None = None
    """The file that it was read from; None for what this stage sampled and scored."""
    id: str | None = None
    """Names one judgement of a person, whatever file it is in."""
    time: str | None = None
    """When it was made, ISO 8601."""
    seconds: float | None = None
    """How long the annotator looked."""
    screen: str | None = None
    """Names what was shown; two judgements of one screen by one annotator say how far they agree with themselves."""
    all_bad: bool = False
    """Whether the annotator found none of the replies any good: one group of ties."""
    policies: list[str] | None = None
    """Who wrote each of the completions, where that is not one `policy`."""

    def pairs(self) -> list[tuple[int, int]]:
        """(better, worse) indices: up to K choose 2; tied and identical completions make no pair."""
        return ranking_to_pairs(self.prompt, self.completions, self.ranking)

    def to_json(self) -> dict[str, Any]:
        """A line of rankings.jsonl; what is as by default is left out."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}


class ReadRankings(NamedTuple):
    """Rankings made elsewhere, and what did not fit."""

    rankings: list[Ranking]
    cut: int
    """How many replies were cut to `response_length` tokens."""
    dropped: int
    """How many replies were left out, since not even their first sentence fits."""
    repeated: int = 0
    """How many lines were left out, since their id was there before."""


def write_rankings(path: Path, rankings: Iterable[Ranking]) -> None:
    write_jsonl(path, (ranking.to_json() for ranking in rankings))


def write_pairs(path: Path, rankings: Iterable[Ranking]) -> None:
    """pairs.jsonl: every pair of every ranking, as text."""
    write_jsonl(
        path,
        (
            {"prompt": r.prompt, "chosen": r.completions[better], "rejected": r.completions[worse]}
            for r in rankings
            for better, worse in r.pairs()
        ),
    )


def read_collected(path: Path) -> list[Ranking]:
    """Rankings as `write_rankings` left them, token ids and all; UserError where there are none."""
    return [Ranking(**row) for row in read_jsonl(path, {"prompt_ids": list[int], "completion_ids": list})]


def read_rankings(
    paths: str | Path | Sequence[str | Path],
    tokenizer: Tokenizer,
    prompt_length: int,
    response_length: int,
    weights: Sequence[float] = (),
) -> ReadRankings:
    """Rankings and votes from files that people or other programs wrote, `weights[i]` (default 1) that of the i-th.

    Required: prompt, completions, ranking. `stopped` defaults to true for all, `annotator` to the file's
    name. Instead of a ranking, a vote between two completions has `choice`: 0, 1 or, for a tie, null. Of the lines that
    share an `id` the first counts. Prompt and completion are tokenised apart, except where a line has the ids that
    were sampled, `prompt_ids` and `completion_ids`, and this tokenizer reads them as those texts. A prompt loses its
    beginning beyond `prompt_length` tokens. A completion beyond `response_length` tokens, its end included, is cut at
    the end of a sentence, as fine-tuning cuts; one that did not stop is cut at that many tokens, as a sample is. Where
    no sentence fits, the completion is left out, and a ranking that keeps fewer than two with it. UserError, with file
    and line, for a broken line, a ranking that names what is not among its completions or one of them twice, fewer than
    two completions, or a file in which no prompt, or no ranking, fits the model.
    """
    files = [paths] if isinstance(paths, str | Path) else paths
    found = ReadRankings([], 0, 0)
    seen: set[str] = set()
    for path, weight in zip(files, weights or [1.0] * len(files), strict=True):
        reader = _Reader(str(path), weight, tokenizer, prompt_length, response_length)
        read = reader.read(seen)
        found = ReadRankings(found.rankings + read.rankings, *(a + b for a, b in zip(found[1:], read[1:], strict=True)))
    return found


class _Reader:
    """Reads one file of people's rankings for one model."""

    def __init__(
        self, path: str, weight: float, tokenizer: Tokenizer, prompt_length: int, response_length: int
    ) -> None:
        self.path, self.weight, self.tokenizer = path, weight, tokenizer
        self.prompt_length, self.response_length = prompt_length, response_length

    def read(self, seen: set[str]) -> ReadRankings:
        """The file's rankings; `seen` are the ids so far, and gets those of this file."""
        rows = read_jsonl(self.path, {"prompt": str, "completions": list[str]}, self._check, OPTIONAL)
        rankings: list[Ranking] = []
        cut = dropped = repeated = 0
        for row in rows:
            if row.get("id") in seen:
                repeated += 1
                continue
            seen.update([row["id"]] if "id" in row else [])
            kept = self._encoded(row)
            cut += sum(completion.cut for completion in kept.values())
            dropped += len(row["completions"]) - len(kept)
            if len(kept) > 1:
                rankings.append(self._ranking(row, kept))
        if repeated < len(rows):
            self._check_fit(rows, rankings)
        return ReadRankings(rankings, cut, dropped, repeated)

    def _check(self, row: dict[str, Any]) -> None:
        _check(row)
        for text in (row["prompt"], *row["completions"]):
            self.tokenizer.check(text)

    def _encoded(self, row: dict[str, Any]) -> dict[int, Completion]:
        """The completions that fit, by their index in the row."""
        count, sampled = len(row["completions"]), row.get("completion_ids")
        if not isinstance(sampled, list) or len(sampled) != count:
            sampled = [None] * count
        encoded = [
            Completion(ids, cut=False)
            if (ids := self._sampled(given, text, stop))
            else _encode(self.tokenizer, text, stop, self.response_length)
            for given, text, stop in zip(sampled, row["completions"], row["stopped"], strict=True)
        ]
        return {index: completion for index, completion in enumerate(encoded) if completion is not None}

    def _sampled(self, ids: Any, text: str, stopped: bool | None) -> list[int] | None:
        """`ids` if they are those that this tokenizer reads as `text` and that fit; None otherwise.

        `stopped` says whether the last is `<|endoftext|>`; None is for a prompt, whose beginning may be missing.
        """
        tokenizer = self.tokenizer
        if not (isinstance(ids, list) and ids):
            return None
        ordinary = ids[:-1] if stopped else ids
        if not (all(type(id) is int and 0 <= id < tokenizer.eos_id for id in ordinary)):
            return None
        read = tokenizer.decode(ordinary)
        if stopped is None:
            return ids if read and text.endswith(read) and len(ids) <= self.prompt_length else None
        ends = not stopped or ids[-1] == tokenizer.eos_id
        return ids if read == text and ends and len(ids) <= self.response_length else None

    def _ranking(self, row: dict[str, Any], kept: dict[int, Completion]) -> Ranking:
        """The row's ranking of the completions that fit."""
        place = {index: number for number, index in enumerate(kept)}
        groups = [[place[index] for index in group if index in place] for group in row["ranking"]]
        values = {name: row[name] for name in KEPT if name in row}
        if "policies" in row:
            values["policies"] = [row["policies"][index] for index in kept]
        return Ranking(
            prompt=row["prompt"],
            completions=[
                self.tokenizer.decode(completion.ids) if completion.cut else row["completions"][index]
                for index, completion in kept.items()
            ],
            stopped=[row["stopped"][index] for index in kept],
            ranking=[group for group in groups if group],
            annotator=str(row.get("annotator", Path(self.path).name)),
            policy=str(row.get("policy", " / ".join(dict.fromkeys(row.get("policies", []))) or "unknown")),
            seed=row.get("seed", 0),
            prompt_ids=self._sampled(row.get("prompt_ids"), row["prompt"], None)
            or encode_prompt(self.tokenizer, row["prompt"], self.prompt_length),
            completion_ids=[completion.ids for completion in kept.values()],
            weight=self.weight,
            source=self.path,
            **values,
        )

    def _check_fit(self, rows: Sequence[Row], rankings: Sequence[Ranking]) -> None:
        """UserError where nothing in the file fits this model: it was made for another.

        A file of which some prompts are too long is as usual; they lose their beginning, as they do in sampling.
        """
        room = self.prompt_length + self.response_length
        shortest = min(len(self.tokenizer.encode(row["prompt"])) for row in rows)
        if shortest > room:
            raise UserError(
                f"{rows[0].where} and all others: a prompt has {shortest} tokens or more, and prompt and response "
                f"together have room for {room}: rank replies to shorter prompts"
            )
        if not rankings:
            raise UserError(
                f"{rows[0].where} and all others: fewer than two replies fit in {self.response_length} tokens, "
                "the longest response of this run: rank shorter replies"
            )


def split_by_prompt(
    rankings: Sequence[Ranking], heldout_prompts: frozenset[str]
) -> tuple[list[Ranking], list[Ranking]]:
    """(training, held out): every tenth distinct prompt is held out, and all of `heldout_prompts`.

    Of 5 to 9 prompts the last is held out, of fewer none. Prompts whose rankings make no pair do not count: nothing
    can be judged by them. All rankings of a prompt stand on one side.
    """
    telling = dict.fromkeys(r.prompt for r in rankings if r.prompt not in heldout_prompts and r.pairs())
    others = [*telling]
    held_out = heldout_prompts.union(others[9::10] if len(others) >= 10 else others[4:][-1:])
    return [r for r in rankings if r.prompt not in held_out], [r for r in rankings if r.prompt in held_out]


def _check(row: dict[str, Any]) -> None:
    """A row is a ranking of its completions or a vote between two (UserError); it gets its `ranking` and `stopped`."""
    completions = row["completions"]
    if len(completions) < 2:
        raise UserError(f"a ranking needs at least 2 completions, not {len(completions)}")
    if not row["prompt"]:
        raise UserError('"prompt" is empty; a response needs something to respond to')
    stopped = row.setdefault("stopped", [True] * len(completions))
    if not (isinstance(stopped, list) and len(stopped) == len(completions) and {*map(type, stopped)} == {bool}):
        raise UserError(f'"stopped" must hold true or false for each of the {len(completions)} completions')
    if len(row.get("policies", completions)) != len(completions):
        raise UserError(f'"policies" must name one for each of the {len(completions)} completions')
    for index, (text, stop) in enumerate(zip(completions, stopped, strict=True)):
        if not (text or stop):
            raise UserError(f"completion {index} is empty and did not stop, so it has no token: remove it")
    if "ranking" not in row:
        row["ranking"] = _ranking_of_vote(row)
    ranking = row["ranking"]
    if not (
        isinstance(ranking, list) and all(isinstance(group, list) and {*map(type, group)} <= {int} for group in ranking)
    ):
        raise UserError('"ranking" must be a list of lists of integers, best first, for example [[2], [0, 1]]')
    ranking_to_pairs(row["prompt"], completions, ranking)
    if row.get("all_bad") and len(ranking) != 1:
        raise UserError('"all_bad" is true, and "ranking" is not one group of ties: correct one of them')


def _ranking_of_vote(row: dict[str, Any]) -> list[list[int]]:
    """The ranking that a vote between two completions is: `choice` is 0, 1, or null for a tie."""
    if "choice" not in row:
        raise UserError('the key "ranking" is missing (a vote has "choice"); needed: prompt, completions, ranking')
    choice = row["choice"]
    if len(row["completions"]) != 2 or not (choice is None or (type(choice) is int and choice in (0, 1))):
        raise UserError('a vote is between 2 completions, and its "choice" is 0, 1 or null: correct it')
    return [[0, 1]] if choice is None else [[choice], [1 - choice]]


def _encode(tokenizer: Tokenizer, text: str, stopped: bool, response_length: int) -> Completion | None:
    """A completion as token ids, at most `response_length`; None where not even its first sentence fits."""
    if stopped:
        return encode_completion(tokenizer, text, response_length)
    ids = tokenizer.encode(text)
    return Completion(ids[:response_length], cut=len(ids) > response_length)
