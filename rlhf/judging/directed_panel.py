"""Who does as told, as a report and a terminal show it: `directed.html.j2` shows what `directed_panel` gives."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from rich import box
from rich.table import Table

from data.console import console
from data.run.charts import Dot, dot_chart
from rlhf.judging.sources import SOURCES

EXCHANGES = 6
"""Exchanges that are shown."""
DRAWN = ("pretrain", "sft", "best_of_4", "rlhf", "rlhf_rule", "rlhf_following")
"""Rows of the picture, in order."""
ANSWERS = ("pretrain", "sft", "rlhf")
"""Whose replies are shown."""
REWARDS = {
    "model": "PPO's reward for doing as told was a learned model; the rule that counts here it never saw.",
    "rule": "The rule that counts here was itself in PPO's reward: it does not judge the aligned model independently.",
    "none": "Nothing in PPO's reward asked for doing as told.",
}
"""What is said of the aligned model, by `reward_following` of its record."""
COLUMNS = [
    ("Does as told", "{told}", "share of replies that do what they were told, with its 95 % interval"),
    ("By chance", "{wrong}", "share that meets another request of the same kind, which nobody made"),
    ("Gold", "{gold:.3f} ±\u00a0{half:.3f}", "gold judge's mean of the same replies in [0, 1], with its 95 % interval"),
    (
        "KL",
        "{kl}",
        "distance from the SFT model that reads the same prompts, nats per reply; best of 4: the known bound",
    ),
    ("Tokens", "{tokens:.1f}", "mean length in tokens, the end counted"),
    ("Free", "{free}", "the same where no length was asked for"),
    ("Stops", "{stopped:.1%}", "share of replies that end by themselves"),
    ("Distinct-2", "{distinct_2:.3f}", "different pairs of neighbouring words over all pairs, of equally many words"),
    ("Copied", "{longest_copy_mean:.1f} / {longest_copy_max}", "words in a row from the training text: mean / most"),
    ("Copying", "{copying:.1%}", "share of replies that copy more than 6 words in a row"),
]
"""Head, numbers of a row as they are shown, and what they are."""


def directed_panel(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the macro `first_screen` takes, of a comparison's result; None without directions."""
    if not (told := result.get("directions")):
        return None
    rows = {
        SOURCES[key].title: [dot_of(told["one"][key], SOURCES[key].colour)]
        + ([dot_of(told["wrong"][key], "ink")] if key in told["wrong"] else [])
        for key in DRAWN
        if key in told["one"]
    }
    return {
        "sentence": first_sentence(told),
        "reward": REWARDS[result["settings"]["reward_following"]],
        "chart": Markup(dot_chart(rows, "share of replies", "who does as told, with 95 % intervals")),
        "exchanges": [_exchange(sample) for sample in result["directed_samples"][:EXCHANGES]],
        "answers": [(key, SOURCES[key]) for key in ANSWERS],
        "craft": craft_panel(told),
    }


def craft_panel(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the macro `craft_table` takes, of `directions` of compare.json."""
    return {"columns": COLUMNS, "rows": [(SOURCES[key], craft_cells(told, key)) for key in told["craft"]]}


def first_sentence(told: Mapping[str, Any]) -> str:
    """Who does as told, in one sentence that says no more than the numbers do."""
    one, wrong = told["one"], told["wrong"].get("rlhf")
    sft, rlhf = one["sft"], one["rlhf"]
    told_apart = rlhf["low"] > sft["high"]
    sentence = (
        f"Asked for {_asked(told)}, the aligned model does it in {_percent(rlhf)} of replies (95 % interval "
        f"{rlhf['low']:.0%} to {rlhf['high']:.0%}), "
    )
    others = f"the SFT model, which it was made from, in {_percent(sft)} and the pretrained one in "
    others += _percent(one["pretrain"])
    if told_apart:
        sentence += others
    elif rlhf["high"] < sft["low"]:
        sentence += f"less often than before: {others}"
    else:
        sentence += f"which cannot be told apart from before: {others}"
    if wrong is None:
        return f"{sentence}."
    sentence += f"; another request of the same kind, which nobody made, its replies meet in {_percent(wrong)}"
    return sentence + (
        "." if rlhf["low"] > wrong["high"] else ", so that what is asked makes no difference that shows."
    )


def _asked(told: Mapping[str, Any]) -> str:
    kinds = [*told["by_kind"]] if not told["two"] else ["mood", "lines"]
    if set(kinds) == {"mood", "lines"}:
        return "a mood or a number of lines"
    return f"one thing ({', '.join(kinds)})"


def craft_cells(told: Mapping[str, Any], key: str) -> list[str]:
    """A source's numbers as the table of craft shows them."""
    row, free = told["craft"][key], told["craft"][key]["tokens_free"]
    made = {
        "told": _with_interval(told["one"][key]),
        "wrong": _percent(told["wrong"][key]) if key in told["wrong"] else "-",
        "half": (row["gold_high"] - row["gold_low"]) / 2,
        "kl": "-" if row["kl_to_sft"] is None else f"{round(row['kl_to_sft'], 1) + 0.0:.1f}",
        "free": "-" if free is None else f"{free:.1f}",
    }
    return [shown.format(**row, **made) for _, shown, _ in COLUMNS]


def print_directions(told: Mapping[str, Any]) -> None:
    """Who does as told and what it costs, on the terminal."""
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    for head in ("", "told", "95 %", "chance", "gold", "tokens", "free", "stops", "distinct-2"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for key, row in told["craft"].items():
        one, wrong, free = told["one"][key], told["wrong"].get(key), row["tokens_free"]
        table.add_row(
            key, f"{one['rate']:.2f}", f"{one['low']:.2f}-{one['high']:.2f}", f"{wrong['rate']:.2f}" if wrong else "",
            f"{row['gold']:.3f}", f"{row['tokens']:.0f}", "" if free is None else f"{free:.0f}",
            f"{row['stopped']:.1%}", f"{row['distinct_2']:.3f}",
        )  # fmt: skip
    console.print(table)


def _exchange(sample: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]]:
    """(prompt without its directions and the colon, directions, the whole sample)."""
    directions = ", ".join(sample["directions"])
    return sample["prompt"].strip().removesuffix(f", {directions}:"), directions, sample


def dot_of(share: Mapping[str, Any], colour: str) -> Dot:
    """A share of compare.json in a chart."""
    return Dot(share["rate"], share["low"], share["high"], colour)


def _percent(share: Mapping[str, Any]) -> str:
    return f"{share['rate']:.0%}"


def _with_interval(share: Mapping[str, Any]) -> str:
    return f"{share['rate']:.1%} ±\u00a0{100 * (share['high'] - share['low']) / 2:.1f}"
