"""What the trials of `pretrain.cyclical_study` say: factors, intervals, tables, a picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from data.run.writing import table as markdown_table

Floats = NDArray[np.float64]

COLOURS = {
    "constant": "black",
    "constant_mean": "grey",
    "triangular": "tab:blue",
    "triangular2": "tab:green",
    "exp_range": "tab:orange",
    "cosine": "tab:red",
}
COMPARISONS = [
    ("constant", "triangular"),
    ("constant", "triangular2"),
    ("constant", "exp_range"),
    ("constant", "cosine"),
    ("constant", "constant_mean"),
    ("constant_mean", "triangular"),
]
"""Who is compared with whom: the factor is loss(first) / loss(second)."""
REGIONS = ("too low", "about right", "too high")
"""Of a constant rate: below a third of the best one, within a factor of 3 of it, above three times it."""


@dataclass(frozen=True)
class Losses:
    """The trials as columns, by rising rate: rates (N,), losses in nats per character by schedule (N,)."""

    rates: Floats
    by_schedule: dict[str, Floats]

    @classmethod
    def of(cls, trials: Sequence[dict[str, Any]]) -> "Losses":
        ordered = sorted(trials, key=lambda trial: trial["rate"])
        names = ordered[0]["losses"]
        return cls(
            np.array([trial["rate"] for trial in ordered]),
            {name: np.array([trial["losses"][name] for trial in ordered]) for name in names},
        )

    def smooth(self, values: Floats) -> Floats:
        """Means over every tenth of the trials that are neighbours by rate, of values (…, N): (…, N + 1 − window)."""
        return sliding_window_view(values, self.window, axis=-1).mean(-1)

    @property
    def window(self) -> int:
        return max(1, len(self.rates) // 10)

    def best_rate(self, name: str) -> float:
        """The rate drawn at which a schedule ends lowest."""
        return float(self.middles[self.smooth(self.by_schedule[name]).argmin()])

    @property
    def middles(self) -> Floats:
        """The geometric mean rates of what `smooth` gives."""
        return np.exp(self.smooth(np.log(self.rates)))


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], Floats], count: int, resamples: int = 10_000
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic of `count` things drawn from those with replacement (Efron, 1979).

    `statistic` gets the indices drawn, (resamples, count), and gives (resamples,). The draws are always the same.
    """
    values = statistic(np.random.default_rng(0).integers(count, size=(resamples, count)))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def study_figures(trials: Sequence[dict[str, Any]], ratio: float) -> dict[str, Any]:
    """Everything that is reported, as JSON."""
    losses = Losses.of(trials)
    best_rate = losses.best_rate("constant")
    return {
        "trials": len(trials),
        "best_constant_rate": best_rate,
        "schedules": {
            name: {
                "mean_nats_per_char": float(values.mean()),
                "best_nats_per_char": float(losses.smooth(values).min()),
                "best_rate": losses.best_rate(name),
                "diverged": sum(name in trial["diverged"] for trial in trials),
            }
            for name, values in losses.by_schedule.items()
        },
        "comparisons": [_compare(losses, first, second, best_rate, ratio) for first, second in COMPARISONS],
    }


def _compare(losses: Losses, first: str, second: str, best_rate: float, ratio: float) -> dict[str, Any]:
    factors = losses.by_schedule[first] / losses.by_schedule[second]
    rates = losses.rates * ((1 + ratio) / 2 if first == "constant_mean" else 1)
    inside = {
        "too low": rates < best_rate / 3,
        "about right": (rates >= best_rate / 3) & (rates <= best_rate * 3),
        "too high": rates > best_rate * 3,
    }

    def best_factor(drawn: NDArray[np.int64]) -> Floats:
        rows = np.sort(drawn, axis=-1)
        lowest = [losses.smooth(losses.by_schedule[name][rows]).min(-1) for name in (first, second)]
        return lowest[0] / lowest[1]

    return {
        "loss_of": first,
        "over_loss_of": second,
        "mean": float(factors.mean()),
        "interval": bootstrap_interval(lambda drawn: factors[drawn].mean(-1), len(factors)),
        "median": float(np.median(factors)),
        "won": float((factors > 1).mean()),
        "regions": {
            name: {"trials": int(rows.sum()), "mean": float(factors[rows].mean()) if rows.any() else None}
            for name, rows in inside.items()
        },
        "both_at_their_best": float(best_factor(np.arange(len(factors)))),
        "both_at_their_best_interval": bootstrap_interval(best_factor, len(factors), resamples=2000),
    }


def label(name: str, ratio: float) -> str:
    """A schedule as a reader sees it, r being the rate drawn."""
    if name == "constant":
        return "constant r"
    if name == "constant_mean":
        return f"constant {(1 + ratio) / 2:g} r"
    return f"{name}, peak {ratio:g} r" if name == "cosine" else f"{name} r to {ratio:g} r"


HEADINGS = ["loss of … over …", "mean factor", "95 % interval", "median", "won", *REGIONS, "both at their best"]


def _rows(metrics: dict[str, Any], ratio: float) -> list[list[str]]:
    """The comparisons under HEADINGS."""
    rows = []
    for line in metrics["comparisons"]:
        pair = f"{label(line['loss_of'], ratio)} / {label(line['over_loss_of'], ratio)}"
        (low, high), (best_low, best_high) = line["interval"], line["both_at_their_best_interval"]
        best = f"{line['both_at_their_best']:.4f} ({best_low:.3f} to {best_high:.3f})"
        numbers = [f"{line['mean']:.4f}", f"{low:.4f} to {high:.4f}", f"{line['median']:.4f}"]
        rows.append([pair, *numbers, f"{line['won']:.0%}", *_region_means(line), best])
    return rows


