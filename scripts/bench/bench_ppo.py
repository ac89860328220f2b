"""PPO next to TRL's PPOTrainer (of trl 1.12.0, the last that had it): episodes per second, where the time goes, memory.

    python scripts/bench/bench_ppo.py --run runs/demo              # everything; half an hour on two cores
    python scripts/bench/bench_ppo.py --parts fixed --repeats 1    # the fixed-length work alone

Both train the same models on the same prompts with the same limits, epochs and minibatches, each in a process of its
own, in turns. TRL is installed into a folder of its own (`--cache`), next to the packages that run here: the same
torch, the same transformers. Timings mean something on a machine that does nothing else; the first line says how busy
it is.
"""

import copy
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
import tyro
from bench import machine, print_ratio
from bench_ppo_worker import Measured, Work, run_ours
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from data.console import UserError, run_command
from data.run.plots import plot_curves
from pretrain.machine import compute_dtype
from rlhf.algorithms.config import PRESETS, AlignConfig
from rlhf.algorithms.task import AlignmentTask

TRL = "1.12.0"
VOCABULARY, PAD, EOS = 512, 512, 513
"""Of the fixed-length work. What pads and what ends lies outside of what can be sampled."""
EPISODES = (16, 32, 64, 128, 256)
RESPONSE_LENGTHS = (32, 64, 128, 256, 384, 512)
"""Points of the cost curves."""
FIXED = {
    "batch_size": 64,
    "num_ppo_epochs": 4,
    "num_mini_batches": 4,
    "response_length": 64,
    "temperature": 1.0,
    "learning_rate": 1e-4,
    "stop_token_ids": (),
}
PROMPT = 64

Side = Literal["ours", "trl"]
Part = Literal["fixed", "task", "sampling", "curve", "gpu"]


@dataclass
class BenchOptions:
    """Measure, and print each ratio next to the one that is aimed at."""

    run: Path | None = None
    """Run folder with the stages sft and reward: its task is measured too."""
    parts: list[Part] = field(default_factory=lambda: ["fixed", "task", "sampling", "curve", "gpu"])
    """fixed: 64 + 64 tokens, nothing stops. task: that of --run. sampling: next to generate(). curve: seconds per
    update by episodes and by response length."""
    threads: list[int] = field(default_factory=lambda: [os.cpu_count() or 1])
    """Numbers of threads to measure with."""
    updates: int = 5
    """Of every measurement, after one that is not counted."""
    repeats: int = 3
    """Of every measurement, in turns with what it is compared with; the median of all updates counts."""
    cache: Path = Path.home() / ".cache" / "shakespeare-rlhf"
    """Where TRL is installed once."""
    out: Path = Path("build/bench-ppo")
    """Folder for the picture of the cost curves."""


def trl_python(cache: Path) -> Path:
    """The interpreter that has TRL's PPOTrainer: the packages that run here, and trl in a folder of its own."""
    root = cache / f"trl-{TRL}-python{sys.version_info.major}.{sys.version_info.minor}"
    python = root / "bin" / "python"
    if (root / "installed").exists():
        return python
    venv.create(root, with_pip=True, clear=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(root), "platbase": str(root)}))
    here = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "outer.pth").write_text("\n".join(here) + "\n")
    # Whatever else trl asks for, torch stays the one that runs here.
    command = [python, "-m", "pip", "install", "--quiet", f"trl=={TRL}", f"torch=={torch.__version__}"]
    installed = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if installed.returncode:
        reason = installed.stderr.strip().splitlines()[-1:] or ["pip failed"]
        raise UserError(f"cannot install trl {TRL} into {root} (it takes a network): {reason[0]}")
    (root / "installed").touch()
    return python


def fixed_work(folder: Path, updates: int, threads: int, prompts: int = 1024, **changes: Any) -> Work:
    """Work whose every episode has the same length: GPT-2's shape, 4 layers, 128 wide, weights as they start.

    changes: of the PPO settings, or `layers` and `width` of the models.
    """
    settings: dict[str, Any] = FIXED | {"bf16": use_bf16(), "cpu": True} | changes
    shape: dict[str, Any] = {"n_layer": settings.pop("layers", 4), "n_embd": settings.pop("width", 128), "n_head": 4}
    positions = PROMPT + settings["response_length"]
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "num_labels": 1}
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=positions, **shape, **ends)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(folder / "policy")
    GPT2ForSequenceClassification(config).save_pretrained(folder / "reward")
    words = {f"w{i}": i for i in range(VOCABULARY)} | {"<pad>": PAD, "<eos>": EOS}
    backend = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")
    tokenizer.save_pretrained(folder / "policy")
    ids = torch.randint(VOCABULARY, (prompts, PROMPT)).tolist()
    return Work(str(folder / "policy"), str(folder / "reward"), ids, settings, updates, threads)


