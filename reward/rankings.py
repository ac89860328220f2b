"""Rankings: K responses to one prompt in an order, as token ids in memory and as JSON lines on disk.

rankings.jsonl is the source of truth: {"prompt", "completions": […], "stopped": […], "ranking":
[[2], [0, 3], [1]], "annotator", "policy", "seed"}; a ranking groups indices of completions, best first, ties
together. pairs.jsonl, {"prompt", "chosen", "rejected"}, is derived from it.

What was sampled stays the tokens that were sampled: text read back from a file may be tokenised in
another way than the model wrote it. So the files of a run hold "prompt_ids" and "completion_ids" too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data.console import UserError
from data.dialogue import Completion, encode_completion, encode_prompt
from data.jsonl import read_jsonl, write_jsonl
from data.tokenizers import Tokenizer
from reward.labeller import ranking_to_pairs


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One prompt, its K responses and their order."""

    prompt: str
    completions: list[str]
    stopped: list[bool]
    """Whether a response ended by itself, that is, with `<|endoftext|>`."""
    ranking: list[list[int]]
    """Indices of the completions, best first, ties grouped."""
    annotator: str
    policy: str
    seed: int
    prompt_ids: list[int]
    completion_ids: list[list[int]]
    """Token ids of each completion, its `<|endoftext|>` included if it stopped."""
    scores: list[float] | None = None
    """The annotator's scores before the noise, where there are any."""

    def pairs(self) -> list[tuple[int, int]]:
        """(better, worse) indices: up to K choose 2; tied and identical completions make no pair."""
        return ranking_to_pairs(self.prompt, self.completions, self.ranking)

    def to_json(self) -> dict[str, Any]:
        """A line of rankings.jsonl."""
        return {name: value for name, value in vars(self).items() if value is not None}


class ReadRankings(NamedTuple):
    """Rankings made elsewhere, and what did not fit."""

    rankings: list[Ranking]
    cut: int
    """How many replies were cut to `response_length` tokens."""
    dropped: int
    """How many replies were left out, since not even their first sentence fits."""


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


def read_rankings(path: str | Path, tokenizer: Tokenizer, prompt_length: int, response_length: int) -> ReadRankings:
    """Rankings from a file that people or other programs wrote; token ids in it are those of another tokenizer.

    Required: prompt, completions, ranking. `stopped` defaults to true for all, `annotator` to the file's
    name. Prompt and completion are tokenised apart; a prompt loses its beginning beyond `prompt_length`
    tokens. A completion beyond `response_length` tokens, its end included, is cut at the end of a sentence, as
    fine-tuning cuts; one that did not stop is cut at that many tokens, as a sample is. Where no sentence fits,
    the completion is left out, and a ranking that keeps fewer than two with it. UserError, with file and line,
    for a broken line, a ranking that is no permutation of its completions, or fewer than two completions.
    """
    rows = read_jsonl(path, {"prompt": str, "completions": list[str], "ranking": list[list[int]]}, _check)
    rankings: list[Ranking] = []
    cut = dropped = 0
    for row in rows:
        stopped = row.get("stopped", [True] * len(row["completions"]))
        encoded = [
            _encode(tokenizer, text, stop, response_length)
            for text, stop in zip(row["completions"], stopped, strict=True)
        ]
        kept = {index: completion for index, completion in enumerate(encoded) if completion is not None}
        cut += sum(completion.cut for completion in kept.values())
        dropped += len(encoded) - len(kept)
        if len(kept) < 2:
            continue
        place = {index: number for number, index in enumerate(kept)}
        groups = [[place[index] for index in group if index in place] for group in row["ranking"]]
        rankings.append(
            Ranking(
                prompt=row["prompt"],
                completions=[
                    tokenizer.decode(completion.ids) if completion.cut else row["completions"][index]
                    for index, completion in kept.items()
                ],
                stopped=[stopped[index] for index in kept],
                ranking=[group for group in groups if group],
                annotator=str(row.get("annotator", Path(path).name)),
                policy=str(row.get("policy", "unknown")),
                seed=row.get("seed", 0),
                prompt_ids=encode_prompt(tokenizer, row["prompt"], prompt_length),
                completion_ids=[completion.ids for completion in kept.values()],
            )
        )
    return ReadRankings(rankings, cut, dropped)


def split_by_prompt(
    rankings: Sequence[Ranking], heldout_prompts: frozenset[str]
) -> tuple[list[Ranking], list[Ranking]]:
    """(training, held out): every tenth distinct prompt is held out, and all of `heldout_prompts`.

    All rankings of a prompt stand on one side.
    """
    others = [prompt for prompt in dict.fromkeys(r.prompt for r in rankings) if prompt not in heldout_prompts]
    held_out = heldout_prompts.union(others[9::10])
    return [r for r in rankings if r.prompt not in held_out], [r for r in rankings if r.prompt in held_out]


def _check(row: dict[str, Any]) -> None:
    """A row is a ranking of its completions (UserError)."""
    completions = row["completions"]
    if len(completions) < 2:
        raise UserError(f"a ranking needs at least 2 completions, not {len(completions)}")
    if not row["prompt"]:
        raise UserError('"prompt" is empty; a response needs something to respond to')
    stopped = row.get("stopped", [True] * len(completions))
    if not (isinstance(stopped, list) and len(stopped) == len(completions) and {*map(type, stopped)} == {bool}):
        raise UserError(f'"stopped" must hold true or false for each of the {len(completions)} completions')
    if not isinstance(row.get("seed", 0), int):
        raise UserError('"seed" must be an integer')
    for index, (text, stop) in enumerate(zip(completions, stopped, strict=True)):
        if not (text or stop):
            raise UserError(f"completion {index} is empty and did not stop, so it has no token: remove it")
    ranking_to_pairs(row["prompt"], completions, row["ranking"])


def _encode(tokenizer: Tokenizer, text: str, stopped: bool, response_length: int) -> Completion | None:
    """A completion as token ids, at most `response_length`; None where not even its first sentence fits."""
    if stopped:
        return encode_completion(tokenizer, text, response_length)
    ids = tokenizer.encode(text)
    return Completion(ids[:response_length], cut=len(ids) > response_length)
