"""Do cyclical learning rates lower the loss? python -m pretrain.cyclical_study --trials 100 --run RUN

Reads: a corpus (--corpus): a named text or a UTF-8 file of your own.

Does: trains the model of preset `shakespeare-gpt` in paired trials. A trial draws a learning rate r, as someone who
does not know the right one might, and trains once with every schedule, from the same initial weights, on the same
batches, with the same dropout masks. r is the constant rate, and the lower bound of the cycles (torch's `base_lr`),
whose upper bound is `ratio` · r (Smith, WACV 2017, takes 3 or 4). The result of a schedule is loss(constant) /
loss(schedule) on the whole validation split after the last step: above 1 the schedule is better.

Writes: `trials.jsonl`, `table.md`, `study.png` and `stage.json` to RUN/cyclical_study.
"""

import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data.console import UserError, console, run_command
from data.corpus import Corpus
from data.jsonl import read_jsonl, write_whole
from data.run.folder import StageFolder, first_corpus, open_stage
from data.run.options import StageOptions, command_line
from data.run.progress import progress_bar
from pretrain.config import CYCLIC_SCHEDULES, PretrainConfig
from pretrain.cyclical_study.report import plot_study, study_figures, terminal_table, write_tables
from pretrain.evaluate import evaluate_split
from pretrain.machine import start
from pretrain.presets import PRESETS
from pretrain.train import Pretraining, encode_corpus

TRIAL = {"trial": int, "seed": int, "rate": float, "losses": dict, "diverged": list[str], "seconds": float}
"""A line of trials.jsonl. Losses are nats per character by schedule; seconds are the study's until then."""


@dataclass(kw_only=True)
class StudyOptions(StageOptions):
    """Paired trials: a constant learning rate, cyclical ones, and cosine with warm-up."""

    corpus: str = "auto"
    """Text to read: auto, tinyshakespeare, complete, pastiche, or the path of a UTF-8 text."""
    trials: int = 100
    """Learning rates to draw; each is trained with once by every schedule."""
    steps: int = 320
    """Optimizer steps of a run."""
    cycles: int = 4
    """Whole cycles in a run, so that it ends at their lower bound."""
    lowest_rate: float = 3e-5
    """Lowest rate that is drawn; rates are drawn log-uniformly."""
    highest_rate: float = 3e-2
    """Highest rate that is drawn. The defaults lie three decades apart around the best constant rate, so that a guess
    is as likely to be too low as too high."""
    ratio: float = 4.0
    """Upper bound of the cycles, and peak of cosine, as a multiple of the rate drawn."""
    workers: int | None = None
    """Processes of one thread each; default one for every core. How many changes no result."""

    how: ClassVar[tuple[str, ...]] = (*StageOptions.how, "workers")

    def validate(self) -> None:
        """Raise UserError for a study that cannot be made."""
        if self.trials < 2:
            raise UserError(f"trials must be at least 2, not {self.trials}: an interval needs as many")
        if not 0 < self.lowest_rate < self.highest_rate < math.inf:
            raise UserError(
                f"lowest_rate {self.lowest_rate:g} and highest_rate {self.highest_rate:g} are not a range: "
                "both must be positive, the second larger"
            )
        if not 1 < self.ratio < math.inf:
            raise UserError(f"ratio must be above 1, not {self.ratio:g}")
        if self.cycles < 1 or self.steps < 1 or self.steps % (2 * self.cycles):
            raise UserError(
                f"steps {self.steps} are not {self.cycles} whole cycles: make steps a multiple of {2 * self.cycles}"
            )
        if self.device not in ("auto", "cpu"):
            raise UserError(f"device is {self.device}, and the study trains on CPU cores: leave it out")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers must be at least 1, not {self.workers}")


def draw(options: StudyOptions, trial: int) -> tuple[float, int]:
    """The learning rate of a trial and the seed of its runs; they depend on nothing but the study's seed."""
    share = np.random.default_rng([options.seed, trial]).random()
    rate = options.lowest_rate * (options.highest_rate / options.lowest_rate) ** share
    return float(rate), (100_000 * options.seed + trial) % 2**64


def paired_configs(options: StudyOptions, trial: int) -> dict[str, PretrainConfig]:
    """What a trial trains: configurations that differ in the course of the learning rate alone.

    `constant_mean` is the control: constant at the mean of the triangular cycles. exp_range shrinks as fast as
    triangular2, by half a cycle; cosine rises for a twentieth of the steps and falls to a tenth of its peak.
    """
    rate, seed = draw(options, trial)
    half = options.steps // (2 * options.cycles)
    constant = replace(
        PRESETS["shakespeare-gpt"][1],
        corpus=options.corpus,
        seed=seed,
        steps=options.steps,
        schedule="constant",
        learning_rate=rate,
        device="cpu",
    )
    configs = {
        "constant": constant,
        "constant_mean": replace(constant, learning_rate=rate * (1 + options.ratio) / 2),
    }
    for name in CYCLIC_SCHEDULES:
        configs[name] = replace(
            constant,
            schedule=name,  # type: ignore[arg-type]
            learning_rate=rate * options.ratio,
            base_fraction=1 / options.ratio,
            step_size=half,
            gamma=0.5 ** (1 / (2 * half)),
        )
    configs["cosine"] = replace(
        constant, schedule="cosine", learning_rate=rate * options.ratio, warmup_fraction=0.05, final_fraction=0.1
    )
    return configs


