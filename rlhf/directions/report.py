"""What is left to be read: the page with compliance over craft and all tables, and the table on the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich import box
from rich.table import Table

from data.console import console
from data.run.charts import Dot, plane_chart
from data.run.page import write_page
from rlhf.judging.directed_panel import REWARDS, craft_panel, dot_of, first_sentence
from rlhf.judging.sources import SOURCES

TITLES = {
    "one": "one",
    "two": "two at once",
    "three": "three at once",
    "wrong": "another request of the same kind, which nobody made",
    "words": "words that nothing learns from",
    "combinations": "requests that are never learned from together",
    "kind": "kinds that nothing learns from",
}
"""What a row of the tables asks for, by its key in `directions`."""


def rows_of(told: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(part, row, share by source) of everything that was asked for, in the order in which it is shown."""
    rows = [("How much is asked for", TITLES[name], told[name]) for name in ("one", "two", "three", "wrong")]
    rows += [("Kind", kind, shares) for kind, shares in told["by_kind"].items()]
    rows += [("Never seen in training", TITLES[name], shares) for name, shares in told["held_out"].items()]
    return [row for row in rows if row[2]]


def write_report(path: Path, found: Mapping[str, Any]) -> None:
    """Write the page; found: directions.json."""
    told = found["directions"]
    points = {
        SOURCES[key].title: (
            Dot(row["gold"], row["gold_low"], row["gold_high"], SOURCES[key].colour),
            dot_of(told["one"][key], SOURCES[key].colour),
        )
        for key, row in told["craft"].items()
    }
    chart = plane_chart(
        points, "gold judge's mean of the same replies", "share that does as told", "doing as told over craft"
    )
    write_page(
        path,
        Path(__file__).parent,
        "report.html.j2",
        found=found,
        sentence=first_sentence(told),
        reward=REWARDS[found["settings"]["reward_following"]],
        chart=Markup(chart),
        sources=[(key, SOURCES[key]) for key in told["one"]],
        rows=rows_of(told),
        craft=craft_panel(told),
    )


def sample_section(number: int, sample: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """A prompt, and every source's reply with whether it does as told."""
    texts = [("", sample["prompt"])]
    for key, followed in sample["followed"].items():
        texts.append((f"**{SOURCES[key].title}** ({'does' if followed else 'does not do'} as told)", sample[key]))
    return f"{number}. {sample['set']}", texts


def print_figures(told: Mapping[str, Any]) -> None:
    """Every share on the terminal."""
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    for head in ("does as told", *told["one"], "n"):
        table.add_column(head, justify="left" if head == "does as told" else "right", overflow="fold")
    for _, title, shares in rows_of(told):
        cells = [f"{shares[key]['rate']:.2f}" if key in shares else "" for key in told["one"]]
        table.add_row(title, *cells, str(max(share["n"] for share in shares.values())))
    for name in ("gold", "distinct_2", "tokens", "longest_copy_mean"):
        cells = [f"{row[name]:.{0 if name == 'tokens' else 2}f}" for row in told["craft"].values()]
        table.add_row(f"{name.replace('_', ' ')}, of one", *cells, "")
    console.print(table)
