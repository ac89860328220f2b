"""Train the six models of the lecture, from a bigram table to a transformer: python -m pretrain.ladder --run RUN

Reads: a corpus (--corpus): a named text or a UTF-8 file of your own.

Does: trains the models one after the other and compares their losses with those of Karpathy's lecture.

Writes: a run per model, and `ladder.md`, `ladder.json` and `ladder.png`, to RUN.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from data.console import UserError, run_command
from data.corpus import Corpus, load_corpus
from data.jsonl import write_whole
from data.run.folder import announce
from data.run.options import command_line, settings
from data.run.plots import plot_curves
from data.run.record import StageRecord, read_metrics, read_stage
from data.run.writing import fenced, table
from pretrain.config import PretrainConfig
from pretrain.ladder.models import RUNGS
from pretrain.machine import start
from pretrain.presets import PRESETS
from pretrain.train import pretrain

# Validation losses in nats per character that Karpathy shows in "Let's build GPT" (2023), and the step at which the
# script last looked.
LECTURE = {
    "bigram": (2700, 2.50),
    "one-head": (4500, 2.40),
    "multi-head": (4500, 2.28),
    "feed-forward": (4500, 2.24),
    "residual": (4500, 2.08),
    "layer-norm": (4500, 2.06),
    "lecture": (4500, 1.49),
}


@dataclass
class LadderOptions:
    """Train the lecture's steps one after the other; what is finished is kept."""

    run: Path = Path("runs/ladder")
    """Folder of the ladder: each rung is a run in it, next to ladder.md, ladder.json and ladder.png."""
    corpus: str = "auto"
    """Text to read: auto, tinyshakespeare, complete, pastiche, or the path of a UTF-8 text."""
    seed: int = 1
    """Seed of every rung."""
    steps: int | None = None
    """Optimizer steps of every rung; default the lecture's, 3,000 for the bigram and 5,000 for the others."""
    lecture_steps: int = 0
    """Steps of the scaled-up GPT that the lecture ends with (5,000 there). On a CPU each takes many seconds."""
    overwrite: bool = False
    """Train every rung again."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto: on a GPU with CUDA where there is one, else on the CPU."""


@dataclass(frozen=True)
class Result:
    """What a rung came to. Losses are in nats per character, over the whole validation split."""

    rung: str
    parameters: int
    steps: int
    compared_step: int
    """Where the lecture last looked; the last step of a run that is shorter."""
    compared_loss: float
    lecture_loss: float
    last_loss: float
    """After the last step."""
    seconds: float
    """Of the whole stage: start, evaluations and samples included."""


def rung_configs(options: LadderOptions) -> dict[str, PretrainConfig]:
    """Every rung's configuration, from the bottom up."""
    steps = dict.fromkeys(RUNGS, options.steps) | ({"lecture": options.lecture_steps} if options.lecture_steps else {})
    configs = {}
    for name, count in steps.items():
        config = PRESETS[name][1]
        configs[name] = replace(
            config,
            run=options.run / name,
            corpus=options.corpus,
            seed=options.seed,
            device=options.device,
            overwrite=options.overwrite,
            steps=config.steps if count is None else count,
        )
        configs[name].validate()
    return configs


def finished(config: PretrainConfig, corpus: Corpus) -> StageRecord | None:
    """The record of a rung that is done; None where it is to be trained. UserError where it was made otherwise."""
    folder = config.run / "pretrain"
    if config.overwrite or not folder.exists():
        return None
    record = read_stage(folder, "pretrain")
    # `auto` and a name may be one text.
    now, before = settings(config) | {"corpus": corpus.sha256}, record.config | {"corpus": record.corpus["sha256"]}
    if differing := sorted(name for name in now | before if now.get(name) != before.get(name)):
        raise UserError(
            f"{folder} was trained with other settings ({', '.join(differing)}): "
            "choose another --run, or add --overwrite to train every rung again"
        )
    return record


