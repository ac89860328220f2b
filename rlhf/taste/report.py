"""A taste's report as one self-contained page: what changed in words, by how much, at what cost, and how it was made.

What it says is written by rules from the metrics, so that the page cannot praise what they do not show.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from data.run.charts import Dot, curve_chart, dot_chart
from data.run.page import write_page
from data.run.plots import curve
from data.run.record import read_metrics
from rlhf.compare.report import COLUMNS, cells_of, notice_of, one_digit
from rlhf.judging.metrics import wilson_interval
from rlhf.judging.panel import words_panel
from rlhf.judging.sources import SOURCES

SAMPLES = 6
FAR = 10.0
"""Nats per reply from the SFT model beyond which a policy is called far."""
KEPT_VARIETY = 0.97
"""Share of SFT's distinct-2 below which variety is said to have fallen."""
SHOWN = {
    "Gold": "mean of the gold judge's scores in [0, 1] with its 95 % interval: craft, which is not what was ranked",
    "Reward": "mean by the taste's reward model, in standard deviations from SFT's",
    "KL": "distance from the SFT model, nats per reply",
    "Words": "mean length in words",
    "Stops": "share of replies that end by themselves",
    "Distinct-2": "different pairs of neighbouring words over all pairs",
    "Unknown": "share of words that are in no dictionary and not in the training text",
    "Copying": "share of replies that copy more than 6 words in a row",
}
"""Columns of the comparison's table that are shown here, and what they are."""
SCORES = {
    "both together": ("objective/scores", "control"),
    "the taste": ("objective/rewards/taste", "taste"),
    "craft": ("objective/rewards/craft", "rlhf"),
}
"""Scores while PPO learns, by their name in the legend: key in metrics.jsonl, colour."""


