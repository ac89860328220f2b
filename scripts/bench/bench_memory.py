"""Peak memory of PPO against the arithmetic of `rlhf.ppo.placement.memory`, a row per set of settings.

    python scripts/bench/bench_memory.py

On a GPU the models have the shape of Qwen2.5-0.5B, on a CPU one of six million weights; all weights are random. Each
row runs in a process of its own, so that one which needs more memory than there is leaves the others their numbers;
sharded ones run on all GPUs, or in two processes on a CPU, and what is measured is the first. On a GPU the peak is the
allocator's own, on a CPU the sum over torch's allocations.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

from rlhf.ppo.config import PPOConfig
from rlhf.ppo.placement.memory import GIB, Setup, Shape, peak
from rlhf.ppo.trainer import PPOTrainer

SMALL = {"frozen_dtype": "bfloat16", "gradient_checkpointing": True}
ROWS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, bf16 frozen": {"frozen_dtype": "bfloat16"},
    "full, bf16 frozen, checkpointing": SMALL,
    "full, bf16 frozen, checkpointing, bf16 weights": SMALL | {"weights_dtype": "bfloat16"},
    "LoRA": {"adapter_rank": 16},
    "LoRA, bf16 frozen, checkpointing": SMALL | {"adapter_rank": 16},
}
SHARDED: dict[str, dict[str, Any]] = {
    "sharded: full": {"shard": "all"},
    "sharded: full, bf16 frozen, checkpointing, bf16 weights": SMALL | {"weights_dtype": "bfloat16", "shard": "all"},
    "sharded: LoRA, bf16 frozen, checkpointing": SMALL | {"adapter_rank": 16, "shard": "all"},
}
SIZES: dict[str, dict[str, Any]] = {
    "cuda": {
        "shape": {"vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4_864, "num_hidden_layers": 24},
        "heads": {"num_attention_heads": 14, "num_key_value_heads": 2, "head_dim": 64},
        "work": {"rows": 4, "prompt_length": 256, "response_length": 256},
    },
    "cpu": {
        "shape": {"vocab_size": 2_048, "hidden_size": 256, "intermediate_size": 1_024, "num_hidden_layers": 5},
        "heads": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64},
        "work": {"rows": 4, "prompt_length": 16, "response_length": 16},
    },
}


def config_of(size: dict[str, Any]) -> Qwen3Config:
    """The configuration of both models of a size: no token ends a response, so that all have the full length."""
    tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    settings: dict[str, Any] = {
        **size["shape"],
        **size["heads"],
        **tokens,
        "tie_word_embeddings": True,
        "num_labels": 1,
    }
    return Qwen3Config(**settings)


def setup_of(size: dict[str, Any], settings: dict[str, Any], cuda: bool) -> Setup:
    """What the arithmetic needs to know."""
    heads = 0 if cuda else size["heads"]["num_attention_heads"]
    work, devices = size["work"], launched() if "shard" in settings else 1
    return Setup(**work, **settings, autocast=cuda, eager_heads=heads, devices=devices, episodes=2 * work["rows"])


def launched() -> int:
    """The number of processes of this launch."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def trainer_of(size: dict[str, Any], settings: dict[str, Any], device: str) -> PPOTrainer:
    """A trainer whose minibatches are two micro-batches."""
    config, work = config_of(size), size["work"]
    batch = 2 * work["rows"] * launched()
    torch.manual_seed(0)
    with torch.device("cpu" if "shard" in settings else device):
        policy, reward = Qwen3ForCausalLM(config), Qwen3ForSequenceClassification(config)
    rank = settings.get("adapter_rank")
    adapter = None
    if rank:
        from peft import LoraConfig

        adapter = LoraConfig(r=rank, target_modules="all-linear")
    ppo = PPOConfig(
        total_episodes=2 * batch,
        batch_size=batch,
        micro_batch_size=work["rows"],
        num_ppo_epochs=1,
        response_length=work["response_length"],
        stop_token_ids=(),
        device=device,  # type: ignore[arg-type]
        **{name: value for name, value in settings.items() if name != "adapter_rank"},
    )
    prompts = [[row + 1] * work["prompt_length"] for row in range(batch)]
    return PPOTrainer(policy, reward, prompts, ppo, peft_config=adapter)


class Storages(TorchDispatchMode):
    """Sum over all storages on a CPU at its largest: gloo's threads free some, which the profiler does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.largest = 0
        self.note(x for x in gc.get_objects() if issubclass(type(x), torch.Tensor) and not x.is_meta)

    def note(self, tensors: Iterable[Any]) -> None:
        """Count what tensors lie in. All are counted again: what is gathered fills storages that were there, empty."""
        for tensor in tensors:
            storage = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
            self.live.setdefault(storage._cdata, weakref.ref(storage))
        found = {key: storage for key, each in self.live.items() if (storage := each()) is not None}
        self.live = {key: self.live[key] for key in found}
        self.largest = max(self.largest, sum(storage.nbytes() for storage in found.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.note(x for x in tree_leaves(made) if isinstance(x, torch.Tensor) and not x.is_meta)
        return made


def measured(make: Callable[[], PPOTrainer], updates: int = 2) -> int:
    """Bytes at the peak of the updates of a trainer that `make` makes; what loading takes does not count."""
    if torch.cuda.is_available():
        trainer = make()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(updates):
            trainer.step()
        return torch.cuda.max_memory_allocated()
    if launched() > 1:
        trainer = make()
        gc.collect()
        with Storages() as storages:
            for _ in range(updates):
                trainer.step()
        return storages.largest
    gc.collect()  # what was there before is not to go while others come
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        trainer = make()
        begin = time.time_ns()
        for _ in range(updates):
            trainer.step()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = largest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        if event.start_ns() > begin:
            largest = max(largest, live)
    return largest


def run_row(row: str, processes: int) -> subprocess.CompletedProcess[str]:
    """A row in processes of its own, which print its numbers in their last line."""
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"] if processes > 1 else []
    command = [sys.executable, *launch, __file__, "--row", row]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path.cwd())


def main() -> None:
    """The table; with --row the numbers of one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--row", choices=ROWS | SHARDED, help="settings of a single row, whose numbers are printed as JSON"
    )
    row = parser.parse_args().row
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = SIZES[device]
    if row is not None:
        settings = (ROWS | SHARDED)[row]
        parts = peak(Shape.of(config_of(size)), setup_of(size, settings, device == "cuda"))
        begin = time.perf_counter()
        found = measured(lambda: trainer_of(size, settings, device))
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps({"parts": parts, "measured": found, "seconds": time.perf_counter() - begin}), flush=True)
        os._exit(0)  # gloo's threads now and then abort a process that ends in the ordinary way
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}, {Shape.of(config_of(size)).parameters / 1e6:.0f} M parameters, torch {torch.__version__}\n")
    print("| settings | arithmetic, GiB | measured, GiB | ratio | seconds |\n|---|---|---|---|---|", flush=True)
    processes = torch.cuda.device_count() if device == "cuda" else 2
    for row in ROWS if processes < 2 else ROWS | SHARDED:
        done = run_row(row, processes if row in SHARDED else 1)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
            print(f"| {row} | | failed: {reason} | | |", flush=True)
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        total = sum(found["parts"].values())
        numbers = f"{total / GIB:.3f} | {found['measured'] / GIB:.3f} | {total / found['measured']:.2f}"
        print(f"| {row} | {numbers} | {found['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