def task_work(run: Path, updates: int, threads: int, config: AlignConfig = PRESETS["laptop"][1]) -> Work:
    """What `python -m rlhf laptop --run RUN`, or another preset, learns from: its models, prompts and settings."""
    config = replace(config, run=run)
    prompts = [list(prompt) for prompt in AlignmentTask(config).prompts]
    settings = asdict(config.ppo(Path())) | {"cpu": True, "save_every": 0}
    for name in ("output_dir", "total_episodes"):
        del settings[name]
    return Work(str(run / "sft"), str(run / "reward"), prompts, settings, updates, threads)


def use_bf16() -> bool:
    return compute_dtype("auto", torch.device("cpu")) == torch.bfloat16


def measure(side: Side, work: Work, python: Path | str = sys.executable) -> Measured:
    """Run one side in a process of its own."""
    return Measured(**run_worker("bench_ppo_worker.py", side, work, python))


def run_worker(script: str, side: Side, work: Work, python: Path | str = sys.executable) -> dict[str, Any]:
    """What a script of this folder writes that does one side of a work."""
    worker = Path(__file__).with_name(script)
    root = str(worker.parents[2])
    environment = os.environ | {
        "OMP_NUM_THREADS": str(work.threads),
        "PYTHONPATH": root,
        "TOKENIZERS_PARALLELISM": "false",
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "work.json").write_text(json.dumps(asdict(work)))
        command = [str(python), str(worker), side, str(folder / "work.json"), str(folder / "result.json")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise UserError(f"{side} failed:\n{done.stderr[-2000:]}")
        return dict(json.loads((folder / "result.json").read_text()))


def merge(runs: list[Measured]) -> Measured:
    """All updates of some runs; of their memory, the highest."""
    merged = Measured(versions=runs[0].versions)
    for run in runs:
        for name in ("seconds", "rollout", "scoring", "update", "tokens"):
            getattr(merged, name).extend(getattr(run, name))
        merged.peak_gib = max(merged.peak_gib, run.peak_gib)
        merged.gpu_gib = max(merged.gpu_gib, run.gpu_gib)
    return merged


def table_line(name: str, measured: Measured, episodes: int) -> str:
    """One side: episodes per second, seconds of an update and of its parts, response length, memory; medians."""
    parts = [statistics.median(getattr(measured, part)) for part in ("seconds", "rollout", "scoring", "update")]
    rest = parts[0] - sum(parts[1:])
    length = sum(measured.tokens) / (len(measured.tokens) * episodes)
    times = "".join(f"{part:9.2f}" for part in (*parts, rest))
    memory = measured.gpu_gib or measured.peak_gib
    return f"{name:26}{episodes / parts[0]:11.1f}{times}{length:9.1f}{memory:8.2f}"


COLUMNS = ("update", "rollout", "scoring", "learning", "rest", "tokens")
HEAD = f"{'':26}{'episodes/s':>11}" + "".join(f"{name:>9}" for name in COLUMNS) + f"{'GiB':>8}"


def compare(title: str, work: Work, aim: float, options: BenchOptions, python: Path) -> None:
    """Both sides in turns; their table and their ratios."""
    episodes = work.config["batch_size"]
    print(f"\n{title}, {work.threads} thread(s); seconds, medians of {options.repeats} x {work.updates} updates")
    exact = copy.deepcopy(work)
    exact.config["bf16"] = False
    runs: dict[str, list[Measured]] = {}
    for _ in range(options.repeats):
        runs.setdefault(f"TRL {TRL}", []).append(measure("trl", work, python))
        runs.setdefault("ours", []).append(measure("ours", work))
        if work.config.get("bf16") and options.repeats > 1:
            runs.setdefault("ours in float32", []).append(measure("ours", exact))
    merged = {name: merge(measured) for name, measured in runs.items()}
    trl, ours, *_ = merged.values()
    print(" · ".join(f"{name} {version}" for name, version in (ours.versions | trl.versions).items()))
    print(HEAD)
    for name, measured in merged.items():
        print(table_line(name, measured, episodes))
    for name, measured in list(merged.items())[1:]:
        ratio = statistics.median(trl.seconds) / statistics.median(measured.seconds)
        print_ratio(f"{name} / TRL", ratio, aim if name == "ours" else None)
    print_ratio("TRL's memory / ours", (trl.gpu_gib or trl.peak_gib) / (ours.gpu_gib or ours.peak_gib), 1)


def generate_rate(work: Work, batches: int) -> float:
    """Response tokens per second of transformers' `generate()` on the first prompts of the work."""
    model = AutoModelForCausalLM.from_pretrained(work.policy, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(work.policy, padding_side="left")
    stops = work.config.get("stop_token_ids") is None
    model.generation_config.eos_token_id = tokenizer.eos_token_id if stops else None
    options = {"max_new_tokens": work.config["response_length"], "do_sample": True, "top_k": 0, "pad_token_id": 0}
    size, tokens, seconds = work.config["batch_size"], 0, 0.0
    for batch in range(batches + 1):
        padded = tokenizer.pad({"input_ids": work.prompts[batch * size :][:size]}, return_tensors="pt")
        mask = padded["attention_mask"]
        ids = padded["input_ids"].masked_fill(mask == 0, 0)
        started = time.perf_counter()
        drawn = model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :]
        if batch:  # the first only warms up
            seconds += time.perf_counter() - started
            ends = (drawn == tokenizer.eos_token_id).int()
            tokens += int(torch.where(ends.any(1), ends.argmax(1) + 1, drawn.shape[1]).sum())
    return tokens / seconds


def compare_sampling(title: str, work: Work) -> None:
    """Tokens per second of rollouts next to `generate()`, from the same weights: nothing is learned between."""
    work = copy.deepcopy(work)
    work.config |= {"learning_rate": 0.0, "value_learning_rate": 0.0, "num_ppo_epochs": 1}
    torch.set_num_threads(work.threads)
    measured = run_ours(work)
    ours = sum(measured.tokens) / sum(measured.rollout)
    theirs = generate_rate(work, work.updates)
    print(f"{title}: rollout {ours:,.0f} tokens/s, generate() {theirs:,.0f}, {work.threads} thread(s)")
    print_ratio("  ours / generate()", ours / theirs, None)


@dataclass
class Line:
    """Seconds = start + slope · x by least squares, and how good that is."""

    start: float
    slope: float
    r_squared: float
    bend: float
    """Slope of the second half of the points over that of the first: 1 is linear, more grows faster."""


def fit_line(x: list[float], y: list[float]) -> Line:
    """The line through at least three points in the order of x."""
    slope, start = np.polyfit(x, y, 1)
    residual = np.asarray(y) - (start + slope * np.asarray(x))
    total = np.sum((np.asarray(y) - np.mean(y)) ** 2)
    middle = len(x) // 2
    halves = [(y[b] - y[a]) / (x[b] - x[a]) for a, b in ((0, middle), (middle, len(x) - 1))]
    return Line(float(start), float(slope), float(1 - np.sum(residual**2) / total), float(halves[1] / halves[0]))


def cost_curves(options: BenchOptions, folder: Path, threads: int) -> None:
    """Seconds that an update takes by episodes and by response length, their lines, and a picture."""
    torch.set_num_threads(threads)
    curves: dict[str, tuple[list[float], list[float]]] = {}
    changes = {
        "episodes": [(n, {"batch_size": n, "num_mini_batches": max(1, n // 16)}) for n in EPISODES],
        "response tokens": [(n, {"response_length": n}) for n in RESPONSE_LENGTHS],
    }
    for what, changed in changes.items():
        curves[what] = ([], [])
        for number, change in changed:
            # One epoch: the cost of each is the same.
            work = fixed_work(folder / f"{what}-{number}", options.updates, threads, num_ppo_epochs=1, **change)
            curves[what][0].append(number)
            curves[what][1].append(statistics.median(run_ours(work).seconds))
        line = fit_line(*curves[what])
        print(f"\nSeconds per update of one epoch by {what}, {threads} thread(s): ", end="")
        print(", ".join(f"{x:g}: {y:.2f}" for x, y in zip(*curves[what], strict=True)))
        print(f"  = {line.start:.2f} + {line.slope:.4f} · {what}; R² {line.r_squared:.4f}, bend {line.bend:.2f}")
    options.out.mkdir(parents=True, exist_ok=True)
    for what, points in curves.items():
        path = options.out / f"cost-by-{what.replace(' ', '-')}.png"
        line = fit_line(*points)
        fitted = [line.start + line.slope * x for x in points[0]]
        plot_curves(
            path,
            {"measured": points, f"line, R² {line.r_squared:.4f}": (points[0], fitted)},
            xlabel=what,
            ylabel="seconds per update",
            title=f"The cost of an update by {what}",
        )
        print(f"  {path}")


def main() -> None:
    options = tyro.cli(BenchOptions)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(machine(), flush=True)
    against = {"fixed", "task", "gpu"} & set(options.parts)
    python = trl_python(options.cache.expanduser().resolve()) if against else Path()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for threads in options.threads:
            works = {
                "Fixed length: 64 + 64 tokens": (fixed_work(folder / "fixed", options.updates, threads), 3.0, "fixed")
            }
            if options.run is not None:
                works["The task of preset laptop"] = (task_work(options.run, options.updates, threads), 6.0, "task")
            for title, (work, aim, part) in works.items():
                if part in options.parts:
                    compare(title, work, aim, options, python)
            for title, (work, _, _) in works.items():
                if "sampling" in options.parts:
                    compare_sampling(title, work)
            if "curve" in options.parts:
                cost_curves(options, folder, threads)
        if "gpu" in options.parts:
            if torch.cuda.is_available():
                work = fixed_work(folder / "gpu", options.updates, 1, cpu=False, bf16=None)
                compare("Fixed length on the GPU", work, 3.0, options, python)
            else:
                print("\nno GPU here")


if __name__ == "__main__":
    run_command(main)
