"""Write a run's numbers and replies into README.md and docs: python scripts/docs/readme_figures.py RUN LOG

LOG is what `make demo` (or scripts/run_pipeline.sh) printed. The blocks stand between `<!-- figures: NAME -->` and
`<!-- end -->`; whatever stands there is replaced, on every page that has the block. The picture of README.md,
docs/figures/asked.png, is of the same run.
"""

import json
import re
import sys
import textwrap
from datetime import date
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rlhf.judging.sources import SOURCES

ROOT = Path(__file__).resolve().parents[2]
UNDIRECTED, DIRECTED = 6, 6
"""Exchanges of docs/samples.md."""
COLOURS = {"pretrain": "#7a746b", "sft": "#2b6399", "rlhf": "#b03024"}
COLUMN, MOST_LINES = 23, 8
"""Characters of a line of the picture, and its lines."""


def blocks(run: Path, log: str) -> dict[str, str]:
    """The text of every block by name."""
    comparison = json.loads((run / "compare/compare.json").read_text("utf-8"))
    stages = {name: json.loads((run / name / "stage.json").read_text("utf-8")) for name in comparison["made"]}
    results = {name: stage["results"] for name, stage in stages.items()}
    pretrain, sft, reward, rlhf = (results[name] for name in ("pretrain", "sft", "reward", "rlhf"))
    aligned = comparison["reward_model"]["rlhf"]
    peak = max(stage["peak_memory_gib"] for stage in stages.values())
    made_on = date.fromtimestamp((run / "compare/stage.json").stat().st_mtime)
    return {
        "timings": timings(log, stages, peak, made_on),
        "headline": headline(comparison),
        "two": "\n".join(map(compact, comparison["directed_samples"][:2])),
        "time": time_line(log, stages, peak, made_on),
        "table": figures(comparison),
        "directed": directed(comparison),
        "samples": samples(comparison["samples"][:UNDIRECTED]),
        "pretrain": f"In the run above: {pretrain['bits_per_char']:.4f} bits ({pretrain['nats_per_char']:.4f} nats) "
        f"per character, after {stages['pretrain']['wall_seconds']:.0f} s.",
        "sft": f"In the run above: {sft['perplexity_before']:.2f} → {sft['perplexity_after']:.2f}; "
        f"{sft['stop_share']:.0%} stop.",
        "reward": f"In the run above: {reward['heldout_accuracy']:.3f} of held-out pairs right where the labels allow "
        f"{reward['accuracy_ceiling']:.3f}; by length alone {reward['length_baseline']:.3f}. On the aligned policy's "
        f"own replies: {aligned['heldout_accuracy']:.3f} where {aligned['accuracy_ceiling']:.3f} is possible.",
        "rlhf": f"In the run above: score {rlhf['score']:+.2f}, KL {rlhf['kl']:.1f} nats, gold "
        f"{rlhf['gold_before']:.3f} → {rlhf['gold']:.3f}.",
        "memory": f"The largest stage of `make demo` held {peak:.2f} GiB.",
    }


def time_line(log: str, stages: dict[str, Any], peak: float, made_on: date) -> str:
    """What the whole pipeline took, in one line."""
    total = re.findall(r"^total +(\d+) s$", log, re.MULTILINE)
    if not total:
        raise SystemExit("error: the log does not hold the time of the whole run: give the output of a whole run")
    made = stages["pretrain"]
    return (
        f"Measured: {total[-1]} s on {made['corpus']['name']}, seed {made['seed']} ({made['device']}, {made_on}), "
        f"imports included, at most {peak:.2f} GiB of memory."
    )


def timings(log: str, stages: dict[str, Any], peak: float, made_on: date) -> str:
    """What the pipeline says of its stages, imports included."""
    rows = re.findall(r"^(\w+) +(\d+) s$", log, re.MULTILINE)
    if [name for name, _ in rows] != ["pretrain", "sft", "reward", "rlhf", "compare", "total"]:
        raise SystemExit("error: the log does not hold the times of all stages: give the output of a whole run")
    made = stages["pretrain"]
    table = "\n".join(f"| {name} | {seconds} s |" for name, seconds in rows)
    return (
        f"Measured by `make demo` on {made['corpus']['name']}, seed {made['seed']} ({made['device']}, torch "
        f"{made['versions']['torch']}, {made_on.isoformat()}; at most {peak:.2f} GiB of memory):\n\n"
        f"| stage | wall time, imports included |\n|---|---|\n{table}"
    )


