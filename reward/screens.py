"""Screens: a prompt with K replies for people to rank. How they are drawn, what comes next, what a judgement is."""

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.console import UserError
from data.corpus import Corpus
from data.dialogue import dialogue_pairs, encode_prompt, heldout_pairs
from data.jsonl import read_texts
from data.run.options import check_name, check_ranges
from data.run.record import StageRecord
from data.tokenizers import Tokenizer
from reward.labeller import ranking_to_pairs

REPEAT_EVERY = 10
"""Of so many screens the last is an earlier one, for the annotator's agreement with themselves."""

Row = dict[str, Any]


# ---- which comes next, and what is said of it ----


def next_screen(annotator: str, rows: Sequence[Row], screens: Sequence[Row]) -> tuple[Row | None, list[int], bool]:
    """After the judgements `rows`: a screen (None: there is none yet), the order of its replies, whether it comes back.

    It follows from the arguments alone: asked again, the answer is the same.
    """
    judged, repeated = {row["screen"] for row in rows}, {row["screen"] for row in rows if row["repeat"]}
    screen = next((screen for screen in screens if screen["id"] not in judged), None)
    if screen is None:
        return None, [], False
    rng, before = random.Random(f"{annotator} {len(rows)}"), None
    earlier = [row for row in rows[:-3] if row["ranking"] and row["screen"] not in repeated]
    if earlier and len(rows) % REPEAT_EVERY == REPEAT_EVERY - 1:
        before = rng.choice(earlier)
        screen = next(screen for screen in screens if screen["id"] == before["screen"])
    order = list(range(len(screen["completions"])))
    rng.shuffle(order)
    while before and order == before["shown"]:
        rng.shuffle(order)
    return screen, order, before is not None


def judgement_of(values: Mapping[str, Any], rows: Sequence[Row], screens: Sequence[Row]) -> Row:
    """The line of rankings.jsonl for what an annotator said of their next screen, after `rows`; UserError otherwise.

    values: annotator, id, screen, seconds, all_bad, and ranking: indices of completions, best first, ties grouped,
    without those that were not placed; [] skips the screen.
    """
    screen, shown, repeat = next_screen(values["annotator"], rows, screens)
    if screen is None or values["screen"] != screen["id"]:
        raise UserError("this screen was judged elsewhere: here is the next one")
    ranking = [sorted(shown)] if values["all_bad"] else [group for group in values["ranking"] if group]
    ranking_to_pairs(screen["prompt"], screen["completions"], ranking)
    if sum(map(len, ranking)) == 1:
        raise UserError("a ranking places two replies at least")
    if not re.fullmatch("[0-9a-f]{32}", values["id"]):
        raise UserError("the id of a judgement is 32 hexadecimal digits")
    said = {
        "ranking": ranking,
        "annotator": values["annotator"],
        "id": values["id"],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(min(max(0.0, values["seconds"]), 1e6), 2),
        "screen": screen["id"],
        "shown": shown,
        "repeat": repeat,
    }
    return screen | said | ({"all_bad": True} if values["all_bad"] else {})


def rankings_file(folder: Path, annotator: str) -> Path:
    """Where the judgements of an annotator are; UserError for what is not a name."""
    return folder / "rankings" / f"{check_name('annotator', annotator)}.jsonl"


# ---- how they are drawn ----


@dataclass(kw_only=True)
class Drawing:
    """How screens are drawn."""

    responses: int = 4
    """Replies per screen, 2 to 9."""
    temperature: float = 1.0
    """Sampling temperature of the replies."""
    seed: int = 1
    """Seed of the order of prompts and of sampling."""

    def validate(self) -> None:
        """Raise UserError for settings that cannot be used."""
        check_ranges(self, positive="temperature")
        if not 2 <= self.responses <= 9:
            raise UserError(f"responses must be 2 to 9, one key each, but is {self.responses}")


def policy_name(record: StageRecord) -> str:
    """What the judgements of a model's replies call it."""
    return f"{record.stage} {record.weights_sha256[:12]}"


def screen_prompts(corpus: Corpus, own: Path | None, seed: int, check: Callable[[str], object] = str) -> list[str]:
    """The prompts that people are asked about, each once, in a seeded order: a file's, or the training text's.

    None that a stage holds out. UserError where nothing is left, and for what `check` says of a file's prompt.
    """
    found = [row["prompt"] for row in read_texts(own, "prompt", check=check)] if own else []
    if own is None:
        found = [pair.prompt for pair in dialogue_pairs(corpus.train)]
    held_out = {pair.prompt for part in heldout_pairs(corpus.validation) for pair in part}
    prompts = [prompt for prompt in dict.fromkeys(found) if prompt not in held_out]
    if not prompts:
        raise UserError(f"{own or corpus.name} has no prompt that is not held out: give others with --prompts FILE")
    random.Random(seed).shuffle(prompts)
    return prompts


def draw_screens(
    folder: Path, record: StageRecord, prompts: Iterable[str], drawing: Drawing, device: str = "auto"
) -> Iterator[Row]:
    """A screen per prompt, when it is asked for: replies of the model in `folder`, of which no two are alike.

    A screen depends on its prompt, the model and the seed alone. A prompt with one reply only is passed over.
    """

    from pretrain.machine import choose_device, one_thread_each, seeded
    from reward.collect import draw_distinct
    from sft.models.loading import load_causal_lm
    from sft.models.sampling import sampler

    tokenizer, name = Tokenizer.load(folder), policy_name(record)
    policy = sampler(load_causal_lm(folder, choose_device(device), role=f"{record.stage} model"))
    for prompt in prompts:
        ids = encode_prompt(tokenizer, prompt, record.config["prompt_length"])
        own_seed = int(hashlib.sha256(f"{drawing.seed} {prompt}".encode()).hexdigest()[:15], 16)
        # A few replies are little work: more threads would wait for each other, and the page for them.
        with one_thread_each(policy.device) as workers:
            drawn = workers.submit(
                draw_distinct,
                policy,
                tokenizer,
                [ids],
                drawing.responses,
                max_new_tokens=record.config["response_length"],
                temperature=drawing.temperature,
                generator=seeded(own_seed, policy.device),
            )
            [replies] = drawn.result()
        texts = [tokenizer.decode(reply) for reply in replies]
        if len(texts) > 1:
            yield {
                "id": hashlib.sha256(json.dumps([name, prompt, texts]).encode()).hexdigest()[:16],
                "prompt": prompt,
                "completions": texts,
                "stopped": [reply[-1] == tokenizer.eos_id for reply in replies],
                "policy": name,
                "seed": drawing.seed,
                "prompt_ids": ids,
                "completion_ids": replies,
            }