def verdict(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """What the taste did, what it cost or left as it was, and what to doubt: sentences that follow from the metrics.

    A difference is one where the 95 % intervals before and after have nothing in common.
    """
    before, after, own = result["stages"]["sft"], result["stages"]["taste"], result["own"]
    did, left, doubt = [], [], []

    def means(name: str, form: str, what: str) -> None:
        was, now = _interval(before, name, form), _interval(after, name, form)
        if before[f"{name}_high"] < after[f"{name}_low"]:
            did.append(f"{what} rose from {was} to {now}.")
        elif after[f"{name}_high"] < before[f"{name}_low"]:
            left.append(f"{what} fell from {was} to {now}.")
        else:
            left.append(f"{what} cannot be told apart: {was} before, {now} now.")

    if own is not None:
        form = ".0%" if own["share"] else ".2f"
        was, now = (_interval(own[side], None, form) for side in ("before", "after"))
        what = (
            f"Replies that {own['name']}" if own["share"] else f"The mean score by the taste's own rule ({own['name']})"
        )
        if own["before"]["high"] < own["after"]["low"]:
            did.append(f"{what}: {was} before, {now} now.")
        elif own["after"]["high"] < own["before"]["low"]:
            left.append(
                f"{what}: {was} before, {now} now, which is fewer." if own["share"] else f"{what} fell: {was}, {now}."
            )
        else:
            left.append(f"{what}: {was} before, {now} now, no more than chance would do.")
    else:
        doubt.append(
            "What the annotators like is known here through their reward model alone, and PPO maximised just that. "
            "Whether it is what they meant, they can say: read the exchanges below."
        )
    means("reward", "+.2f", "The mean score by the taste's reward model")
    means("gold", ".2f", "The gold judge's mean score")
    if not (result["words"]["more"] or result["words"]["less"]):
        left.append("No word or punctuation mark is used more or less often than chance would have it.")
    length = next(rate for rate in result["words"]["rates"] if rate["name"] == "words per reply")
    if length["before"]["high"] < length["after"]["low"]:
        left.append(f"Replies became longer: {before['words']:.1f} → {after['words']:.1f} words.")
    elif length["after"]["high"] < length["before"]["low"]:
        left.append(f"Replies became shorter: {before['words']:.1f} → {after['words']:.1f} words.")
    kept = after["distinct_2"] / before["distinct_2"] if before["distinct_2"] else 1.0
    variety = f"distinct-2 is {kept:.0%} of SFT's"
    left.append(f"Variety fell: {variety}." if kept < KEPT_VARIETY else f"Variety was kept: {variety}.")
    if after["kl_to_sft"] > FAR:
        doubt.append(f"The taste is {after['kl_to_sft']:.1f} nats per reply away from SFT: far.")
    doubt.append("Sense: nothing here measures it, and nothing here teaches it.")
    return {"did": did, "left": left, "doubt": doubt}


def write_taste_report(path: Path, result: Mapping[str, Any], folder: Path) -> None:
    """Write the page of one taste.

    result: `compare.json` of `rlhf.taste.compare`. folder: RUN/tastes/NAME; the curves come from metrics.jsonl of its
    stages `reward` and `rlhf`, where they exist.
    """
    name = result["settings"]["name"]
    titles = {"sft": ("SFT", "sft"), "rlhf": (SOURCES["rlhf"].title, "rlhf"), "taste": (name, "taste")}
    shown = {key: titles[key] for key in result["stages"]}
    columns = [(head, SHOWN[head]) for head, _, _ in COLUMNS if head in SHOWN]
    write_page(
        path,
        Path(__file__).parent,
        "report.html.j2",
        result=result,
        name=name,
        titles=shown,
        one_digit=one_digit,
        notice=notice_of(result["corpus"]),
        verdict=verdict(result),
        words=words_panel(result["words"], titles["sft"], titles["taste"]),
        columns=columns,
        rows=[
            (titles[key], [cell for (head, _, _), cell in zip(COLUMNS, cells_of(row), strict=True) if head in SHOWN])
            for key, row in result["stages"].items()
        ],
        dots=Markup(_dots(result, shown)),
        win_rates=[(titles[key.removeprefix("taste_vs_")], rate) for key, rate in result["win_rates"].items()],
        samples=result["samples"][:SAMPLES],
        made=_made(result),
        curves=[(title, Markup(svg)) for title, svg in _curves(folder, result["craft"])],
    )


def _interval(numbers: Mapping[str, Any], name: str | None, form: str) -> str:
    """A value with its interval in words."""
    keys = ("value", "low", "high") if name is None else (name, f"{name}_low", f"{name}_high")
    value, low, high = (format(numbers[key], form) for key in keys)
    return f"{value} ({low} to {high})"


def _dots(result: Mapping[str, Any], titles: Mapping[str, tuple[str, str]]) -> str:
    """The numbers in [0, 1] of all models next to each other, with 95 % intervals where they have one."""

    def dots(key: str, interval: bool = True) -> list[Dot]:
        found = []
        for stage, row in result["stages"].items():
            ends = (row[f"{key}_low"], row[f"{key}_high"]) if interval else (row[key], row[key])
            found.append(Dot(row[key], *ends, titles[stage][1]))
        return found

    stops = [
        Dot(row["stopped"], *wilson_interval(row["stopped"] * row["n"], row["n"]), titles[stage][1])
        for stage, row in result["stages"].items()
    ]
    rows = {"gold judge's mean": dots("gold"), "distinct-2": dots("distinct_2", False), "stops by itself": stops}
    return dot_chart(rows, "", "gold judge's mean, distinct-2 and share of replies that stop, by model")


def _made(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the taste was made, as (what, value)."""
    rankings, reward, rlhf = result["rankings"], result["made"]["reward"], result["made"]["rlhf"]
    annotators = ", ".join(f"{name} ({count:,})" for name, count in rankings["annotators"].items())
    parts = reward["results"].get("seconds") or {}
    seconds = f"{reward['wall_seconds']:,.0f}"
    if parts:
        seconds += " (" + ", ".join(f"{part} {value:,.0f}" for part, value in parts.items()) + ")"
    weights = rankings["weights"]
    return [
        ("Rankings", f"{rankings['count']:,}, of which {rankings['telling']:,} prefer some reply to another"),
        ("Annotators", annotators or "none"),
        *([("Weights of the files", ", ".join(f"{weight:g}" for weight in weights))] if weights else []),
        ("Weight of craft", f"{result['craft']:g}" + ("" if result["craft"] else ", the taste alone")),
        ("Seconds, reward model", seconds),
        ("Seconds, PPO", f"{rlhf['wall_seconds']:,.0f}"),
        ("Seconds, this comparison", f"{result['seconds']:,.0f}"),
        ("Preset and seed", f"{rlhf['preset']}, {rlhf['seed']}"),
        ("Device", rlhf["device"]),
    ]


def _curves(folder: Path, craft: float) -> list[tuple[str, str]]:
    """(title, SVG) of what the reward model and PPO logged as they learned."""
    reward, rlhf = read_metrics(folder / "reward"), read_metrics(folder / "rlhf")
    scores = SCORES if craft else {"the taste": ("objective/scores", "taste")}
    charts = [
        ("Reward model: pairs ordered right", reward, "step", "share of pairs", {"": ("accuracy", "taste")}),
        ("PPO: score", rlhf, "episode", "score", scores),
        ("PPO: KL to SFT", rlhf, "episode", "nats per reply", {"": ("objective/kl", "taste")}),
        ("PPO: length", rlhf, "episode", "tokens per reply", {"": ("objective/response_length", "taste")}),
    ]
    drawn = []
    for title, metrics, x, unit, keys in charts:
        found = {name: (curve(metrics, x, key), colour) for name, (key, colour) in keys.items()}
        found = {name: each for name, each in found.items() if len(each[0][0]) > 1}
        if found:
            points = {name: each for name, (each, _) in found.items()}
            drawn.append((title, curve_chart(points, x, unit, [colour for _, colour in found.values()])))
    return drawn
