"""The study of learning rates: trials are paired, figures are right, a killed study is the study never stopped."""

import dataclasses
import hashlib
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from data.console import UserError
from data.corpus import load_corpus
from data.run.folder import open_stage
from pretrain.cyclical_study.__main__ import (
    StudyOptions,
    draw,
    final_loss,
    finished_trials,
    paired_configs,
    run_study,
    run_trial,
)
from pretrain.cyclical_study.report import bootstrap_interval, study_figures, write_tables
from pretrain.train import Pretraining
from pretrain.training.schedules import lr_factor

Run = Callable[..., Any]
SCHEDULES = ["constant", "constant_mean", "triangular", "triangular2", "exp_range", "cosine"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chooser = random.Random(0)
    words = ["thou", "art", "a", "gentle", "brook", "and", "I", "the", "miller", "of", "thy", "water"]
    path = tmp_path_factory.mktemp("corpus") / "brook.txt"
    path.write_text("\n".join(" ".join(chooser.choices(words, k=8)) for _ in range(300)), "utf-8")
    return path


@pytest.fixture
def options(corpus: Path, tmp_path: Path) -> StudyOptions:
    return StudyOptions(corpus=str(corpus), trials=2, steps=8, cycles=2, run=tmp_path / "run")


def test_rates_are_log_uniform_in_their_range_and_depend_on_the_seed_and_the_trial_alone() -> None:
    options = StudyOptions(lowest_rate=1e-4, highest_rate=1e-2)
    drawn = [draw(options, trial) for trial in range(2000)]
    shares = [math.log10(rate / 1e-4) / 2 for rate, _ in drawn]
    assert 0 <= min(shares) < 0.01 < 0.99 < max(shares) <= 1
    for tenth in range(10):
        assert sum(tenth <= 10 * share < tenth + 1 for share in shares) == pytest.approx(200, abs=50)
    assert len({seed for _, seed in drawn}) == 2000
    assert draw(options, 7) == drawn[7] != draw(dataclasses.replace(options, seed=2), 7)


def test_the_schedules_of_a_trial_by_hand() -> None:
    """320 steps are 4 cycles of 80: the lower bound at 0, 80, 160, the tops at 40, 120, 200, 280."""
    options = StudyOptions()
    rate, seed = draw(options, 3)
    configs = paired_configs(options, 3)
    assert list(configs) == SCHEDULES

    def relative(name: str, steps: list[int]) -> list[float]:
        config = configs[name]
        config.validate()
        return [config.learning_rate * lr_factor(step, config) / rate for step in steps]

    assert relative("constant", [0, 319]) == pytest.approx([1, 1])
    assert relative("triangular", [0, 20, 40, 80, 280, 320]) == pytest.approx([1, 2.5, 4, 1, 4, 1])
    assert relative("triangular2", [0, 40, 80, 120, 200, 280, 320]) == pytest.approx([1, 4, 1, 2.5, 1.75, 1.375, 1])
    half = math.sqrt(0.5)
    assert relative("exp_range", [0, 40, 80, 120]) == pytest.approx([1, 1 + 3 * half, 1, 1 + 3 * half / 2])
    assert relative("cosine", [0, 15, 16, 320]) == pytest.approx([0.25, 4, 4, 0.4])
    assert relative("constant_mean", [0, 319]) == pytest.approx([np.mean(relative("triangular", list(range(320))))] * 2)
    course = {"schedule", "learning_rate", "base_fraction", "step_size", "gamma", "warmup_fraction", "final_fraction"}
    for config in configs.values():
        assert config.seed == seed
        differing = {
            field.name
            for field in dataclasses.fields(config)
            if getattr(config, field.name) != getattr(configs["constant"], field.name)
        }
        assert differing <= course


def test_weights_batches_and_dropout_are_the_same_for_every_schedule(
    options: StudyOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    step = Pretraining.step

    def watched(run: Pretraining) -> None:
        if run.progress.step == 0:
            weights = b"".join(tensor.numpy().tobytes() for tensor in run.model.state_dict().values())
            seen.append({"weights": hashlib.sha256(weights).hexdigest(), "batches": [], "dropout": [], "rates": []})
        batch = run.windows.batch(run.progress.step)
        seen[-1]["batches"].append(hashlib.sha256(batch.numpy().tobytes()).hexdigest())
        seen[-1]["dropout"].append(hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest())
        step(run)
        seen[-1]["rates"].append(run.optimizers[0].param_groups[0]["lr"])

    monkeypatch.setattr(Pretraining, "step", watched)
    trials = [run_trial(options, 0), run_trial(options, 1)]
    assert len(seen) == 2 * len(SCHEDULES)
    for number, trial in enumerate(trials):
        runs = seen[number * len(SCHEDULES) : (number + 1) * len(SCHEDULES)]
        for what in ("weights", "batches", "dropout"):
            assert all(run[what] == runs[0][what] for run in runs), what
        assert len(set(runs[0]["batches"])) == len(set(runs[0]["dropout"])) == options.steps
        assert len({tuple(run["rates"]) for run in runs}) == len(set(trial["losses"].values())) == len(SCHEDULES)
        assert runs[0]["rates"] == pytest.approx([trial["rate"]] * options.steps)
    for what in ("weights", "batches", "dropout"):
        assert seen[0][what] != seen[-1][what], what


def test_a_run_that_diverges_counts_as_the_uniform_guess(options: StudyOptions) -> None:
    sane = paired_configs(options, 0)["constant"]
    nats, diverged = final_loss(sane)
    characters = len(set(Path(options.corpus).read_text())) + 2  # and two special tokens
    assert nats < math.log(characters)
    assert not diverged
    for rate in (100.0, 1e30):  # much worse than uniform, and no number
        assert final_loss(dataclasses.replace(sane, learning_rate=rate)) == (pytest.approx(math.log(characters)), True)


def test_bootstrap_interval_by_hand() -> None:
    """Of {0, 0, 0, 1} a resample has the mean 1 with .4 %, .75 or more with 5.1 %, 0 with 32 %."""
    for values, expected in (([0, 1], (0, 1)), ([0, 0, 0, 1], (0, 0.75)), ([3, 3, 3], (3, 3))):

        def mean(drawn: Any, column: Any = np.array(values)) -> Any:  # noqa: B008
            return column[drawn].mean(-1)

        assert bootstrap_interval(mean, len(values)) == expected


def test_bootstrap_interval_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(3).gamma(2.0, size=100)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", random_state=1)
    ours = bootstrap_interval(lambda drawn: values[drawn].mean(-1), 100)
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)
    assert ours != pytest.approx((values.mean(), values.mean()), abs=0.1)


def test_figures_by_hand() -> None:
    """Ten rates, so that neighbours are no more than each trial itself; the best constant rate is 8e-4."""
    trials = []
    for index in range(10):
        losses = dict.fromkeys(SCHEDULES, 2.0 + abs(index - 3))
        losses |= {"cosine": losses["constant"] / 1.25, "triangular": 2.0}
        line = {"rate": 1e-4 * 2**index, "losses": losses, "diverged": ["cosine"] if index == 9 else []}
        trials.append({"trial": index, "seed": index, "seconds": 0.0} | line)
    random.Random(0).shuffle(trials)
    figures = study_figures(trials, ratio=3.0)
    assert figures["trials"] == 10
    assert figures["best_constant_rate"] == pytest.approx(8e-4)
    assert figures["schedules"]["constant"]["mean_nats_per_char"] == pytest.approx(4.7)
    assert figures["schedules"]["cosine"]["best_nats_per_char"] == pytest.approx(1.6)
    assert [figures["schedules"][name]["diverged"] for name in ("constant", "cosine")] == [0, 1]
    compared = {(line["loss_of"], line["over_loss_of"]): line for line in figures["comparisons"]}
    cosine = compared["constant", "cosine"]
    assert (cosine["mean"], cosine["median"], cosine["won"]) == pytest.approx((1.25, 1.25, 1.0))
    assert cosine["interval"] == pytest.approx((1.25, 1.25))
    assert cosine["both_at_their_best"] == pytest.approx(1.25)
    # Factors of triangular: 2.5, 2, 1.5, 1, 1.5, 2, 2.5, 3, 3.5, 4.
    triangular = compared["constant", "triangular"]
    assert (triangular["mean"], triangular["median"], triangular["won"]) == pytest.approx((2.35, 2.25, 0.9))
    assert 1.7 < triangular["interval"][0] < 2.35 < triangular["interval"][1] < 3.0
    assert triangular["both_at_their_best"] == pytest.approx(1.0)
    expected = {"too low": (2, 2.25), "about right": (3, 4 / 3), "too high": (5, 3.0)}
    for name, (count, mean) in expected.items():
        assert triangular["regions"][name] == {"trials": count, "mean": pytest.approx(mean)}
    # The control's own rate is twice the rate drawn: 2e-4 is too low, 16e-4 about right, 32e-4 too high.
    regions = compared["constant_mean", "triangular"]["regions"]
    assert [regions[name]["trials"] for name in expected] == [1, 3, 6]


def lines_of(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.mark.slow
def test_killed_and_resumed_is_the_study_never_stopped(
    command: Run, options: StudyOptions, tmp_path: Path, one_thread: None
) -> None:
    """Begun with one worker and continued with two: to the bit what this process makes of the same trials."""
    options = dataclasses.replace(options, trials=3)
    settings = ["--trials", 3, "--steps", options.steps, "--cycles", options.cycles, "--corpus", options.corpus]
    arguments = ["pretrain.cyclical_study", *settings, "--run", options.run]
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments), "--workers", "1"], stderr=subprocess.DEVNULL
    )
    begun = options.run / ".cyclical_study.partial" / "trials.jsonl"
    deadline = time.monotonic() + 120
    while not (begun.exists() and begun.read_bytes().count(b"\n")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert workers
    assert not psutil.wait_procs(workers, timeout=30)[1], "a worker outlives the study"
    assert 1 <= len(lines_of(begun)) < 3
    with begun.open("a") as file:
        file.write('{"trial": 1, "seed"')
    printed = command(*arguments, "--workers", 2, "--resume").stderr
    assert "constant/triangular2" in printed

    folder = options.run / "cyclical_study"
    assert {path.name for path in folder.iterdir()} == {"stage.json", "study.png", "table.md", "trials.jsonl"}
    whole = [run_trial(options, trial) for trial in range(3)]
    assert lines_of(folder / "trials.jsonl") == whole
    figures = study_figures(whole, options.ratio)
    record = json.loads((folder / "stage.json").read_text())
    assert record["results"] == json.loads(json.dumps(figures))
    write_tables(tmp_path / "table.md", whole, figures, options.ratio)
    assert (folder / "table.md").read_text() == (tmp_path / "table.md").read_text()
    assert f"{whole[2]['losses']['cosine']:.4f}" in (folder / "table.md").read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": 1}, "trials must be at least 2"),
        ({"steps": 10}, "make steps a multiple of 4"),
        ({"cycles": 0}, "whole cycles"),
        ({"lowest_rate": 0.0}, "not a range"),
        ({"highest_rate": 1e-6}, "not a range"),
        ({"ratio": 1.0}, "ratio must be above 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"resume": True}, "nothing to resume"),
    ],
)
def test_impossible_studies_are_refused_and_leave_nothing(
    options: StudyOptions, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        run_study(dataclasses.replace(options, **changes))
    assert not options.run.exists()


def test_other_settings_cannot_continue_a_study(options: StudyOptions) -> None:
    begun, corpus = dataclasses.replace(options, ratio=3.0, workers=2), load_corpus(options.corpus)
    with (
        pytest.raises(KeyboardInterrupt),
        open_stage("cyclical_study", begun, preset="shakespeare-gpt", corpus=corpus),
    ):
        raise KeyboardInterrupt
    with pytest.raises(UserError, match=r"begun with other settings \(ratio\)"):
        run_study(dataclasses.replace(options, resume=True, workers=1))


def test_files_of_trials_that_are_no_study_are_refused(tmp_path: Path) -> None:
    line = {"trial": 0, "seed": 1, "rate": 0.1, "losses": {}, "diverged": [], "seconds": 1.0}
    path = tmp_path / "trials.jsonl"
    assert finished_trials(path) == []
    path.write_text(json.dumps(line)[:-3])
    assert finished_trials(path) == []
    assert path.read_bytes() == b""
    path.write_text(json.dumps(line) + "\n" + json.dumps(line | {"trial": 2}) + "\n")
    with pytest.raises(UserError, match="in their order"):
        finished_trials(path)


def test_a_bad_corpus_is_one_line(refused: Run, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("Good night.")
    arguments = ["pretrain.cyclical_study", "--trials", 2, "--steps", 8, "--corpus", path, "--run", tmp_path / "run"]
    assert "too short" in refused(*arguments)
    assert not (tmp_path / "run").exists()
