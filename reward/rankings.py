"""Rankings: K responses to one prompt in an order, as token ids in memory and as JSON lines on disk.

rankings.jsonl is the source of truth: {"prompt", "completions": […], "stopped": […], "ranking":
[[2], [0, 3], [1]], "annotator", "policy", "seed"}; a ranking groups indices of completions, best first, ties
together. pairs.jsonl, {"prompt", "chosen", "rejected"}, is derived from it.

What was sampled stays the tokens that were sampled: text read back from a file may be tokenised in
another way than the model wrote it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.console import UserError
from data.dialogue import encode_prompt
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

    def sequence(self, index: int) -> list[int]:
        """Token ids of the prompt and of one completion."""
        return self.prompt_ids + self.completion_ids[index]

    def to_json(self, with_ids: bool = False) -> dict[str, Any]:
        """A line of rankings.jsonl; with the token ids, what `from_json` rebuilds exactly."""
        values = dict(vars(self))
        if not with_ids:
            del values["prompt_ids"], values["completion_ids"]
        return {name: value for name, value in values.items() if value is not None}


def write_rankings(path: Path, rankings: Iterable[Ranking], with_ids: bool = False) -> None:
    write_jsonl(path, (ranking.to_json(with_ids) for ranking in rankings))


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
    """Rankings written with their ids."""
    return [Ranking(**row) for row in read_jsonl(path, {"prompt_ids": list[int], "completion_ids": list})]


def read_rankings(path: str | Path, tokenizer: Tokenizer, prompt_length: int, response_length: int) -> list[Ranking]:
    """Rankings from a file that people or other programs wrote.

    Required: prompt, completions, ranking. `stopped` defaults to true for all, `annotator` to the file's
    name. Prompt and completion are tokenised apart; a prompt loses its beginning beyond `prompt_length`
    tokens. UserError, with file and line, for a broken line, a ranking that is no permutation of its
    completions, fewer than two completions, or a completion longer than `response_length` tokens with its
    end: a reward model that sees less than the person saw would learn from a wrong label.
    """
    rows = read_jsonl(path, {"prompt": str, "completions": list[str], "ranking": list[list[int]]})
    lines = _line_numbers(path)
    return [
        _checked(row, f"{path}, line {line}", Path(path).name, tokenizer, prompt_length, response_length)
        for row, line in zip(rows, lines, strict=True)
    ]


def split_by_prompt(
    rankings: Sequence[Ranking], heldout_prompts: frozenset[str], every: int = 10
) -> tuple[list[Ranking], list[Ranking]]:
    """(training, held out): every `every`-th distinct prompt is held out, and all of `heldout_prompts`.

    All rankings of a prompt stand on one side.
    """
    order: dict[str, int] = {}
    for ranking in rankings:
        if ranking.prompt not in heldout_prompts:
            order.setdefault(ranking.prompt, len(order))
    heldout = [r for r in rankings if r.prompt in heldout_prompts or order[r.prompt] % every == every - 1]
    training = [r for r in rankings if r.prompt not in heldout_prompts and order[r.prompt] % every != every - 1]
    return training, heldout


def _checked(
    row: dict[str, Any], where: str, name: str, tokenizer: Tokenizer, prompt_length: int, response_length: int
) -> Ranking:
    completions = row["completions"]
    if len(completions) < 2:
        raise UserError(f"{where}: a ranking needs at least 2 completions, not {len(completions)}")
    if not row["prompt"]:
        raise UserError(f'{where}: "prompt" is empty; a response needs something to respond to')
    stopped = row.get("stopped", [True] * len(completions))
    if not (isinstance(stopped, list) and len(stopped) == len(completions) and {*map(type, stopped)} == {bool}):
        raise UserError(f'{where}: "stopped" must hold true or false for each of the {len(completions)} completions')
    seed = row.get("seed", 0)
    if not isinstance(seed, int):
        raise UserError(f'{where}: "seed" must be an integer')
    ends = [[tokenizer.eos_id] if stop else [] for stop in stopped]
    ids = [tokenizer.encode(text) + end for text, end in zip(completions, ends, strict=True)]
    for index, tokens in enumerate(ids):
        if not 0 < len(tokens) <= response_length:
            raise UserError(
                f"{where}: completion {index} has {len(tokens)} tokens, its end included; "
                f"1 to response_length {response_length} fit: raise --response-length or remove it"
            )
    ranking = Ranking(
        prompt=row["prompt"],
        completions=completions,
        stopped=stopped,
        ranking=row["ranking"],
        annotator=str(row.get("annotator", name)),
        policy=str(row.get("policy", "unknown")),
        seed=seed,
        prompt_ids=encode_prompt(tokenizer, row["prompt"], prompt_length),
        completion_ids=ids,
    )
    try:
        ranking.pairs()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return replace(ranking, ranking=[group for group in ranking.ranking if group])


def _line_numbers(path: str | Path) -> list[int]:
    """The numbers of the lines that `read_jsonl` makes rows of."""
    content = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    return [number for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
