"""Pairs for readers on paper: two unmarked replies to a prompt, and the key apart."""

import json
import random
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from data.run.writing import write_samples

PAIRS = 100
POLICIES = ("pretrain", "sft", "rlhf")
"""The policies that pairs are drawn from."""
NOTE = """\
{count} pairs of replies, each by two of three models, in random order. `blind-key.json` says whose: do not look.
{fewer}{told}Read the prompt, then A and B, and mark the better one, or that you see no difference.

To count the answers, write a line of a JSONL file for each: the pair's entry in `blind-key.json` with `"choice"`, which
is 0 for A, 1 for B and null for a tie, and `"annotator"`, your name. Then run `python -m rlhf.compare --votes FILE`."""

TOLD = """\
In half of them the last line of the prompt says how the reply is to be, such as "asking" or "in two lines": a reply
that does not do as it is told is the worse for it.
"""


def blind_pairs(
    samples: Sequence[Mapping[str, Any]], seed: int, directed: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Up to `PAIRS` votes without a choice, {"prompt", "completions", "policies"}, in random order.

    Each prompt is asked once, and each pair of `POLICIES` as often as the others, but for replies that are the same.
    Where there are `directed` samples, of the same prompts in the same order, each pair is of them every other time.
    """
    rng = random.Random(seed)
    order, kinds = rng.sample(range(len(samples)), len(samples)), list(combinations(POLICIES, 2))
    pairs: list[dict[str, Any]] = []
    for number in order:
        if len(pairs) == PAIRS:
            break
        turn, asked = divmod(len(pairs), 2) if directed else (len(pairs), 0)
        sample = directed[number] if asked else samples[number]
        policies = rng.sample(kinds[turn % len(kinds)], 2)
        completions = [sample[policy] for policy in policies]
        if completions[0] != completions[1]:
            pairs.append({"prompt": sample["prompt"], "completions": completions, "policies": policies})
    rng.shuffle(pairs)
    return pairs


def write_blind(
    folder: Path, samples: Sequence[Mapping[str, Any]], seed: int, directed: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write blind.md, for readers, and blind-key.json, which says who wrote what, of the samples of a comparison."""
    pairs = blind_pairs(samples, seed, directed)
    fewer = f"There are fewer than {PAIRS}: the comparison has {len(samples)} prompts. " if len(pairs) < PAIRS else ""
    write_samples(
        folder / "blind.md",
        "Which reply is better?",
        (
            (
                f"{number}. Better: ☐ A  ☐ B  ☐ no difference",
                [("", pair["prompt"]), *zip(("**A**", "**B**"), map(_shown, pair["completions"]), strict=True)],
            )
            for number, pair in enumerate(pairs, 1)
        ),
        NOTE.format(count=len(pairs), fewer=fewer, told=TOLD if directed else ""),
    )
    text = json.dumps({"seed": seed, "pairs": pairs}, indent=1, ensure_ascii=False)
    (folder / "blind-key.json").write_text(text + "\n", "utf-8")


def _shown(reply: str) -> str:
    return reply if reply.strip() else "(says nothing)"
