"""Preset `nanogpt-cpu` next to nanoGPT itself: the loss at the same steps, and the time of a step.

    git clone https://github.com/karpathy/nanoGPT
    python scripts/bench/bench_nanogpt.py --nanogpt nanoGPT

Runs nanoGPT's own train.py with the command of its README for a laptop, in a copy, on the same text; then our preset;
both with as many threads. nanoGPT estimates its loss from 20 random batches, so the weights that it saves at the end
are also evaluated as ours are: over the whole validation split.
"""

import dataclasses
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from bench import machine

from data.corpus import load_corpus
from pretrain.evaluate import evaluate_split, total_nats
from pretrain.machine import start
from pretrain.presets import PRESETS
from pretrain.train import Pretraining

EVALUATIONS = 8
CONTEXT = 64
README = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 "
    f"--block_size={CONTEXT} --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --dropout=0.0"
).split()


@dataclass
class FidelityOptions:
    """Compare our preset with the project that it is named after."""

    nanogpt: Path
    """A clone of github.com/karpathy/nanoGPT."""
    steps: int = 2000
    """Of both, a multiple of 8: there are 8 evaluations, as by its defaults."""
    threads: int = 1


@dataclass
class Run:
    """One training run."""

    losses: dict[int, float]
    """Validation loss in nats per character, by step."""
    milliseconds: float
    """Of a training step, median."""


def run_nanogpt(options: FidelityOptions, folder: Path) -> tuple[Run, float]:
    """nanoGPT's own run, and its last weights' loss on the whole validation split."""
    clone, out = folder / "nanoGPT", folder / "out"
    shutil.copytree(options.nanogpt, clone, ignore=shutil.ignore_patterns(".git"))
    text = load_corpus("tinyshakespeare").text
    prepared = clone / "data" / "shakespeare_char"
    (prepared / "input.txt").write_text(text, "utf-8")
    run_python(prepared / "prepare.py", [], prepared, options.threads)
    every = options.steps // EVALUATIONS
    length = [f"--max_iters={options.steps}", f"--lr_decay_iters={options.steps}", f"--eval_interval={every}"]
    length.append(f"--warmup_iters={options.steps // 20}")  # 100 of 2,000, its default
    # The weights of the last step are saved, also where earlier ones look better.
    saving = [f"--out_dir={out}", "--always_save_checkpoint=True"]
    output = run_python(clone / "train.py", [*README, *length, *saving], clone, options.threads)
    losses = {int(step): float(loss) for step, loss in re.findall(r"step (\d+): .*val loss ([\d.]+)", output)}
    times = {int(step): float(taken) for step, taken in re.findall(r"iter (\d+): .*time ([\d.]+)ms", output)}
    training = [taken for step, taken in times.items() if step % every]  # the others hold an evaluation
    return Run(losses, statistics.median(training)), saved_loss(clone, out / "ckpt.pt", options.steps)


def run_python(script: Path, arguments: list[str], folder: Path, threads: int) -> str:
    """What a script prints; SystemExit with its errors where it fails."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{script.name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


class AllLogits:
    """nanoGPT's model as `total_nats` asks for it: without targets its forward gives the last position only."""

    device = torch.device("cpu")

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(ids, ids)[0]


def saved_loss(clone: Path, checkpoint: Path, steps: int) -> float:
    """Nats per character of nanoGPT's saved weights over the whole validation split, as ours are evaluated."""
    sys.path.insert(0, str(clone))
    import model as nanogpt  # nanoGPT's model.py

    saved = torch.load(checkpoint, weights_only=True)
    if saved["iter_num"] != steps:
        raise SystemExit(f"nanoGPT's last weights are those of step {saved['iter_num']}, not {steps}")
    model = nanogpt.GPT(nanogpt.GPTConfig(**saved["model_args"])).eval()
    model.load_state_dict(saved["model"])
    corpus = load_corpus("tinyshakespeare")
    number = {character: place for place, character in enumerate(sorted(set(corpus.text)))}
    ids = torch.tensor([number[character] for character in corpus.train[-1] + corpus.validation])
    return total_nats(AllLogits(model), ids, CONTEXT) / len(corpus.validation)  # type: ignore[arg-type]


def run_preset(options: FidelityOptions) -> Run:
    """Our preset, evaluated on the whole split at the same steps."""
    torch.set_num_threads(options.threads)
    start()
    run = Pretraining(dataclasses.replace(PRESETS["nanogpt-cpu"][1], steps=options.steps, corpus="tinyshakespeare"))
    losses: dict[int, float] = {}
    milliseconds: list[float] = []
    while True:
        if run.progress.step % (options.steps // EVALUATIONS) == 0:
            figures = evaluate_split(run.model, run.tokenizer, run.corpus.validation, run.corpus.train)
            losses[run.progress.step] = figures["nats_per_char"]
        if run.progress.step == options.steps:
            return Run(losses, statistics.median(milliseconds))
        started = time.perf_counter()
        run.step()
        milliseconds.append((time.perf_counter() - started) * 1e3)


def main() -> None:
    options = tyro.cli(FidelityOptions)
    if options.steps < EVALUATIONS or options.steps % EVALUATIONS:
        raise SystemExit(f"--steps must be a multiple of {EVALUATIONS}, not {options.steps}")
    print(f"{machine()}\n{options.threads} thread(s)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        theirs, whole = run_nanogpt(options, Path(folder))
    ours = run_preset(options)
    print("step   nanoGPT (20 random batches)   nanogpt-cpu (whole split)")
    for step in sorted(theirs.losses.keys() & ours.losses.keys()):
        print(f"{step:4}   {theirs.losses[step]:27.4f}   {ours.losses[step]:25.4f}")
    last = ours.losses[options.steps]
    print(f"whole split, step {options.steps}: nanoGPT {whole:.4f}, nanogpt-cpu {last:.4f} ({last / whole - 1:+.1%})")
    print(
        f"a training step, median: nanoGPT {theirs.milliseconds:.1f} ms, nanogpt-cpu {ours.milliseconds:.1f} ms "
        f"({ours.milliseconds / theirs.milliseconds - 1:+.1%})"
    )


if __name__ == "__main__":
    main()