def final_loss(config: PretrainConfig, corpus: Corpus | None = None) -> tuple[float, bool]:
    """Train; the loss in nats per character on the whole validation split, and whether the run diverged.

    A run that ends worse than the uniform guess, or with no number, counts as the uniform guess: so much any model
    can have for nothing.
    """
    run = Pretraining(config, corpus)
    for _ in range(config.steps):
        run.step()
    metrics = evaluate_split(run.model, run.tokenizer, run.corpus.validation, run.corpus.train)
    uniform = math.log(run.tokenizer.vocab_size) * metrics["tokens"] / metrics["chars"]
    nats = metrics["nats_per_char"]
    return (nats, False) if nats <= uniform else (uniform, True)


def run_trial(options: StudyOptions, trial: int, corpus: Corpus | None = None) -> dict[str, Any]:
    """A line of trials.jsonl but for its seconds; `corpus` is the text of `options.corpus`, if it is at hand."""
    rate, seed = draw(options, trial)
    results = {name: final_loss(config, corpus) for name, config in paired_configs(options, trial).items()}
    return {
        "trial": trial,
        "seed": seed,
        "rate": rate,
        "losses": {name: nats for name, (nats, _) in results.items()},
        "diverged": [name for name, (_, diverged) in results.items() if diverged],
    }


def _begin_worker() -> None:
    """One thread, on the CPU; ignores SIGINT, and exits with its parent."""
    start(threads=1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def run_trials(options: StudyOptions, corpus: Corpus, first: int) -> Generator[dict[str, Any], None, None]:
    """The trials from `first` on, in their order, run side by side."""
    pool = ProcessPoolExecutor(
        min(options.workers or os.cpu_count() or 1, options.trials - first),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
    )
    try:
        yield from pool.map(partial(run_trial, options, corpus=corpus), range(first, options.trials))
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps for want of memory: continue with fewer --workers and --resume"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.terminate()


def finished_trials(path: Path) -> list[dict[str, Any]]:
    """The whole lines of trials.jsonl; half a line, which a kill can leave, is removed."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_whole(path, whole)
    trials: list[dict[str, Any]] = [*read_jsonl(path, TRIAL)] if whole else []
    if [line["trial"] for line in trials] != list(range(len(trials))):
        raise UserError(f"{path} does not hold the trials 0, 1, 2, … in their order: start again with --overwrite")
    return trials


def run_study(options: StudyOptions) -> Path:
    """Make the study, or continue it; returns RUN/cyclical_study."""
    options.validate()
    corpus = first_corpus("cyclical_study", options, options.corpus)
    encode_corpus(corpus, paired_configs(options, 0)["constant"])  # or it is too short
    with open_stage(
        "cyclical_study",
        options,
        preset="shakespeare-gpt",
        command="python -m pretrain.cyclical_study",
        corpus=corpus,
    ) as stage:
        path = stage.path / "trials.jsonl"
        trials = finished_trials(path)
        stage.announce(
            f"{options.trials} trials of {len(paired_configs(options, 0))} runs, {options.steps} steps each"
            + (f"; {len(trials)} trials are done already" if trials else "")
        )
        if len(trials) < options.trials:
            trials += _run_remaining(options, corpus, stage, path, len(trials))
        stage.results = study_figures(trials, options.ratio)
        write_tables(stage.path / "table.md", trials, stage.results, options.ratio)
        plot_study(stage.path / "study.png", trials, stage.results, options.ratio)
        console.print(terminal_table(stage.results))
    return stage.final


def _run_remaining(
    options: StudyOptions, corpus: Corpus, stage: StageFolder, path: Path, first: int
) -> Iterator[dict[str, Any]]:
    """Run what is missing, and append every trial to the file when it and those before it are done."""
    with (
        closing(run_trials(options, corpus, first)) as remaining,
        progress_bar("cyclical_study", options.trials, first) as bar,
    ):
        for trial in remaining:
            trial["seconds"] = round(stage.seconds, 2)
            with path.open("ab") as file:
                file.write(json.dumps(trial).encode() + b"\n")
            stage.save_seconds()
            yield trial
            losses = trial["losses"]
            bar.advance(metric=f"rate {trial['rate']:.1e} · constant {losses['constant']:.3f}")


def main() -> None:
    run_study(command_line(StudyOptions, __doc__))


if __name__ == "__main__":
    # Worker processes look up what they run by its module's name, and none of them has a package's "__main__".
    run_command(import_module("pretrain.cyclical_study.__main__").main)
