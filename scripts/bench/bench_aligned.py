"""Time to aligned: seconds of PPO until the gold judge likes the policy better than SFT's, next to TRL's PPOTrainer.

    python scripts/bench/bench_aligned.py --run runs/demo                # 23 minutes on two cores
    python scripts/bench/bench_aligned.py --run runs/demo --only ours    # a piece: one side,
    python scripts/bench/bench_aligned.py --run runs/demo --seeds 1      # or one seed

Both trainers start from the SFT and the reward model of a finished `make demo`. Prompts ask for nothing, and the
learned reward is all that is maximised: what TRL's trainer can do. Ours has its preset for such a run, TRL's has those
settings of `GRID` that were best on one seed. Every few updates the clock stops, and the policy replies to all held-out
dev prompts: one sampler with one seed, one judge and one KL estimate serve both. The first evaluation with the gain, at
no more than `--kl` nats, gives the seconds. Imports, loading and evaluations are not counted.

Each training is written to OUT/trainings.json when it ends, and is not done again: an interrupted table continues, and
pieces of it may be measured at different times.
"""

import dataclasses
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
import tyro
from bench import machine, print_ratio
from bench_aligned_worker import AlignedWork, Evaluation, Training, first_aligned
from bench_ppo import TRL, Side, run_worker, task_work, trl_python

from data.console import UserError, run_command
from data.run.record import git_commit, read_parent
from data.run.writing import table
from rlhf.algorithms.config import CRAFT_ALONE

GRID_SEED = 1
"""The seed on which TRL's settings are chosen."""
GRID: dict[str, dict[str, Any]] = {
    "our preset": {},
    "a third of its rate": {"learning_rate": 5e-4},
    "twice the epochs, half its rate": {"num_ppo_epochs": 2, "learning_rate": 7.5e-4},
    "TRL's defaults at 5e-4": {
        "num_ppo_epochs": 4,
        "num_mini_batches": 1,
        "learning_rate": 5e-4,
        "adam_beta2": 0.999,
        "kl_coef": 0.05,
        "cliprange_value": 0.2,
        "missing_eos_penalty": 1.0,
    },
}
"""TRL's settings, as changes of our preset. It has one learning rate for policy and value, and it decays to 0. Its own
default of 3e-6 is for models a thousand times as large."""
AIM = 5.0
"""Times that ours is to be faster."""


@dataclass
class AlignedOptions:
    """Measure what is not measured yet, and print the table of all that is."""

    run: Path
    """Run folder with the stages sft and reward of `make demo`."""
    only: Side | None = None
    """Measure this side alone."""
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    """Seeds of the trainings."""
    gain: float = 0.10
    """Gain of the gold judge's mean over that of SFT's replies that ends a training."""
    kl: float = 10.0
    """Nats per reply to the SFT model, at most."""
    cap: float = 600.0
    """Seconds of training after which one has failed. It also ends with its schedule."""
    every: int = 2
    """Updates between evaluations."""
    episodes: int = CRAFT_ALONE["laptop"].total_episodes
    """Episodes of every training's schedule, by default the preset's."""
    threads: int = os.cpu_count() or 1
    """Threads of every training."""
    cache: Path = Path.home() / ".cache" / "shakespeare-rlhf"
    """Where TRL is installed once."""
    out: Path = Path("build/bench-aligned")
    """Folder of trainings.json."""

    def check(self) -> None:
        """Raise UserError on what cannot be measured."""
        for name in ("every", "threads", "cap"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}: it must be at least 1")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError("--seeds must be different numbers, at least one")
        if self.episodes < CRAFT_ALONE["laptop"].batch_size:
            raise UserError(f"--episodes is {self.episodes}: one update takes {CRAFT_ALONE['laptop'].batch_size}")


