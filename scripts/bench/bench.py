"""What the base course must reach, on this machine: speed of sampling, and time to a loss.

    python scripts/bench/bench.py                      # both; ten minutes on two cores
    python scripts/bench/bench.py --parts sampling     # tokens per second, with and without a cache, like transformers
    python scripts/bench/bench.py --parts training     # seconds to nanoGPT's losses

Timings mean something on a machine that does nothing else; the line printed first says how busy it is.
"""

import dataclasses
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
import tyro

from data.tokenizers import character_tokenizer
from pretrain.checkpoint import save_model
from pretrain.evaluate import evaluate_split
from pretrain.fast.gpt import decoder
from pretrain.ladder.models import LadderConfig, LayerNormModel
from pretrain.machine import start
from pretrain.model import GPT, GPTConfig
from pretrain.presets import PRESETS
from pretrain.sampling import generate, generate_without_cache
from pretrain.train import Pretraining

A100_NATS = 1.4697
"""Nats per character, of some random batches: what nanoGPT's README reaches on an A100 in three minutes."""
SHORTER = {"steps": 62}
"""`laptop`, shortened until it ends where nanoGPT's laptop recipe does."""
SMALLER = {"steps": 55, "layers": 2, "context_length": 64, "batch_size": 32, "learning_rate": 0.03}
"""The same of a smaller model: so short a run has no use for more layers."""
MINUTE = {"steps": 780, "compile": True}
"""`laptop`, as long as fits a minute."""

Loop = Callable[[int], object]
"""Draws the new tokens of so many texts."""


@dataclass
class BenchOptions:
    """Measure, and print each ratio next to the one that is aimed at."""

    parts: list[Literal["sampling", "training"]] = field(default_factory=lambda: ["sampling", "training"])
    sampling_threads: int = 1
    """Threads of every way of sampling. One text is too little work for two, and the full pass over it is not."""
    training_threads: int = os.cpu_count() or 1
    repeats: int = 5
    """Of every measurement, in turns with what it is compared with; the median counts."""
    new_tokens: int = 256
    """Length of a sampled text."""


def machine() -> str:
    """What ran where, in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    processor = names[0].partition(":")[2].strip() if names else platform.processor()
    return (
        f"{os.cpu_count()} cores of {processor} ({torch.backends.cpu.get_cpu_capability()}), load "
        f"{os.getloadavg()[0]:.1f} · Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


def sampling_loops(new_tokens: int) -> dict[str, Loop]:
    """The ways to sample from a GPT of 4 layers, 128 wide, 65 characters, weights as they start, by name."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"context_length": new_tokens + 1, "width": 128, "layers": 4, "heads": 4}
    shape["feed_forward"] = 4 * shape["width"]
    tokenizer = character_tokenizer("".join(map(chr, range(48, 48 + 63))))  # and its two special tokens
    model = GPT(GPTConfig(family="gpt2", vocab_size=tokenizer.vocab_size, **shape)).eval()
    lecture = LayerNormModel(LadderConfig(rung="layer-norm", vocab_size=tokenizer.vocab_size, **shape)).eval()
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, tokenizer, Path(folder))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    theirs.generation_config.eos_token_id = None  # every text shall have its full length
    ids = torch.randint(tokenizer.vocab_size, (3, new_tokens))
    with torch.inference_mode():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)

    def first(batch: int) -> torch.Tensor:
        return torch.zeros(batch, 1, dtype=torch.long)

    def with_transformers(batch: int) -> torch.Tensor:
        mask = torch.ones_like(first(batch))
        options = {"max_new_tokens": new_tokens, "do_sample": True, "top_k": 0, "use_cache": True}
        return theirs.generate(first(batch), attention_mask=mask, **options)

    def as_in_the_lecture(batch: int) -> torch.Tensor:
        # Nothing tells torch that no gradient will be asked for, and a draw is torch's own.
        ids = first(batch)
        for _ in range(new_tokens):
            probabilities = lecture(ids)[:, -1].softmax(-1)
            ids = torch.cat([ids, probabilities.multinomial(1)], dim=1)
        return ids

    return {
        "ours, with the cache": lambda b: generate(decoder(model), first(b).tolist(), max_new_tokens=new_tokens),
        "transformers' generate()": with_transformers,
        "the lecture's loop": as_in_the_lecture,
        "… without gradients": lambda b: generate_without_cache(lecture, first(b), max_new_tokens=new_tokens),
        "… and all heads in one product": lambda b: generate_without_cache(model, first(b), max_new_tokens=new_tokens),
    }