def headline(comparison: dict[str, Any]) -> str:
    """Four rows: who does as told, and how well the replies are made."""
    told, stages = comparison["directions"], comparison["stages"]
    lines = ["| | does as told (95 % interval) | gold | stops | distinct-2 | KL, nats |", "|---|---|---|---|---|---|"]
    for name in ("pretrain", "sft", "rlhf", "original"):
        title = f"**{SOURCES[name].title}**" if name == "rlhf" else SOURCES[name].title
        rate, row = told["one"][name], stages[name]
        kl = "" if row["kl_to_sft"] is None else f"{row['kl_to_sft']:.1f}"
        lines.append(
            f"| {title} | {rate['rate']:.2f} ({rate['low']:.2f} to {rate['high']:.2f}) | {row['gold']:.3f} | "
            f"{row['stopped']:.0%} | {row['distinct_2']:.2f} | {kl} |"
        )
    wins = comparison["win_rates"]["rlhf_vs_sft"]
    return "\n".join(
        [
            *lines,
            "",
            f"(One request to each of {told['one']['rlhf']['n']} held-out prompts; the other columns: no request. Of "
            f"{wins['n']} undirected pairs the aligned reply beats the SFT model's in {wins['rate']:.0%}, by the gold "
            f"judge: {wins['low']:.0%} to {wins['high']:.0%}.)",
        ]
    )


