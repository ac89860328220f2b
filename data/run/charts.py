"""Charts as inline SVG, in the colours and fonts of the page that holds them, light and dark."""

import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from data.run.page import COLOURS as PAGE_COLOURS
from data.run.plots import Curve

# Colours that stand for the page's CSS variables: put into the SVG in their place when it is written.
COLOURS = {name: "#" + 3 * f"{number:02}" for number, name in enumerate(["ink", "faint", *PAGE_COLOURS], 1)}


@rc_context({"text.parse_math": False})  # a dollar in a name is a dollar
def curve_chart(
    curves: Mapping[str, Curve], xlabel: str, ylabel: str, colours: Sequence[str], logarithmic: bool = False
) -> str:
    """Named (x, y) curves; `colours` are names of COLOURS, one per curve. `logarithmic`: the x axis is."""
    figure, axes = _axes(4.2, 2.6)
    for (name, (x, y)), colour in zip(curves.items(), colours, strict=True):
        marker = "o" if len(x) < 12 else None
        axes.plot(x, y, label=name, color=COLOURS[colour], linewidth=1.7, marker=marker, markersize=3.5)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y", color=COLOURS["faint"], linewidth=0.6)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if len(curves) > 1:
        axes.legend(frameon=False, labelcolor=COLOURS["ink"])
    return _svg(figure, f"{ylabel} over {xlabel}")


@rc_context({"text.parse_math": False})
def calibration_chart(bins: Mapping[str, Sequence[tuple[float, float]]], colours: Sequence[str]) -> str:
    """Named (predicted, observed) shares next to the diagonal of perfect calibration."""
    figure, axes = _axes(4.2, 2.6)
    axes.plot([0, 1], [0, 1], color=COLOURS["faint"], linewidth=1.2, linestyle="--")
    for (name, points), colour in zip(bins.items(), colours, strict=True):
        x, y = [point[0] for point in points], [point[1] for point in points]
        axes.plot(x, y, color=COLOURS[colour], linewidth=1.7, marker="o", markersize=3.5, label=f"{name} replies")
    axes.legend(frameon=False, labelcolor=COLOURS["ink"])
    axes.set(xlabel="predicted probability", ylabel="how often it won", xlim=(0, 1), ylim=(0, 1))
    return _svg(figure, "calibration of the reward model")


class Dot(NamedTuple):
    """A share and its interval, in a colour of COLOURS."""

    value: float
    low: float
    high: float
    colour: str


@rc_context({"text.parse_math": False})
def dot_chart(rows: Mapping[str, Sequence[Dot]], xlabel: str, label: str, reference: float | None = None) -> str:
    """Named rows of shares in [0, 1], each a dot with its interval, several of a row below each other.

    `reference` is a share that a dashed line marks; `label` says what the chart is.
    """
    lanes = max(map(len, rows.values()))
    figure, axes = _axes(5.4, (0.34 + 0.2 * (lanes - 1)) * len(rows) + 0.8)
    if reference is not None:
        axes.axvline(reference, color=COLOURS["ink"], linewidth=1, linestyle=(0, (3, 3)))
    for row, dots in enumerate(rows.values()):
        for lane, dot in enumerate(dots):
            place = row + (lane - (len(dots) - 1) / 2) * 0.8 / lanes
            axes.plot([dot.low, dot.high], [place, place], color=COLOURS[dot.colour], linewidth=5, alpha=0.35,
                      solid_capstyle="round")  # fmt: skip
            axes.plot(dot.value, place, "o", color=COLOURS[dot.colour], markersize=6.5, clip_on=False)
            axes.text(1.03, place, f"{dot.value:.2f}", va="center", color=COLOURS["ink"], fontsize=9.5)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6), xlabel=xlabel)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    axes.grid(axis="x", color=COLOURS["faint"], linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    return _svg(figure, label)


@rc_context({"text.parse_math": False})
def plane_chart(points: Mapping[str, tuple[Dot, Dot]], xlabel: str, ylabel: str, label: str) -> str:
    """Named points with their intervals both ways; the y axis shows all of [0, 1]. `label` says what the chart is."""
    figure, axes = _axes(5.4, 3.6)
    for name, (x, y) in points.items():
        colour = COLOURS[y.colour]
        axes.plot([x.low, x.high], [y.value, y.value], color=colour, linewidth=4, alpha=0.3, solid_capstyle="round")
        axes.plot([x.value, x.value], [y.low, y.high], color=colour, linewidth=4, alpha=0.3, solid_capstyle="round")
        axes.plot(x.value, y.value, "o", color=colour, markersize=7)
        axes.annotate(name, (x.value, y.value), (7, 7), textcoords="offset points", color=colour, fontsize=9)
    axes.set(ylim=(0, 1), xlabel=xlabel, ylabel=ylabel)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    axes.margins(x=0.16)
    axes.grid(color=COLOURS["faint"], linewidth=0.6)
    return _svg(figure, label)


@rc_context({"text.parse_math": False})
def bar_chart(values: Mapping[str, float], colours: Sequence[str], title: str) -> str:
    """Named bars in [0, 1]; `colours` are names of COLOURS, one per bar. The names are not shown."""
    figure, axes = _axes(2.3, 1.15)
    names = list(values)
    axes.barh(names, list(values.values()), color=[COLOURS[colour] for colour in colours], height=0.72)
    for place, value in enumerate(values.values()):
        axes.text(value + 0.03, place, f"{value:.2f}", va="center", color=COLOURS["ink"], fontsize=9)
    axes.set(xlim=(0, 1.25), ylim=(len(names) - 0.4, -0.6))
    axes.axis("off")
    return _svg(figure, title)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(COLOURS["faint"])
    axes.tick_params(colors=COLOURS["ink"], labelsize=9, color=COLOURS["faint"])
    axes.xaxis.label.set(color=COLOURS["ink"], fontsize=9)
    axes.yaxis.label.set(color=COLOURS["ink"], fontsize=9)
    return figure, axes


def _svg(figure: Figure, label: str) -> str:
    """The figure as an <svg> element without size, font, background or metadata of its own."""
    out = io.StringIO()
    # Text stays text, so it takes the page's font; the salt makes ids differ between plots and not between runs.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # the page's font may have it
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", out.getvalue(), flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[^"]*"', "", svg, count=2)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg
