"""report.html: the comparison as one self-contained page, and the verdict it opens with.

The verdict is written by rules from the numbers, so that the page cannot praise what they do not show.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from data.run.charts import Dot, bar_chart, calibration_chart, curve_chart, dot_chart
from data.run.page import write_page
from data.run.plots import curve
from data.run.record import read_metrics
from rlhf.compare.votes import colour_of, title_of
from rlhf.judging.directed_panel import directed_panel
from rlhf.judging.panel import words_panel
from rlhf.judging.sources import COMPARISONS, SOURCES, STAGES

SAMPLES = 10
FEWEST_IN_BIN = 20  # pairs; a point of the calibration made of fewer says nothing
COLUMNS = [
    ("Gold", "{gold:.3f} ±\u00a0{gold_half:.3f}", "mean score in [0, 1] with its 95 % interval; higher is better"),
    ("Reward", "{reward:+.2f} ±\u00a0{reward_half:.2f}", "mean by the reward model, in standard deviations from SFT's"),
    ("KL", "{kl}", "distance from the SFT model, nats per reply; best of 4: the known bound"),
    ("Tokens", "{tokens:.1f}", "mean length in tokens, the end counted"),
    ("Words", "{words:.1f}", "mean length in words"),
    ("Stops", "{stopped:.1%}", "share of replies that end by themselves"),
    ("Distinct-1", "{distinct_1:.3f}", "different words over all words"),
    ("Distinct-2", "{distinct_2:.3f}", "different pairs of neighbouring words over all pairs"),
    ("Vocab.", "{vocabulary:,}", "different words among equally many"),
    ("Unknown", "{unknown_words:.1%}", "share of words that are in no dictionary and not in the training text"),
    ("Copied", "{longest_copy_mean:.1f} / {longest_copy_max}", "words in a row from the training text: mean / most"),
    ("Copying", "{copying:.1%}", "share of replies that copy more than 6 words in a row"),
]
"""Head, numbers of a row as they are shown, and what they are."""
TERMS = {
    "words": "words that are words",
    "ending": "an ending that ends",
    "glue": "neighbours that belong together",
    "content": "words that say something",
    "craft": "verse · glue · content",
    "verse": "lines that scan",
    "loop": "no repetition (gate)",
    "originality": "no copying (gate)",
    "voice": "one speaker (gate)",
}
RLHF_CURVES = [
    ("Reward-model score", "objective/scores", "rlhf"),
    ("Score minus KL penalty", "objective/rlhf_reward", "rlhf"),
    ("KL to SFT, nats per reply", "objective/kl", "rlhf"),
    ("Length, tokens", "objective/response_length", "rlhf"),
    ("Share that stop", "objective/stopped", "rlhf"),
    ("Entropy", "objective/entropy", "rlhf"),
    ("Gold judge on dev prompts", "eval/gold", "original"),
]


def verdict(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """What improved, what did not, and what to doubt: sentences that follow from the numbers."""
    rates, stages, controls = result["win_rates"], result["stages"], result["controls"]
    sft, rlhf, original = stages["sft"], stages["rlhf"], stages["original"]
    better, same, doubt = [], [], []

    def compared(name: str, first: str, second: str) -> None:
        rate = rates[name]
        share = f"in {rate['rate']:.0%} of comparisons (95 % interval {rate['low']:.0%} to {rate['high']:.0%})"
        if rate["low"] > 0.5:
            better.append(f"By the gold judge the {first} model beats the {second} one {share}.")
        elif rate["high"] < 0.5:
            same.append(f"By the gold judge the {first} model is worse than the {second} one: it wins {share}.")
        else:
            same.append(f"By the gold judge the {first} model and the {second} cannot be told apart: it wins {share}.")

    compared("rlhf_vs_sft", "aligned", "SFT")
    compared("rlhf_vs_pretrain", "aligned", "pretrained")
    compared("sft_vs_pretrain", "SFT", "pretrained")
    for name, label in TERMS.items():
        change = rlhf["terms"].get(name, 0.0) - sft["terms"].get(name, 0.0)
        if abs(change) >= 0.05 and name != "craft":
            sentence = (
                f"{label.capitalize()}: {sft['terms'][name]:.2f} → {rlhf['terms'][name]:.2f} from SFT to aligned."
            )
            (better if change > 0 else same).append(sentence)
    replies, words = (rlhf["n"], sft["n"]), (rlhf["n"] * rlhf["words"], sft["n"] * sft["words"])
    for key, what, sign, counts in (
        ("stopped", "Replies that end by themselves", 1, replies),
        ("unknown_words", "Unknown words", -1, words),
    ):
        sentence = f"{what}: {sft[key]:.1%} → {rlhf[key]:.1%} from SFT to aligned"
        if not _told_apart(rlhf[key], sft[key], *counts):
            same.append(f"{sentence}, no more than chance would do.")
        else:
            (better if sign * (rlhf[key] - sft[key]) > 0 else same).append(f"{sentence}.")

    for pair in result["votes"]["pairs"] if result["votes"] else []:
        first, second = title_of(pair["first"]), title_of(pair["second"])
        where = " on prompts that ask" if pair["directed"] else ""
        share = f"in {pair['rate']:.0%} of {pair['n']} votes{where} ({pair['low']:.0%} to {pair['high']:.0%})"
        if pair["low"] > 0.5:
            better.append(f"People prefer {first} to {second} {share}.")
        elif pair["high"] < 0.5:
            same.append(f"People prefer {second} to {first}: {first} wins {share}.")
        else:
            same.append(f"People's votes do not tell {first} from {second}: {first} wins {share}.")

    kept = rlhf["distinct_2"] / sft["distinct_2"] if sft["distinct_2"] else 1.0
    if kept < 0.97:
        same.append(f"Variety fell: distinct-2 is {kept:.0%} of SFT's.")
    if rlhf["longest_copy_mean"] > sft["longest_copy_mean"]:
        same.append(
            f"The longest run copied from the training text grew from {sft['longest_copy_mean']:.1f} to "
            f"{rlhf['longest_copy_mean']:.1f} words on average (a word that is none breaks a run, and SFT has more of "
            f"those); more than 6 words in a row are copied by {sft['copying']:.1%} of SFT's replies and "
            f"{rlhf['copying']:.1%} of the aligned model's."
        )
    same.append(
        "Sense: nothing here measures it, and nothing here teaches it. The gold judge sees form alone; read the "
        "samples below, and find replies that scan, end, and answer little."
    )

    if rates["rlhf_vs_play"]["low"] > 0.5 or rlhf["gold"] > original["gold"]:
        doubt.append(
            f"The gold judge gives the aligned model {rlhf['gold']:.2f} and the real play {original['gold']:.2f}. That "
            "the machine “beats” its author shows the limits of the gold judge, not the merits of the machine."
        )
    control = rates["sft_vs_sft"]
    if not control["low"] <= 0.5 <= control["high"]:
        doubt.append(
            f"SFT against itself wins {control['rate']:.0%}, outside chance: with intervals of 95 % that happens "
            "once in twenty comparisons; treat small differences with care."
        )
    if controls["best_of_4"]["gold"] >= rlhf["gold"]:
        doubt.append("Picking the best of 4 SFT replies by the reward model does as well as PPO did.")
    if controls["sft_t07"]["gold"] >= rlhf["gold"]:
        doubt.append("Sampling SFT at temperature .7 does as well as PPO did.")
    if rlhf["kl_to_sft"] > 10:
        doubt.append(f"The aligned model is {rlhf['kl_to_sft']:.1f} nats per reply away from SFT: far.")
    if result["votes"] and (agreed := result["votes"]["gold"]):
        doubt.append(
            f"The gold judge prefers the reply that people chose in {agreed['rate']:.0%} of {agreed['n']} votes "
            f"({agreed['low']:.0%} to {agreed['high']:.0%})."
        )
    model = result["reward_model"]["rlhf"]
    if model["heldout_accuracy"] is not None:
        doubt.append(
            f"On the aligned model's own replies the reward model agrees with the noisy labels in "
            f"{model['heldout_accuracy']:.0%} of pairs; {model['accuracy_ceiling']:.0%} is the most that the labels "
            f"allow, and going by length alone reaches {model['length_baseline']:.0%}."
        )
    return {"better": better, "same": same, "doubt": doubt}


def _told_apart(p: float, q: float, n_p: float, n_q: float) -> bool:
    """Whether two shares of n_p and n_q differ by more than two standard errors."""
    pooled = (p * n_p + q * n_q) / max(1.0, n_p + n_q)
    return abs(p - q) > 2 * math.sqrt(pooled * (1 - pooled) * (1 / max(1.0, n_p) + 1 / max(1.0, n_q)))


def write_report(path: Path, result: Mapping[str, Any], run: Path) -> None:
    """Write the page of one comparison; curves come from the stages' metrics.jsonl in `run`, where they exist."""
    rows = result["stages"] | result["controls"]
    colours = [SOURCES[stage].colour for stage in STAGES]
    terms = {
        name: {stage: result["stages"][stage]["terms"][name] for stage in STAGES}
        for name in result["stages"]["sft"]["terms"]
    }
    rates = {
        COMPARISONS[name].title: [Dot(rate["rate"], rate["low"], rate["high"], COMPARISONS[name].colour)]
        for name, rate in result["win_rates"].items()
    }
    write_page(
        path,
        Path(__file__).parent,
        "report.html.j2",
        result=result,
        sources=SOURCES,
        stage_names=STAGES,
        one_digit=one_digit,
        notice=notice_of(result["corpus"]),
        told=directed_panel(result),
        verdict=verdict(result),
        win_rates=Markup(dot_chart(rates, "share of prompts won", "win rates with 95 % intervals", 0.5)),
        words=words_panel(result["words"], *((SOURCES[name].title, SOURCES[name].colour) for name in ("sft", "rlhf"))),
        votes=_votes(result["votes"]),
        columns=COLUMNS,
        rows=[(SOURCES[name], cells_of(row)) for name, row in rows.items()],
        terms=[(name, TERMS.get(name, ""), Markup(bar_chart(bars, colours, name))) for name, bars in terms.items()],
        curves=[(title, Markup(svg)) for title, svg in curves(run, result["reward_model"])],
        samples=result["samples"][:SAMPLES],
        made=list(result["made"].items()),
        total_seconds=sum(record["wall_seconds"] for record in result["made"].values()) + result["seconds"],
    )


def curves(run: Path, reward_model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(title, SVG) of whatever the stages logged, and the reward model's calibration."""
    charts = []
    pretrain, sft, rewards, rlhf = (read_metrics(run / name) for name in ("pretrain", "sft", "reward", "rlhf"))
    for title, metrics, named, unit in (
        ("Pretraining", pretrain, {"validation": "bits_per_char"}, "bits per character"),
        ("Fine-tuning", sft, {"training": "train_nats", "held out": "dev_nats"}, "nats per token"),
        ("Reward model", rewards, {"training": "accuracy"}, "pair accuracy"),
    ):
        drawn = {name: curve(metrics, "step", key) for name, key in named.items()}
        found = {name: points for name, points in drawn.items() if len(points[0]) > 1}
        if found:
            charts.append((title, curve_chart(found, "step", unit, ["control", "sft"][-len(found) :])))
    bins = {
        name: [(each["predicted"], each["observed"]) for each in model["calibration"] if each["pairs"] >= FEWEST_IN_BIN]
        for name, model in reward_model.items()
    }
    if bins := {name: points for name, points in bins.items() if points}:
        shown = {SOURCES[name].title: points for name, points in bins.items()}
        charts.append(("Reward model: calibration", calibration_chart(shown, list(bins))))
    for title, key, colour in RLHF_CURVES:
        points = curve(rlhf, "episode", key)
        if len(points[0]) > 1:
            charts.append((f"PPO: {title}", curve_chart({title: points}, "episode", title, [colour])))
    return charts


def _votes(votes: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """People's votes as the page shows them."""
    if not votes:
        return None
    dots: dict[str, list[Dot]] = {}
    rows: list[tuple[Any, ...]] = []
    for pair in votes["pairs"]:
        title = f"{title_of(pair['first'])} beats {title_of(pair['second'])}{', as directed' * pair['directed']}"
        dots[title] = [Dot(pair["rate"], pair["low"], pair["high"], colour_of(pair["first"]))]
        one_by_one = [(name, rate, None) for name, rate in pair["by_annotator"].items()]
        if len(one_by_one) == 1:
            one_by_one = [(name, rate, pair["gold"]) for name, rate, _ in one_by_one]
        else:
            one_by_one.insert(0, ("all", pair, pair["gold"]))
        rows += [(title, *row) for row in one_by_one]
    chart = Markup(dot_chart(dots, "share of votes won", "people's votes with 95 % intervals", 0.5))
    return {"chart": chart, "rows": rows, "count": votes["votes"], "gold": votes["gold"]}


def notice_of(corpus: Mapping[str, Any]) -> str | None:
    """What a page has to say of its text first, if anything."""
    if corpus["notice"]:
        return str(corpus["notice"])
    if corpus["name"] == "pastiche":
        return "This is not Shakespeare: the text is the project's own pastiche, made by a grammar."
    return None


def cells_of(row: Mapping[str, Any]) -> list[str]:
    """A row's numbers as the table shows them."""
    halves = {f"{name}_half": (row[f"{name}_high"] - row[f"{name}_low"]) / 2 for name in ("gold", "reward")}
    kl = "-" if row["kl_to_sft"] is None else one_digit(row["kl_to_sft"])
    return [shown.format(**row, **halves, kl=kl) for _, shown, _ in COLUMNS]


def one_digit(value: float) -> str:
    """A number with one digit after the point."""
    return f"{round(value, 1) + 0.0:.1f}"  # + 0.0: a KL that is estimated as -0.01 is no "-0.0"