def figures(comparison: dict[str, Any]) -> str:
    """Every stage and control, and the win rates."""
    lines = [
        "| | gold | reward | KL, nats | tokens | stops | distinct-2 | unknown words | copies > 6 words |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in (comparison["stages"] | comparison["controls"]).items():
        title = f"**{SOURCES[name].title}**" if name == "rlhf" else SOURCES[name].title
        kl = "" if row["kl_to_sft"] is None else f"{row['kl_to_sft']:.1f}"
        lines.append(
            f"| {title} | {row['gold']:.3f} | {row['reward']:+.2f} | {kl} | {row['tokens']:.0f} | "
            f"{row['stopped']:.1%} | {row['distinct_2']:.3f} | {row['unknown_words']:.1%} | {row['copying']:.1%} |"
        )
    lines += ["", "| by the gold judge | rate | 95 % interval |", "|---|---|---|"]
    for name, rate in comparison["win_rates"].items():
        lines.append(f"| {name.replace('_', ' ')} | {rate['rate']:.3f} | {rate['low']:.3f} to {rate['high']:.3f} |")
    count = comparison["win_rates"]["rlhf_vs_sft"]["n"]
    return "\n".join([*lines, "", f"({count} held-out prompts that no stage learned from; the run above.)"])


def directed(comparison: dict[str, Any]) -> str:
    """How often each source does as it was told, what its replies are worth, and the first six exchanges."""
    told = comparison["directions"]
    lines = [
        "| | does as told | 95 % interval | chance | gold | tokens, no length asked | distinct-2 | KL, nats |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rate in told["one"].items():
        title = f"**{SOURCES[name].title}**" if name == "rlhf" else SOURCES[name].title
        craft = told["craft"][name]
        kl = "" if craft["kl_to_sft"] is None else f"{craft['kl_to_sft']:.1f}"
        share = f"{rate['rate']:.3f} | {rate['low']:.3f} to {rate['high']:.3f} | {told['wrong'][name]['rate']:.3f}"
        worth = f"{craft['gold']:.3f} | {craft['tokens_free']:.0f} | {craft['distinct_2']:.3f} | {kl}"
        lines.append(f"| {title} | {share} | {worth} |")
    lines += ["", f"({told['one']['rlhf']['n']} held-out prompts. The first {DIRECTED}, unselected:)", ""]
    return "\n".join([*lines, exchanges(comparison["directed_samples"][:DIRECTED])])


def exchanges(rows: list[dict[str, Any]]) -> str:
    """Directed replies of the SFT model and of the aligned one, under what was asked."""
    lines = []
    for row in rows:
        reply = row["prompt"].strip().split("\n")[-1].removesuffix(":")
        shown = "".join(
            f"\n   {SOURCES[stage].title}, {'as told' if row['followed'][stage] else 'not as told'}:\n\n"
            f"```text\n{row[stage].strip()}\n```\n"
            for stage in ("sft", "rlhf")
        )
        lines.append(f"- **{reply}**\n{shown}")
    return "\n".join(lines)


def compact(row: dict[str, Any]) -> str:
    """A directed exchange in one block."""
    asked = row["prompt"].strip().split("\n")[-1]
    said = (
        f"[{SOURCES[stage].title}, {'as told' if row['followed'][stage] else 'not as told'}]\n{row[stage].strip()}"
        for stage in ("sft", "rlhf")
    )
    return "\n".join(["```text", asked, *said, "```"])


def picture(comparison: dict[str, Any], path: Path) -> None:
    """The first directed prompt with what three stages reply, under how often each does as it is told.

    It is as narrow as its letters are large: on a telephone it is seen at half its size.
    """
    row, told = comparison["directed_samples"][0], comparison["directions"]["one"]
    drawing = Figure(figsize=(7.6, 6), layout="constrained", facecolor="white")
    parts: Any = drawing.subfigures(2, 1, height_ratios=(1, 1.5))
    shares, replies = (part.subplots() for part in parts)
    for place, (name, colour) in enumerate(COLOURS.items()):
        rate = told[name]
        shares.plot([rate["low"], rate["high"]], [place, place], color=colour, alpha=0.35, linewidth=11)
        shares.plot(rate["rate"], place, "o", color=colour, markersize=12)
        shares.annotate(f"{rate['rate']:.0%}", (rate["high"], place), (10, -6), textcoords="offset points", fontsize=17)
    shares.set_yticks(range(len(COLOURS)), [SOURCES[name].title for name in COLOURS], fontsize=16)
    shares.tick_params(axis="y", length=0)
    shares.set(xlim=(0, 1), ylim=(len(COLOURS) - 0.5, -0.5))
    shares.set_xticks((0, 0.5, 1), ("0 %", "50 %", "100 %"), fontsize=13)
    shares.set_title(f"Replies that do as told: {told['rlhf']['n']} prompts, 95 % intervals", loc="left", fontsize=16)
    shares.spines[["top", "right", "left"]].set_visible(False)
    replies.set_axis_off()
    asked = row["prompt"].strip().split("\n")[-1]
    replies.set_title(asked, loc="left", fontsize=18, family="serif", style="italic")
    for place, (name, colour) in enumerate(COLOURS.items()):
        lines = [part for line in row[name].strip().split("\n") for part in textwrap.wrap(line, COLUMN) or [""]]
        shown = "\n".join([*lines[:MOST_LINES], *["…"][: len(lines) > MOST_LINES]]) or "(says nothing)"
        mark = "as told" if row["followed"][name] else "not as told"
        replies.text(place / 3, 0.98, SOURCES[name].title, color=colour, weight="bold", fontsize=16, va="top")
        replies.text(place / 3, 0.86, mark, color=colour, fontsize=14, va="top")
        replies.text(place / 3, 0.73, shown, family="serif", fontsize=14, va="top", linespacing=1.3)
    drawing.savefig(path, dpi=110)


def samples(rows: list[dict[str, Any]]) -> str:
    """Replies with who speaks to whom: the prompts themselves are the play's."""
    parts = []
    for number, row in enumerate(rows, start=1):
        cue, *_, reply = (line.removesuffix(":") for line in row["prompt"].strip().split("\n"))  # the two speakers
        shown = "\n\n".join(
            f"   {SOURCES[stage].title} (gold {row['gold'][stage]:.2f}):\n\n```text\n{row[stage].strip()}\n```"
            for stage in ("sft", "rlhf")
        )
        parts.append(f"{number}. **{reply} answers {cue}**\n\n{shown}")
    return "\n\n".join(parts)


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit("error: usage: python scripts/docs/readme_figures.py RUN LOG")
    made = blocks(Path(sys.argv[1]), Path(sys.argv[2]).read_text("utf-8"))
    picture(
        json.loads((Path(sys.argv[1]) / "compare/compare.json").read_text("utf-8")), ROOT / "docs/figures/asked.png"
    )
    missing = set(made)
    for page in [*ROOT.glob("README*.md"), *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text("utf-8")
        for name, block in made.items():
            begin = f"<!-- figures: {name} -->"
            before, found, rest = text.partition(begin)
            _, ended, after = rest.partition("<!-- end -->")
            if found and ended:
                text = f"{before}{begin}\n{block}\n<!-- end -->{after}"
                missing.discard(name)
        page.write_text(text, "utf-8")
    if missing:
        raise SystemExit(f"error: no page has a block for {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main()