def climb(options: LadderOptions) -> None:
    """Train what is not finished yet, then write and show what came out; UserErrors come before anything is trained."""
    configs = rung_configs(options)
    corpus = load_corpus(options.corpus)
    done = {name: finished(config, corpus) for name, config in configs.items()}
    for name, config in configs.items():
        if done[name]:
            announce("ladder", f"{name}: finished in {config.run}, kept")
            continue
        begun = (config.run / ".pretrain.partial").exists() and not config.overwrite
        pretrain(replace(config, resume=begun), name, corpus)
    report(options.run, configs, corpus)


def report(run: Path, configs: dict[str, PretrainConfig], corpus: Corpus) -> None:
    """Write ladder.json, ladder.md and ladder.png from the finished rungs, and print the table."""
    results, curves, samples = [], {}, []
    for name, config in configs.items():
        folder = config.run / "pretrain"
        record = read_stage(folder, "pretrain")
        metrics = read_metrics(folder)
        result = compare(name, record, metrics)
        results.append(result)
        trained = [line for line in metrics if line["step"]]
        curves[name] = ([line["step"] for line in trained], [line["nats_per_char"] for line in trained])
        samples.append(f"## {name}\n\n{fenced(metrics[-1]['sample'])}\n")
    record = read_stage(configs["bigram"].run / "pretrain")
    made: dict[str, Any] = {
        "corpus": corpus.entry,
        "seed": record.seed,
        "device": record.device,
        "torch": record.versions["torch"],
        "rungs": [asdict(result) for result in results],
    }
    write_whole(run / "ladder.json", (json.dumps(made, indent=2) + "\n").encode("utf-8"))
    note = comparability(configs, corpus)
    heading = f"# The ladder, on {corpus.name}\n\nSeed {record.seed}, {record.device}, torch {made['torch']}."
    parts = [heading, *([note] if note else []), table(HEADINGS, map(cells, results)), "# What each writes\n", *samples]
    write_whole(run / "ladder.md", "\n\n".join(part.rstrip("\n") for part in parts).encode("utf-8") + b"\n")
    plot_curves(
        run / "ladder.png",
        curves,
        xlabel="optimizer step",
        ylabel="validation loss, nats per character",
        title=f"The ladder, on {corpus.name}",
        marks=("the lecture", {name: LECTURE[name] for name in curves}) if corpus.name == "tinyshakespeare" else None,
    )
    shown = Table(title="Validation loss, nats per character (the whole split)", box=box.SIMPLE_HEAD)
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading == "rung" else "right", no_wrap=heading == "rung")
    for result in results:
        shown.add_row(*cells(result))
    Console().print(shown)
    if note:
        print(note)
    print(f"{run / 'ladder.md'}, ladder.json and ladder.png hold it too")


def compare(name: str, record: StageRecord, metrics: list[dict[str, Any]]) -> Result:
    """A finished rung next to the lecture's."""
    lecture_step, lecture_loss = LECTURE[name]
    last = metrics[-1]
    compared = next((line for line in metrics if line["step"] == lecture_step), last)
    return Result(
        rung=name,
        parameters=record.results["parameters"],
        steps=last["step"],
        compared_step=compared["step"],
        compared_loss=compared["nats_per_char"],
        lecture_loss=lecture_loss,
        last_loss=last["nats_per_char"],
        seconds=record.wall_seconds,
    )


HEADINGS = ("rung", "parameters", "at step", "ours", "lecture", "ours at the end", "seconds")


def cells(result: Result) -> tuple[str, ...]:
    return (
        result.rung,
        f"{result.parameters:,}",
        f"{result.compared_step:,}",
        f"{result.compared_loss:.4f}",
        f"{result.lecture_loss:.2f}",
        f"{result.last_loss:.4f}",
        f"{result.seconds:.0f}",
    )


def comparability(configs: dict[str, PretrainConfig], corpus: Corpus) -> str:
    """What to say where the numbers and the lecture's are not of one experiment; empty where they are."""
    if corpus.name != "tinyshakespeare":
        return f"The lecture's numbers are for tinyshakespeare, and this is {corpus.name}: they do not compare."
    if shorter := [name for name, config in configs.items() if config.steps < LECTURE[name][0]]:
        return f"Shorter than the lecture's, and not to be compared: {', '.join(shorter)}."
    return ""


def main() -> None:
    start()
    climb(command_line(LadderOptions, __doc__))


if __name__ == "__main__":
    run_command(main)
