"""What the comparison of algorithms leaves to be read: the table, the plot of reward against KL, the samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from data.console import console
from data.run.plots import Curve, smooth
from data.run.record import read_metrics
from data.run.writing import table as table_of
from rlhf.algorithms import ALGORITHMS

Rows = Mapping[str, Mapping[str, Any]]
"""Figures by the name of their source, SFT first; see `rlhf.algorithms`."""

SMOOTHED = 5
"""Rollouts whose mean is a point of the learning path."""
PANELS = (("reward", "reward: what is maximised (SFT: 0 ± 1)"), ("gold", "gold: what no algorithm sees"))
"""What is plotted against the KL, and the label of its axis."""


def columns(row: Mapping[str, Any]) -> dict[str, str]:
    """One source's numbers as the tables show them, by the head of their column."""
    rate = row["beats_sft"]
    return {
        "gold": f"{row['gold']:.3f}",
        "beats SFT": f"{rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]" if rate else "",
        "reward": f"{row['reward']:+.2f}",
        "KL": f"{row['kl_to_sft']:.2f}",
        "stops": f"{row['stopped']:.1%}",
        "distinct-2": f"{row['distinct_2']:.3f}",
        "tokens to learn": f"{row['learning_tokens']:,}",
        "seconds to learn": f"{row['learning_seconds']:,.0f}",
        "tokens per reply": f"{row['reply_tokens']:,.0f}",
        "seconds for 100 replies": f"{100 * row['reply_seconds']:.2f}",
    }


def markdown_table(rows: Rows) -> str:
    """The table as Markdown, with what its columns mean."""
    written = {name: columns(row) for name, row in rows.items()}
    heads, count = next(iter(written.values())), next(iter(rows.values()))["n"]
    table = table_of(["", *heads], ([name, *cells.values()] for name, cells in written.items()))
    others = [f"; {each.title}: {each.tokens}" for each in ALGORITHMS.values() if each.tokens and each.title in rows]
    return (
        f"{table}\n\nReplies to {count} held-out prompts at temperature 1. gold: the gold score, which no algorithm "
        "sees. "
        "beats SFT: share of prompts on which the gold judge prefers the reply to SFT's, with its 95 % interval. "
        "reward: what was maximised; SFT's samples have 0 ± 1. KL: from the SFT model, nats per reply; with best of n "
        "its upper bound, log n - (n - 1)/n. tokens: response tokens sampled"
        f"{''.join(others)}. Seconds are of the machine that ran it.\n"
    )


def print_table(rows: Rows) -> None:
    """The metrics that matter most, on the terminal."""
    heads = ("gold", "beats SFT", "reward", "KL", "stops", "tokens to learn", "seconds to learn")
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    for head in ("", *heads):
        table.add_column(head, justify="right" if head else "left", no_wrap=" to " not in head)
    for name, row in rows.items():
        cells = columns(row)
        table.add_row(name, *(cells[head] for head in heads))
    console.print(table)


def sample_section(number: int, sample: Mapping[str, str]) -> tuple[str, list[tuple[str, str]]]:
    """A prompt and the reply of every source to it."""
    return str(number), [("" if name == "prompt" else f"**{name}**", text) for name, text in sample.items()]


def learning_path(folder: Path) -> dict[str, Curve]:
    """Where an algorithm went while it learned: (KL, reward) and (KL, gold).

    KL and reward of its rollouts, gold on held-out prompts; without rollouts all on held-out prompts. Nothing of one
    that logs neither.
    """
    metrics = read_metrics(folder)
    if looked := [line for line in metrics if "eval/kl" in line]:
        kl = [line["eval/kl"] for line in looked]
        return {name: (kl, [line[f"eval/{name}"] for line in looked]) for name in ("reward", "gold")}
    lines = [line for line in metrics if "episode" in line]
    if not lines:
        return {}
    kl = smooth([line["objective/kl"] for line in lines], SMOOTHED)
    judged = [i for i, line in enumerate(lines) if "eval/gold" in line]
    begin = lines[judged[0]]["eval/gold_before"]
    return {
        "reward": (kl, smooth([line["objective/reward_scores"] for line in lines], SMOOTHED)),
        "gold": ([0.0, *(kl[i] for i in judged)], [begin, *(lines[i]["eval/gold"] for i in judged)]),
    }


def colour_of(title: str) -> str:
    """The colour of an algorithm; grey for SFT."""
    return next((each.colour for each in ALGORITHMS.values() if each.title == title), "#444444")


def reward_kl_plot(path: Path, rows: Rows, paths: Mapping[str, Mapping[str, Curve]]) -> None:
    """reward_kl.png: what was maximised, and what the gold judge says of it, at the KL that it cost.

    rows: points with their 95 % intervals, and best-of-n as a curve. paths: `learning_path` by algorithm, thin lines.
    """
    figure = Figure(figsize=(10.4, 4.2), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, (measure, label) in zip(panels, PANELS, strict=True):
        for name, curves in paths.items():
            if measure in curves:
                axes.plot(*curves[measure], color=colour_of(name), linewidth=1, alpha=0.45)
        _points(axes, rows, measure)
        axes.set(xlabel="KL from the SFT model, nats per reply", ylabel=label)
        axes.grid(alpha=0.25)
        axes.margins(x=0.06, y=0.08)
    if any(paths.values()):
        panels[0].plot([], [], color="grey", linewidth=1, alpha=0.6, label="while learning")
    panels[0].legend(frameon=False, fontsize=9, loc="lower right")
    figure.savefig(path)


def _points(axes: Axes, rows: Rows, measure: str) -> None:
    """Every source at its KL; the best of n, which begin at SFT, as one curve with n next to its points."""
    best = {name: row for name, row in rows.items() if name.startswith("best of")}
    places = {name: (row["kl_to_sft"], row[measure]) for name, row in rows.items()}
    for name in [name for name in rows if name not in best]:
        row, (x, y) = rows[name], places[name]
        error = [[y - row[f"{measure}_low"]], [row[f"{measure}_high"] - y]]
        axes.errorbar(x, y, error, fmt="o", markersize=7, color=colour_of(name), label=name, capsize=3)
    if best:
        colour, curve = colour_of("best of n"), [places["SFT"], *(places[name] for name in best)]
        axes.plot(*zip(*curve, strict=True), "-s", color=colour, markersize=4, label="best of n (KL: upper bound)")
        for name in best:
            n, offset = name.removeprefix("best of "), (6, -3)
            axes.annotate(n, places[name], offset, textcoords="offset points", fontsize=8, color=colour)
