"""One training of `bench_aligned.py`: PPO until the gold judge likes the policy well enough, and when that was.

    python scripts/bench/bench_aligned_worker.py ours|trl WORK.json RESULT.json

Both sides are evaluated by the same code of this project, each in its own process, while its clock is stopped. `trl`
runs in the environment that has TRL's PPOTrainer.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
import transformers
from bench_ppo_worker import Work, our_trainer, trl_trainer

from data.console import UserError

JUDGED_WITH = 1
"""Seed of the replies that are judged: one for all trainings, whatever seed they have."""


@dataclass
class AlignedWork(Work):
    """A training, and what it is to reach."""

    run: str
    """Run folder: its SFT model, gold judge and held-out prompts."""
    gain: float
    """By how much the gold judge's mean has to exceed that of the SFT model's replies."""
    kl: float
    """Nats per reply to the SFT model, at most."""
    cap: float
    """Seconds of training after which it has failed."""
    every: int
    """Updates between evaluations."""


class Judged(NamedTuple):
    """What replies to the held-out prompts are worth."""

    gold: float
    kl: float
    stopped: float


class Evaluation(NamedTuple):
    """A policy after some updates. `seconds`: of training alone."""

    updates: int
    seconds: float
    gold: float
    kl: float
    stopped: float


@dataclass
class Training:
    """What became of one training."""

    before: float = math.nan
    """The gold judge's mean on the SFT model's replies."""
    evaluations: list[Evaluation] = field(default_factory=list)
    failed: str | None = None
    """The error that ended it, if one did."""
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, result: dict[str, Any]) -> "Training":
        """From its JSON."""
        return cls(**result | {"evaluations": [Evaluation(*each) for each in result["evaluations"]]})


def first_aligned(training: Training, gain: float, kl: float, cap: float) -> Evaluation | None:
    """The first evaluation with the gain, at no more than `kl` nats, within `cap` seconds; None if there is none."""
    return next(
        (
            each
            for each in training.evaluations
            if each.gold - training.before >= gain and each.kl <= kl and each.seconds <= cap
        ),
        None,
    )


def heldout_judge(run: Path) -> Callable[[Any | None], Judged]:
    """A function that judges a policy (None: the SFT model) as it is now, by its replies to all dev prompts."""
    from rlhf.algorithms.config import CRAFT_ALONE
    from rlhf.algorithms.task import AlignmentTask

    config = replace(CRAFT_ALONE["laptop"], run=run, device="cpu", seed=JUDGED_WITH, eval_prompts=sys.maxsize)
    task = AlignmentTask(config)
    judge = task.judge(task.heldout)

    def judged(policy: Any | None) -> Judged:
        model = task.sft_model if policy is None else task.plain(policy)
        replies = judge.judge_gold(task.sampler.sample(model, draw=0))
        return Judged(fmean(replies.gold), judge.kl(model, replies), fmean(replies.stopped))

    return judged


class Reached(Exception):
    """Nothing is left to train for."""


class Stopwatch:
    """Evaluates a policy in training every few updates, and counts the seconds between."""

    def __init__(
        self,
        work: AlignedWork,
        judge: Callable[[Any | None], Judged],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.work, self.judge, self.clock = work, judge, clock
        self.training = Training(before=judge(None).gold)
        self.updates, self.seconds, self._since = 0, 0.0, clock()

    def start(self) -> None:
        self._since = self.clock()

    def after_update(self, policy: Any) -> None:
        """Raises Reached when the training has succeeded, or has used up its seconds or its updates."""
        self.updates += 1
        work = self.work
        if self.updates % work.every and self.updates != work.updates:
            return
        self.seconds += self.clock() - self._since
        self.training.evaluations.append(Evaluation(self.updates, self.seconds, *self.judge(policy)))
        done = self.updates == work.updates or self.seconds >= work.cap
        if done or first_aligned(self.training, work.gain, work.kl, work.cap):
            raise Reached
        self.start()


def train_ours(work: AlignedWork, stopwatch: Stopwatch) -> None:
    """This project's trainer."""
    trainer = our_trainer(work, work.updates)
    stopwatch.start()
    while True:
        trainer.step()
        stopwatch.after_update(trainer.policy.lm)


def train_trl(work: AlignedWork, stopwatch: Stopwatch) -> None:
    """TRL's trainer."""
    import trl

    stopwatch.training.versions["trl"] = trl.__version__
    trainer = trl_trainer(work, work.updates, stopwatch.after_update)
    stopwatch.start()
    trainer.train()


def run(work: AlignedWork, train: Callable[[AlignedWork, Stopwatch], None]) -> Training:
    """One training, from its first update to its end."""
    stopwatch = Stopwatch(work, heldout_judge(Path(work.run)))
    training = stopwatch.training
    training.versions |= {"torch": torch.__version__, "transformers": transformers.__version__}
    try:
        train(work, stopwatch)
    except Reached:
        pass
    except (RuntimeError, ValueError, UserError) as error:
        # Settings may be such that weights stop being numbers. What never got going is a fault of the benchmark.
        if not stopwatch.updates:
            raise
        training.failed = f"{type(error).__name__} after {stopwatch.updates} updates: {' '.join(str(error).split())}"
    return training


def main(arguments: Sequence[str]) -> None:
    side, work_file, result_file = arguments
    work = AlignedWork(**json.loads(Path(work_file).read_text()))
    torch.set_num_threads(work.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    training = run(work, {"ours": train_ours, "trl": train_trl}[side])
    Path(result_file).write_text(json.dumps(asdict(training)))


if __name__ == "__main__":
    main(sys.argv[1:])
