"""The table of docs/results.md from finished runs: python scripts/docs/results_table.py RUN [RUN …]

One column a run; every stage's settings must be those of the first run but for the seed.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf.judging.sources import STAGES as SOURCE_STAGES

OWN = {"seed", "reward_sha256", "following_sha256"}  # what differs between runs of the same settings
STAGES = ("pretrain", "sft", "reward", "rlhf", "compare")

# What, the aim, and the number from (results by stage, compare.json).
Row = tuple[str, str, Callable[[dict[str, Any], dict[str, Any]], str]]


def win(name: str) -> Callable[[dict[str, Any], dict[str, Any]], str]:
    def figure(_: dict[str, Any], compared: dict[str, Any]) -> str:
        rate = compared["win_rates"][name]
        return f"{rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"

    return figure


def both(measure: str, shape: str) -> Callable[[dict[str, Any], dict[str, Any]], str]:
    """A measure of the aligned model's replies and of SFT's."""
    return lambda _, compared: ", ".join(shape.format(compared["stages"][name][measure]) for name in ("rlhf", "sft"))


def told(part: str) -> Callable[[dict[str, Any], dict[str, Any]], str]:
    """How often the aligned model's replies meet a request: that of the prompt ("one"), or another ("wrong")."""

    def figure(_: dict[str, Any], compared: dict[str, Any]) -> str:
        rate = compared["directions"][part]["rlhf"]
        return f"{rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"

    return figure


def directed(measure: str, shape: str) -> Callable[[dict[str, Any], dict[str, Any]], str]:
    """A measure of the aligned model's replies to directed prompts, and of SFT's."""
    return lambda _, compared: ", ".join(
        shape.format(compared["directions"]["craft"][name][measure]) for name in ("rlhf", "sft")
    )


ROWS: list[Row] = [
    (
        "pretraining, whole validation split: nats (bits) per character",
        "≤ 1.50 nats on tinyshakespeare",
        lambda r, c: f"{r['pretrain']['nats_per_char']:.4f} ({r['pretrain']['bits_per_char']:.4f})",
    ),
    (
        "SFT: perplexity of held-out completions",
        "",
        lambda r, c: f"{r['sft']['perplexity_before']:.2f} → {r['sft']['perplexity_after']:.2f}",
    ),
    (
        "reward model, held-out (dev) pairs, of what is possible",
        "≥ .72 of about .82",
        lambda r, c: f"{r['reward']['heldout_accuracy']:.3f} of {r['reward']['accuracy_ceiling']:.3f}",
    ),
    (
        "… above what length alone predicts",
        "≥ .12",
        lambda r, c: f"{r['reward']['heldout_accuracy'] - r['reward']['length_baseline']:.3f}",
    ),
    (
        "… on SFT's replies to the test prompts",
        "",
        lambda r, c: "{heldout_accuracy:.3f} of {accuracy_ceiling:.3f}".format(**c["reward_model"]["sft"]),
    ),
    (
        "… on the aligned policy's replies",
        "reported",
        lambda r, c: "{heldout_accuracy:.3f} of {accuracy_ceiling:.3f}".format(**c["reward_model"]["rlhf"]),
    ),
    ("does as told, one request: aligned", "≥ .70, lower end ≥ .65", told("one")),
    ("… another request of the same kind", "≤ .20", told("wrong")),
    (
        "… pretrained, SFT, best of 4, the text's own replies",
        "reported",
        lambda r, c: ", ".join(
            f"{c['directions']['one'][name]['rate']:.3f}" for name in ("pretrain", "sft", "best_of_4", "original")
        ),
    ),
    ("… gold: aligned, SFT", "no more than .02 less", directed("gold", "{:.3f}")),
    ("… tokens where no length is asked: aligned, SFT", "≥ .6 of SFT's", directed("tokens_free", "{:.1f}")),
    ("… distinct-2: aligned, SFT", "≥ .80 of SFT's", directed("distinct_2", "{:.3f}")),
    ("… KL to SFT, nats per reply", "≤ 12", lambda r, c: f"{c['directions']['craft']['rlhf']['kl_to_sft']:.1f}"),
    ("aligned beats SFT", "≥ .75, lower end > .70", win("rlhf_vs_sft")),
    ("aligned beats pretrained", "≥ .82, lower end > .78", win("rlhf_vs_pretrain")),
    ("SFT beats pretrained", "interval above .5", win("sft_vs_pretrain")),
    (
        "gold: pretrained, SFT, aligned, the text's own replies",
        "",
        lambda r, c: ", ".join(f"{c['stages'][name]['gold']:.3f}" for name in SOURCE_STAGES),
    ),
    ("KL to SFT, nats per reply", "≤ 10", lambda r, c: f"{c['stages']['rlhf']['kl_to_sft']:.1f}"),
    ("stops by itself", "≥ .97", lambda r, c: f"{c['stages']['rlhf']['stopped']:.3f}"),
    (
        "distinct-2, share of SFT's",
        "≥ .85",
        lambda r, c: f"{c['stages']['rlhf']['distinct_2'] / c['stages']['sft']['distinct_2']:.2f}",
    ),
    ("unknown words: aligned, SFT", "fewer", both("unknown_words", "{:.1%}")),
    ("replies that copy more than 6 words in a row: aligned, SFT", "no more", both("copying", "{:.1%}")),
    ("longest copied run, mean words: aligned, SFT", "no more", both("longest_copy_mean", "{:.2f}")),
    ("SFT against itself", "about .5", win("sft_vs_sft")),
    ("held-out prompts", "≥ 512", lambda r, c: str(c["win_rates"]["rlhf_vs_sft"]["n"])),
]


def read(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The records of a run's stages, and its comparison."""
    records = {name: json.loads((run / name / "stage.json").read_text("utf-8")) for name in STAGES}
    return records, json.loads((run / "compare" / "compare.json").read_text("utf-8"))


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit("error: usage: python scripts/docs/results_table.py RUN [RUN …]")
    runs = [read(Path(argument)) for argument in sys.argv[1:]]
    settings = [
        {name: {key: record["config"][key] for key in record["config"].keys() - OWN} for name, record in run.items()}
        for run, _ in runs
    ]
    if any(other != settings[0] for other in settings):
        raise SystemExit("error: the runs differ in more than their seeds: one table would mislead")
    print("| what | aim |", " | ".join(f"seed {records['pretrain']['seed']}" for records, _ in runs), "|")
    print("|" + "---|" * (2 + len(runs)))
    for what, aim, figure in ROWS:
        results = [figure({name: record["results"] for name, record in run.items()}, c) for run, c in runs]
        print(f"| {what} | {aim} |", " | ".join(results), "|")
    for records, _ in runs:
        made = records["compare"]
        print(
            f"\nSeed {records['pretrain']['seed']}, commit {made['git_commit'][:7]}, {made['device']}: "
            + ", ".join(
                f"{name} {record['wall_seconds']:.0f} s and {record['peak_memory_gib']} GiB"
                for name, record in records.items()
            )
        )


if __name__ == "__main__":
    main()