def _region_means(line: dict[str, Any]) -> list[str]:
    means = [line["regions"][name]["mean"] for name in REGIONS]
    return ["" if mean is None else f"{mean:.3f}" for mean in means]


def terminal_table(metrics: dict[str, Any]) -> Table:
    """The comparisons for the terminal, 80 columns wide."""
    table = Table(
        box=box.SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=f"{metrics['trials']} paired trials: above 1, the second is better",
    )
    table.add_column("loss / loss")
    for heading in ("mean, 95 % interval", "won", "low", "right", "high", "best"):
        table.add_column(heading, justify="right")
    for line in metrics["comparisons"]:
        low, high = line["interval"]
        table.add_row(
            f"{line['loss_of']}/{line['over_loss_of']}",
            f"{line['mean']:.3f} {low:.3f} {high:.3f}",
            f"{line['won']:.0%}",
            *_region_means(line),
            f"{line['both_at_their_best']:.3f}",
        )
    return table


def write_tables(path: Path, trials: Sequence[dict[str, Any]], metrics: dict[str, Any], ratio: float) -> None:
    """table.md: the comparisons, the schedules, and every trial."""
    names, best, counts = list(trials[0]["losses"]), metrics["best_constant_rate"], metrics["comparisons"][0]["regions"]
    schedules = [
        [
            label(name, ratio),
            f"{line['mean_nats_per_char']:.4f}",
            f"{line['best_nats_per_char']:.4f}",
            f"{line['best_rate']:.1e}",
            str(line["diverged"]),
        ]
        for name, line in metrics["schedules"].items()
    ]
    each = [
        [str(trial["trial"]), str(trial["seed"]), f"{trial['rate']:.3e}"]
        + [f"{trial['losses'][name]:.4f}" + "*" * (name in trial["diverged"]) for name in names]
        for trial in trials
    ]
    parts = [
        "# Cyclical learning rates against a constant one\n",
        f"{metrics['trials']} trials; r is the rate drawn, losses are nats per character on the whole validation "
        "split. A factor above 1: the schedule named second ends lower. The best constant rate is about "
        f"{best:.1e}; rates are too low under a third of it, about right within a factor of 3, too high above "
        f"({', '.join(str(counts[name]['trials']) for name in REGIONS)} trials). Both at their best: each schedule "
        "at the rate that suits it best, by means over a tenth of the trials, neighbours by rate.\n",
        markdown_table(HEADINGS, _rows(metrics, ratio)),
        "\n## Each schedule by itself\n",
        markdown_table(
            ["schedule", "mean loss over the range", "loss at its best", "where r is", "diverged"], schedules
        ),
        "\nA run that ends worse than the uniform guess, or with no number, counts as the uniform guess.\n",
        "## Each trial\n",
        markdown_table(["trial", "seed", "r", *(label(name, ratio) for name in names)], each),
    ]
    path.write_text("\n".join(parts) + "\n", "utf-8")


def plot_study(path: Path, trials: Sequence[dict[str, Any]], metrics: dict[str, Any], ratio: float) -> None:
    """Left: loss against the rate drawn, every schedule. Right: the factors, their means and intervals."""
    losses, best = Losses.of(trials), metrics["best_constant_rate"]
    figure = Figure(figsize=(12, 5), dpi=120)
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    for name, values in losses.by_schedule.items():
        colour, dashes = COLOURS[name], "--" if name == "constant_mean" else "-"
        left.plot(losses.rates, values, ".", color=colour, markersize=3, alpha=0.35)
        left.plot(losses.middles, losses.smooth(values), dashes, color=colour, label=label(name, ratio), linewidth=1.7)
    left.axvspan(best / 3, best * 3, color="gold", alpha=0.15, linewidth=0)
    left.text(best, 0.985, "about right", transform=left.get_xaxis_transform(), ha="center", va="top", fontsize=8)
    left.set(xscale="log", xlabel="learning rate r that was drawn", ylabel="validation loss, nats per character")
    left.set_title("Where each schedule ends")
    left.grid(alpha=0.25)
    left.legend(frameon=False, fontsize=8)

    names = []
    jitter = np.random.default_rng(0)
    for row, line in enumerate(metrics["comparisons"]):
        first, second = line["loss_of"], line["over_loss_of"]
        factors = losses.by_schedule[first] / losses.by_schedule[second]
        places = row + jitter.uniform(-0.28, 0.28, len(factors))
        right.plot(factors, places, ".", color=COLOURS[second], markersize=4, alpha=0.35)
        mean, (low, high) = line["mean"], line["interval"]
        interval = [[mean - low], [high - mean]]
        right.errorbar([mean], [row], xerr=interval, fmt="D", color="black", markersize=5, capsize=4, zorder=5)
        said = f"{mean:.3f} [{low:.3f}, {high:.3f}], won {line['won']:.0%}"
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        right.annotate(said, (mean, row - 0.36), ha="center", fontsize=8, bbox=box)
        names.append(f"{label(first, ratio)}\nover {label(second, ratio)}")
    right.axvline(1, color="black", linewidth=0.8)
    right.set_yticks(range(len(names)), names, fontsize=8)
    right.set_ylim(len(names) - 0.5, -0.6)
    right.set(xlabel="loss of the first / loss of the second (right of 1 the second is better)")
    right.set_title("Mean factor, 95 % interval, and every trial")
    right.grid(alpha=0.25, axis="x")
    figure.tight_layout()
    figure.savefig(path)