def median_rates(loops: dict[str, Loop], batch: int, new_tokens: int, repeats: int) -> dict[str, float]:
    """Tokens per second of each way to sample, in turns: the median of `repeats`."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(repeats + 1):
        for name, loop in loops.items():
            started = time.perf_counter()
            loop(batch)
            if turn or repeats == 1:  # the first turn only warms up
                seconds[name].append(time.perf_counter() - started)
        if repeats == 1:
            break
    return {name: batch * new_tokens / statistics.median(taken) for name, taken in seconds.items()}


def bench_sampling(options: BenchOptions) -> None:
    torch.set_num_threads(options.sampling_threads)
    loops = sampling_loops(options.new_tokens)
    ours, theirs, lecture, _, best = loops
    print(
        f"\nSampling {options.new_tokens} tokens, 4 layers, 128 wide, 65 characters, fp32, "
        f"{options.sampling_threads} thread(s): tokens/s, median of {options.repeats}"
    )
    one = median_rates(loops, 1, options.new_tokens, options.repeats)
    many = median_rates({name: loops[name] for name in (ours, theirs)}, 64, options.new_tokens, options.repeats)
    # 64 texts without a cache take a minute: once.
    many |= median_rates({best: loops[best]}, 64, options.new_tokens, 1)
    print(f"{'':32}{'batch 1':>10}{'batch 64':>10}")
    for name in loops:
        print(f"{name:32}{one[name]:10,.0f}" + (f"{many[name]:10,.0f}" if name in many else ""))
    for batch, rates, aims in ((1, one, (20, 3)), (64, many, (50, 1.5))):
        print_ratio(f"batch {batch}: ours / the lecture's loop, batch 1", rates[ours] / one[lecture], aims[0])
        print_ratio(f"batch {batch}: ours / generate()", rates[ours] / rates[theirs], aims[1])
        print_ratio(f"batch {batch}: ours / the best of the loops, same batch", rates[ours] / rates[best], None)


def print_ratio(what: str, ratio: float, aim: float | None) -> None:
    """One line; an aim that is missed is named as missed."""
    verdict = "" if aim is None else f"   aim ≥ {aim:g}: {'reached' if ratio >= aim else 'MISSED'}"
    print(f"{what:52}{ratio:7.1f} times{verdict}", flush=True)


@dataclass(frozen=True)
class Trained:
    """A training run: seconds of its steps alone, and what it had learned at the end."""

    seconds: float
    compiling: float
    """Seconds of compilation, not in `seconds`."""
    nats: float
    """Loss over the whole validation split in nats per character, windows that do not overlap."""
    sliding: float
    """The same from windows that advance by half of the context."""

    def __str__(self) -> str:
        compiled = f" and {self.compiling:.0f} s of compilation" if self.compiling else ""
        return f"{self.seconds:7.2f} s{compiled}, {self.nats:.4f} nats per character (sliding {self.sliding:.4f})"


def train(preset: str, **changes: Any) -> Trained:
    """Train a preset with some options changed, writing nothing."""
    config = dataclasses.replace(PRESETS[preset][1], **changes)
    start()
    run = Pretraining(config)
    seconds = []
    while run.progress.step < config.steps:
        started = time.perf_counter()
        run.step()
        seconds.append(time.perf_counter() - started)
    compiling = 0.0
    if config.compile:
        # It is in the first step; in the second too, where torch finds that a shape may change.
        compiling = sum(seconds[:2]) - 2 * statistics.median(seconds)
    stride = config.context_length // 2
    evaluate = (run.model, run.tokenizer, run.corpus.validation, run.corpus.train)
    return Trained(
        seconds=sum(seconds) - compiling,
        compiling=compiling,
        nats=evaluate_split(*evaluate)["nats_per_char"],
        sliding=evaluate_split(*evaluate, stride=stride)["nats_per_char"],
    )


def as_options(changes: dict[str, Any]) -> str:
    return " ".join(
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in changes.items()
    )


def bench_training(options: BenchOptions) -> None:
    torch.set_num_threads(options.training_threads)
    print(
        f"\nTime to loss on the whole validation split, {options.training_threads} threads, seconds of training alone"
    )
    runs: dict[str, list[Trained]] = {}
    names = {as_options(changes): changes for changes in (SHORTER, SMALLER)}
    for turn in range(3):  # around the long run, so that a machine that slows down does so for both
        if turn == 1:
            nanogpt = train("nanogpt-cpu")
            print(f"nanogpt-cpu: {nanogpt}", flush=True)
        for name, changes in names.items():
            runs.setdefault(name, []).append(train("laptop", **changes))
    for name, repeated in runs.items():
        usual = sorted(repeated, key=lambda run: run.seconds)[1]
        print(f"laptop {name}: {usual}")
        if usual.nats <= nanogpt.nats:
            print_ratio("  nanogpt-cpu's time / its time", nanogpt.seconds / usual.seconds, 20)
        else:
            print("  does not reach nanogpt-cpu's loss")
    minute = train("laptop", **MINUTE)
    print(f"laptop {as_options(MINUTE)}: {minute}")
    reached = minute.nats <= A100_NATS and minute.seconds <= 60
    print(f"  aim: {A100_NATS} within 60 s and compilation: {'reached' if reached else 'MISSED'}")


def main() -> None:
    options = tyro.cli(BenchOptions)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(machine(), flush=True)
    if "sampling" in options.parts:
        bench_sampling(options)
    if "training" in options.parts:
        bench_training(options)


if __name__ == "__main__":
    main()
