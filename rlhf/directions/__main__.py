"""Measure who does what a prompt asks, and what it costs in craft: python -m rlhf.directions --run RUN

Reads: the stages of a run and RUN/compare, whose prompts and seed it takes.

Does: asks every stage and every control for every kind of direction, and for several at once.

Writes: `directions.json`, `report.html` (compliance over craft, and all tables) and `samples.md` to RUN/directions, and
fills in what RUN/compare/compare.json lacks.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from data.console import UserError, run_command
from data.dialogue import dialogue_pairs
from data.jsonl import write_whole
from data.run.folder import open_stage, run_corpus
from data.run.options import StageOptions, command_line
from data.run.progress import progress_bar
from data.run.record import StageRecord, check_descends, read_stage
from pretrain.machine import choose_device, process_state
from rlhf.directions.report import print_figures, sample_section, write_report
from rlhf.judging.directed import SEVERAL, Asked, Asking
from rlhf.judging.judge import choose_pairs, write_result
from rlhf.judging.metrics import pooled
from rlhf.judging.stages import Stages, read_chain
from sft.directions import run_directions, usable_directions

COMPARE = "python -m rlhf.compare"


@dataclass(kw_only=True)
class DirectionsOptions(StageOptions):
    """Ask the stages of a run for everything that its directions can ask for."""

    seed: tyro.conf.Suppress[int] = 1


def metrics_of(asking: Asking) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """(`directions` of compare.json, more metrics of directions.json, samples of every set of requests).

    More: `craft` and `wrong` by the name of the set.
    """
    with progress_bar("directions", len(asking.sets) * (asking.steps + len(asking.sources))) as bar:

        def done() -> None:
            bar.advance(1)

        asked: dict[str, Asked] = {name: asking.ask(name, done) for name in asking.sets}
        craft = {name: asking.craft(each, done) for name, each in asked.items()}
    by_kind = {kind: asked[f"kind {kind}"].rates() for kind in asking.table.kinds(asking.table.specs)}
    unseen = [rates for kind, rates in by_kind.items() if kind not in asking.table.kinds()]
    told = {name: asked[name].rates() if name in asked else {} for name in SEVERAL}
    told |= {
        "wrong": asked["one"].wrong(),
        "by_kind": by_kind,
        "held_out": {name: asked[name].rates() if name in asked else {} for name in ("words", "combinations")}
        | {"kind": {key: pooled([rates[key] for rates in unseen])._asdict() for key in asking.sources if unseen}},
        "craft": craft["one"],
    }
    wrong = {name: met for name, each in asked.items() if (met := each.wrong())}
    samples = [{"set": name} | each for name in asked for each in asking.samples(asked[name])[:2]]
    return told, {"craft": craft, "wrong": wrong}, samples


def measure_directions(options: DirectionsOptions) -> Path:
    """Ask the stages of a run and leave what was found in RUN/directions and RUN/compare; returns the former folder.

    UserError for a run without directions, and where RUN/compare is missing or not of these stages.
    """
    state, run = process_state(choose_device(options.device)), options.run
    records = read_chain(run)
    rlhf, compared, path = (
        records["rlhf"],
        read_stage(run / "compare", "compare", COMPARE),
        run / "compare/compare.json",
    )
    check_descends(compared, rlhf, run)
    result = _read_result(path, compared)
    corpus = run_corpus(run, rlhf)
    table = usable_directions(run_directions(records["sft"]), dialogue_pairs(corpus.train))
    if table is None or not result["directions"]:
        raise UserError(f"{run} has no directions: fine-tune it with some (python -m sft PRESET --directions built-in)")
    settings = result["settings"]
    pairs = choose_pairs(corpus, settings["split"], settings["prompts"])
    options = replace(options, seed=compared.seed)
    with open_stage(
        "directions", options, preset=rlhf.preset, command="python -m rlhf.directions", parent=rlhf
    ) as stage:
        stage.announce(f"{len(pairs)} held-out prompts ({settings['split']}) of {corpus.name}")
        kept = ("split", "prompts", "prompt_length", "response_length", "reward_following")
        stage.config |= {name: settings[name] for name in kept}
        if state.is_main_process:
            asking = Asking(Stages(run, records, corpus, pairs, compared.seed, state.device), table)
            told, more, samples = metrics_of(asking)
            found = {"settings": stage.config, "corpus": rlhf.corpus, "directions": told, **more, "samples": samples}
            stage.results = told
            write_result(stage.path / "directions.json", found, sample_section)
            write_report(stage.path / "report.html", found)
            print_figures(told)
            stage.summary = f"report: {stage.final / 'report.html'}"
    if state.is_main_process:
        write_whole(path, (json.dumps(result | {"directions": told}, indent=1, ensure_ascii=False) + "\n").encode())
    return stage.final


def _read_result(path: Path, record: StageRecord) -> dict[str, Any]:
    """compare.json; UserError where it is none, or of a version that knew no directions."""
    try:
        result: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if not result.keys() >= {"directions", "settings"}:
            raise ValueError("of an earlier version")
    except (OSError, ValueError, AttributeError):
        again = f"run `{record.command} --run {path.parent.parent} --overwrite`"
        raise UserError(f"{path} is missing, or says nothing of directions: {again}") from None
    return result


def main() -> None:
    measure_directions(command_line(DirectionsOptions, __doc__))


if __name__ == "__main__":
    run_command(main)
