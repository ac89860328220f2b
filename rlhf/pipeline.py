"""Run all stages in sequence: python -m rlhf.pipeline PRESET --run RUN [--corpus CORPUS] [--seed SEED]

Reads: a text.

Does: pretrain, sft, reward, rlhf and rlhf.compare, each in a process of its own. A finished stage is kept and an
unfinished one continued: if interrupted, run the same command again. On the pastiche, PPO at preset laptop gets
--learning-rate 8e-4 --craft-weight 2.2.

Writes: a folder of RUN per stage, and the report RUN/compare/report.html.
"""

import multiprocessing
import runpy
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from data.console import UserError, run_command
from data.run.options import command_line, unknown
from data.run.record import read_stage
from sft.config import PRESETS

GPUS = (Path("/dev/nvidia0"), Path("/dev/kfd"), Path("/dev/dxg"))
"""Files of a Linux system with a GPU, whose driver does not survive a fork."""
IMPORTED = ("pretrain.train", "sft.train", "reward.train", "rlhf.algorithms.ppo", "rlhf.compare.report")
"""What the stages import, but for the modules that are run: once for all, in the process that forks for each."""

SUITED = {("laptop", "rlhf"): {"pastiche": ("--learning-rate", "8e-4", "--craft-weight", "2.2")}}
"""What a stage is given besides its preset, by preset and stage, and then by text. The preset's balance is
Shakespeare's: with it, replies in the manner of the pastiche, which has few ways to say a thing, become templates that
do not do as told."""


class Stage(NamedTuple):
    """A stage of the pipeline: its folder, its module and its arguments."""

    name: str
    module: str
    arguments: tuple[str, ...]


@dataclass(kw_only=True)
class PipelineOptions:
    """Run all stages in sequence."""

    preset: tyro.conf.Positional[str]
    """Preset of every stage: smoke, laptop or gpu."""
    run: Path
    """Folder of the run; every stage has a folder in it."""
    corpus: str = "auto"
    """Text of the pretraining stage: its name, or a file of your own."""
    seed: int | None = None
    """Seed of every stage. None: the stages' own default."""
    launch: Annotated[str, tyro.conf.arg(metavar="COMMAND")] = ""
    """Command that launches every stage on several devices, such as "accelerate launch"."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """In sequence."""
        presets = [Stage(name, name, (self.preset,)) for name in ("sft", "reward", "rlhf")]
        first = Stage("pretrain", "pretrain", (self.preset, "--corpus", self.corpus))
        return (first, *presets, Stage("compare", "rlhf.compare", ()))


def run_stages(options: PipelineOptions) -> dict[str, float]:
    """Run what is not finished; returns seconds by stage. Ends the process as a stage does that fails."""
    if options.preset not in PRESETS:  # pretraining has others, and would end before the next stage says so
        raise unknown("preset", options.preset, PRESETS)
    seconds = {}
    for stage in options.stages:
        if (options.run / stage.name / "stage.json").is_file():
            print(f"{stage.name}: finished before, kept ({options.run / stage.name})", file=sys.stderr)
            continue
        started = time.monotonic()
        arguments = [*stage.arguments, *_suited(options, stage), "--run", str(options.run)]
        if options.seed is not None:
            arguments += ["--seed", str(options.seed)]
        if (options.run / f".{stage.name}.partial" / "settings.json").is_file():
            arguments.append("--resume")
        code = _launch(options.launch, stage.module, arguments) if options.launch else _fork(stage.module, arguments)
        if code:
            sys.exit(code if code > 0 else 128 - code)
        seconds[stage.name] = time.monotonic() - started
    return seconds


def _suited(options: PipelineOptions, stage: Stage) -> tuple[str, ...]:
    """See `SUITED`."""
    by_text = SUITED.get((options.preset, stage.name))
    return by_text.get(read_stage(options.run / "pretrain").corpus["name"], ()) if by_text else ()


def _launch(launcher: str, module: str, arguments: Sequence[str]) -> int:
    try:
        return subprocess.run([*shlex.split(launcher), "-m", module, *arguments], check=False).returncode
    except FileNotFoundError as error:
        raise UserError(f"--launch {launcher!r}: there is no command {error.filename!r}: install it") from error


def _fork(module: str, arguments: Sequence[str]) -> int:
    """Run the module in a process that has what it imports, where a process can be forked; its exit code."""
    can_fork = sys.platform == "linux" and not any(gpu.exists() for gpu in GPUS)
    context: Any = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload(list(IMPORTED))
    process = context.Process(target=_run, args=(module, list(arguments)))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:  # the stage got it too, and says how it goes on
        process.join()
    return int(process.exitcode)


def _run(module: str, arguments: list[str]) -> None:
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main() -> None:
    options = command_line(PipelineOptions, __doc__)
    started = time.monotonic()
    seconds = run_stages(options)
    for name, spent in (seconds | {"total": time.monotonic() - started}).items():
        print(f"{name:9} {spent:4.0f} s", file=sys.stderr)
    print(f"report: {options.run / 'compare' / 'report.html'}", file=sys.stderr)
    print(f"play with the models: {Path(sys.executable)} -m rlhf.play --run {options.run}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
