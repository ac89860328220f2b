"""Curves as PNG files. Figures are drawn without pyplot, whose backend is the user's."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

Curve = tuple[Sequence[float], Sequence[float]]


def plot_curves(
    path: Path,
    curves: Mapping[str, Curve],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    floor: tuple[str, float] | None = None,
    marks: tuple[str, Mapping[str, tuple[float, float]]] | None = None,
    log_x: bool = False,
) -> None:
    """Draw named (x, y) curves into one PNG.

    `floor` adds a named horizontal line; `marks`, named too, a point (x, y) in the colour of the curve it belongs to.
    `log_x`: the x axis is logarithmic, with a tick at each x.
    """
    figure = Figure(figsize=(6.4, 3.8), dpi=120)
    axes = figure.subplots()
    for name, (x, y) in curves.items():
        [line] = axes.plot(x, y, label=name, linewidth=1.6, marker="o" if len(x) < 12 else None, markersize=3)
        if marks is not None and name in marks[1]:
            axes.plot(*marks[1][name], marker="D", color=line.get_color(), markerfacecolor="none", markersize=8)
    if marks is not None:
        axes.plot([], [], marker="D", color="grey", linestyle="", markerfacecolor="none", label=marks[0])
    if floor is not None:
        axes.axhline(floor[1], color="grey", linestyle="--", linewidth=1, label=floor[0])
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if log_x:
        values = sorted({value for x, _ in curves.values() for value in x})
        axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
    axes.grid(alpha=0.25)
    if len(curves) > 1 or floor is not None:
        axes.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path)


def curve(metrics: Iterable[Mapping[str, Any]], x: str, y: str) -> Curve:
    """What the lines of a metrics.jsonl say of `y` over `x`; those that lack one of them say nothing."""
    points = [(line[x], line[y]) for line in metrics if x in line and y in line]
    return [point[0] for point in points], [point[1] for point in points]


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Running mean over the last `window` values."""
    smoothed, total = [], 0.0
    for index, value in enumerate(values):
        total += value - (values[index - window] if index >= window else 0.0)
        smoothed.append(total / min(index + 1, window))
    return smoothed