class Trainings:
    """The trainings that have ended, in a file, by all that they depend on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else []
        except ValueError:
            raise UserError(f"{path} is damaged: delete it, or give another --out") from None

    def get(self, key: Mapping[str, Any]) -> Training | None:
        found = (row for row in self.rows if row["key"] == normal(key))
        return next((Training.of(row["training"]) for row in found), None)

    def add(self, key: Mapping[str, Any], training: Training) -> None:
        made = {"commit": git_commit(), "date": time.strftime("%Y-%m-%d"), "machine": machine()}
        self.rows.append({"key": normal(key), "training": normal(dataclasses.asdict(training))} | made)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.rows, indent=1) + "\n", "utf-8")
        partial.replace(self.path)


def normal(value: Any) -> Any:
    """As it is after JSON."""
    return json.loads(json.dumps(value))


class Bench:
    """All trainings of a table: done, or to be done now."""

    def __init__(self, options: AlignedOptions, work: AlignedWork, parents: Mapping[str, str], python: Path) -> None:
        """parents: SHA-256 of the weights of sft and reward."""
        self.options, self.work, self.parents, self.python = options, work, parents, python
        self.trainings = Trainings(options.out / "trainings.json")

    def training(self, side: Side, name: str, changes: Mapping[str, Any], seed: int) -> Training | None:
        """The training of a side with these settings; None if it is not done and not to be done now."""
        config = {**self.work.config, **changes, "seed": seed}
        work = dataclasses.replace(self.work, config=config)
        asked = {each: getattr(work, each) for each in ("config", "updates", "threads", "gain", "kl", "cap", "every")}
        key = {"side": side, "trl": TRL if side == "trl" else None, **asked, **self.parents}
        if (found := self.trainings.get(key)) is not None or self.options.only not in (None, side):
            return found
        print(f"{side}, {name}, seed {seed}: ", end="", flush=True)
        python = self.python if side == "trl" else sys.executable
        training = Training.of(run_worker("bench_aligned_worker.py", side, work, python))
        self.trainings.add(key, training)
        print(", ".join(self.cells(training)), flush=True)
        return training

    def reached(self, training: Training) -> Evaluation | None:
        return first_aligned(training, self.options.gain, self.options.kl, self.options.cap)

    def seconds(self, training: Training) -> float:
        reached = self.reached(training)
        return reached.seconds if reached else math.inf

    def most(self, training: Training) -> Evaluation | None:
        """The evaluation with the largest gain among those near enough to SFT."""
        near = [each for each in training.evaluations if each.kl <= self.options.kl]
        return max(near, key=lambda each: each.gold, default=None)

    def cells(self, training: Training) -> tuple[str, str, str, str]:
        """Seconds, episodes, gain and KL of a training when it reached the goal; else its best moment."""
        shown = self.reached(training) or self.most(training)
        numbers = ("?", "?", "?")
        if shown:
            episodes = shown.updates * self.work.config["batch_size"]
            numbers = (f"{episodes:,}", f"{shown.gold - training.before:+.3f}", f"{shown.kl:.1f}")
        if self.reached(training) and shown:
            return (f"{shown.seconds:.0f} s", *numbers)
        if training.failed:
            return (f"failed: {training.failed}", *numbers)
        last = training.evaluations[-1]
        within = f"{self.options.cap:g} s"
        if last.seconds < self.options.cap:
            within = f"{self.options.episodes:,} episodes ({last.seconds:.0f} s)"
        return (f"not within {within}", *numbers)

    def best(self, grid: Mapping[str, Training]) -> str:
        """The settings that were fastest, or that came nearest where none arrived."""

        def rank(name: str) -> tuple[float, float]:
            most = self.most(grid[name])
            return self.seconds(grid[name]), -most.gold if most else math.inf

        return min(grid, key=rank)

    def measure(self) -> tuple[dict[int, Training], dict[str, Training], str | None, dict[int, Training]]:
        """Ours by seed, TRL's grid by name, the best of it once it is complete, and that by seed."""
        ours: dict[int, Training] = {}
        for seed in self.options.seeds:
            if (training := self.training("ours", "preset", {}, seed)) is not None:
                ours[seed] = training
        grid: dict[str, Training] = {}
        for name, changes in GRID.items():
            if (training := self.training("trl", name, changes, GRID_SEED)) is not None:
                grid[name] = training
        if len(grid) < len(GRID):
            return ours, grid, None, {}
        best = self.best(grid)
        theirs: dict[int, Training] = {}
        for seed in self.options.seeds:
            if (training := self.training("trl", best, GRID[best], seed)) is not None:
                theirs[seed] = training
        return ours, grid, best, theirs

    def row(self, trainer: str, settings: str, trainings: Mapping[int, Training]) -> list[str]:
        """One line of the table: each cell has one entry per seed."""
        columns = zip(*(self.cells(training) for training in trainings.values()), strict=True)
        return [trainer, settings, ", ".join(map(str, trainings)), *("; ".join(column) for column in columns)]

    def report(self) -> None:
        """Measure, then print the table and the ratio of the median seconds."""
        ours, grid, best, theirs = self.measure()
        rows = [self.row(f"TRL {TRL}", f"grid: {name}", {GRID_SEED: training}) for name, training in grid.items()]
        if theirs:
            rows.append(self.row(f"TRL {TRL}", f"best: {best}", theirs))
        if ours:
            rows.append(self.row("ours", "preset laptop, nothing asked", ours))
        head = ("trainer", "settings", "seed", "seconds of training", "episodes", "gold gain", "KL")
        options = self.options
        print(f"\nGold +{options.gain:g} at KL ≤ {options.kl:g}, {options.threads} thread(s)")
        print("Where that was not reached, gain and KL are those of the best moment.")
        print(table(head, rows))
        if ours and theirs:
            self.ratio([*ours.values()], [*theirs.values()])

    def ratio(self, ours: list[Training], theirs: list[Training]) -> None:
        """TRL's median seconds over ours; a median that did not arrive is said to be none."""
        mine, other = (statistics.median(map(self.seconds, side)) for side in (ours, theirs))
        if math.isinf(mine):
            print(f"ours did not reach the goal on most seeds: no ratio   aim ≥ {AIM:g}: MISSED")
        elif math.isinf(other):
            print("TRL did not reach the goal on most seeds: no ratio")
        else:
            print_ratio("TRL's seconds / ours, medians", other / mine, AIM)


def aligned_work(options: AlignedOptions) -> AlignedWork:
    """What our preset learns from where nothing is asked, and the goal."""
    config = CRAFT_ALONE["laptop"]
    work = task_work(options.run, options.episodes // config.batch_size, options.threads, config)
    goal = {name: getattr(options, name) for name in ("gain", "kl", "cap", "every")}
    return AlignedWork(**vars(work), run=str(options.run), **goal)


def main() -> None:
    options = tyro.cli(AlignedOptions)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    options.check()
    print(machine(), flush=True)
    parents = {name: read_parent(options.run, name).weights_sha256 for name in ("sft", "reward")}
    work = aligned_work(options)
    python = Path() if options.only == "ours" else trl_python(options.cache.expanduser().resolve())
    try:
        Bench(options, work, parents, python).report()
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues with the training that was not finished")
        sys.exit(130)


if __name__ == "__main__":
    run_command(main)
