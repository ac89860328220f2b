"""The seed projects' models, trained as far as fits a CPU, next to what was published at the same step.

    python scripts/docs/seed_models.py                          # all of them, one after another
    python scripts/docs/seed_models.py nanogpt-cpu lecture      # some

A model is trained by `python -m pretrain PRESET` in runs/seeds/PRESET and stopped at the step of the last figure that
it is compared with; if interrupted, run the same command again to resume. Prints the rows of docs/results.md.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pretrain.presets import PRESETS

RUNS = Path("runs/seeds")


@dataclass(frozen=True)
class Seed:
    """What a preset's project published: validation loss in nats per token, by optimizer step."""

    preset: str
    until: int
    """The last step that is trained here."""
    published: dict[int, float]
    source: str
    options: Sequence[str] = field(default_factory=tuple)
    """What is not as in the preset: how often it is evaluated, and bfloat16 where float32 would take too long."""


PREFIX = ("--precision", "bf16", "--eval-every", "25", "--save-every", "25")
SEEDS = [
    Seed("nanogpt-cpu", 2000, {2000: 1.88}, "nanoGPT's README"),
    Seed("shakespeare-gpt", 5000, {}, "nothing: its README leaves the figure blank"),
    Seed("shakespearegpt", 10_000, {5000: 1.8226}, "the notebook of the lecture, the same settings"),
    Seed(
        "gpt-from-scratch",
        1000,
        {0: 4.6392, 1000: 1.8864},
        "its README",
        ("--precision", "bf16", "--eval-every", "500"),
    ),
    Seed("shakespeare-tokens", 300, {100: 9.45, 200: 6.97, 300: 6.2}, "its plot, read off", ("--precision", "bf16")),
    Seed("lecture", 25, {0: 4.2306}, "logs of those who ran the script", PREFIX),
    # gptfromscratch has the very same settings.
    Seed("shakespeare-bigram", 25, {}, "nothing", PREFIX),
    Seed(
        "nanogpt-gpu",
        50,
        {0: 4.2823, 50: 2.5239},
        "a log of nanoGPT's own script on an Apple M4; at 50 a batch's training loss",
        (*PREFIX, "--no-compile"),
    ),
]


def train_until(seed: Seed) -> list[dict]:
    """The preset's metrics up to the step `seed.until`, trained now where they are not there yet."""
    run = RUNS / seed.preset
    whole, partial = run / "pretrain", run / ".pretrain.partial"
    if whole.exists():
        return read_metrics(whole)
    if reached(partial, seed.until):
        return read_metrics(partial)
    command = [sys.executable, "-m", "pretrain", seed.preset, "--run", str(run), *seed.options]
    process = subprocess.Popen(command + (["--resume"] if partial.exists() else []))
    while process.poll() is None:
        time.sleep(1)
        if seed.until < PRESETS[seed.preset][1].steps and reached(partial, seed.until):
            process.terminate()  # a process in the background may ignore an interrupt
            process.wait()
            return read_metrics(partial)
    if process.returncode:
        raise SystemExit(process.returncode)
    return read_metrics(whole)


def read_metrics(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def reached(folder: Path, step: int) -> bool:
    return any(line["step"] >= step for line in read_metrics(folder))


def rows(seed: Seed) -> list[str]:
    """A line of the table for every published figure, and for the last step."""
    metrics = {line["step"]: line for line in train_until(seed) if line["step"] <= seed.until}
    found = []
    for step in sorted({*seed.published, max(metrics)} & metrics.keys()):
        line = metrics[step]
        published = seed.published.get(step)
        steps = f"{step:,} of {PRESETS[seed.preset][1].steps:,}"
        found.append(
            f"| `{seed.preset}` | {steps} | {'' if published is None else published} | {seed.source} "
            f"| {line['nats_per_token']:.4f} | {line['seconds']:.0f} s | {' '.join(seed.options)} |"
        )
    return found


def main() -> None:
    names = sys.argv[1:] or [seed.preset for seed in SEEDS]
    unknown = set(names) - {seed.preset for seed in SEEDS}
    if unknown:
        raise SystemExit(f"no such seed model: {', '.join(sorted(unknown))}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print("| preset | step | published | by | ours | after | options |\n|---|---|---|---|---|---|---|")
    for seed in SEEDS:
        if seed.preset in names:
            print("\n".join(rows(seed)), flush=True)


if __name__ == "__main__":
    main()
