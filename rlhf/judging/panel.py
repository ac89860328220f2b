"""What changed, in words, as the panel of a report: `words.html.j2` shows what this gives."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from data.run.charts import Dot, dot_chart

SHOWN = 12
"""Words shown in each direction."""


def words_panel(changes: Mapping[str, Any], before: tuple[str, str], after: tuple[str, str]) -> dict[str, Any]:
    """What the macro `panel` takes, of `Changes.to_json()` and the (title, colour) of both models."""
    totals = changes["before_total"], changes["after_total"]
    (_, colour), (_, colour_after) = before, after
    dots = {
        rate["name"]: [Dot(colour=colour, **rate["before"]), Dot(colour=colour_after, **rate["after"])]
        for rate in changes["rates"]
        if rate["share"]
    }
    return {
        "before": before,
        "after": after,
        "lists": [
            (title, of, [_row(use, *totals) for use in uses[:SHOWN]], max(0, len(uses) - SHOWN))
            for title, of, uses in (
                ("More often now", colour_after, changes["more"]),
                ("Less often now", colour, changes["less"]),
            )
        ],
        "compared": changes["compared"],
        "fewest": changes["fewest"],
        "false_discoveries": changes["false_discoveries"],
        "alpha0": changes["alpha0"],
        "chart": Markup(dot_chart(dots, "share of replies", "shares of replies before and after, 95 % intervals")),
        "numbers": [
            (rate["name"], _number(rate["before"]), _number(rate["after"]))
            for rate in changes["rates"]
            if not rate["share"]
        ],
    }


def _row(use: Mapping[str, Any], before_total: int, after_total: int) -> dict[str, str]:
    """A word with its uses per thousand words and marks."""
    return {
        "word": use["word"],
        "before": f"{1000 * use['before'] / max(1, before_total):.1f}",
        "after": f"{1000 * use['after'] / max(1, after_total):.1f}",
        "z": f"{use['z']:+.1f}",
    }


def _number(estimate: Mapping[str, float | None]) -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if low is None or high is None:
        return f"{value:.3f}"
    return f"{value:.1f} ± {(high - low) / 2:.1f}"
