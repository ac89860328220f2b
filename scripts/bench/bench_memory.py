"""Peak memory of PPO against the arithmetic of `rlhf.ppo.placement.memory`, a row per set of settings.

    python scripts/bench/bench_memory.py

On a GPU the models have the shape of Qwen2.5-0.5B, on a CPU one of six million weights; all weights are random. Each
row runs in a process of its own, so that one which needs more memory than there is leaves the others their numbers. On
a GPU the peak is the allocator's own, on a CPU the sum over torch's allocations.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
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
    return Setup(**size["work"], **settings, autocast=cuda, eager_heads=heads)


def trainer_of(size: dict[str, Any], settings: dict[str, Any], device: str) -> PPOTrainer:
    """A trainer whose minibatches are two micro-batches."""
    config, work = config_of(size), size["work"]
    torch.manual_seed(0)
    with torch.device(device):
        policy, reward = Qwen3ForCausalLM(config), Qwen3ForSequenceClassification(config)
    rank = settings.get("adapter_rank")
    adapter = None
    if rank:
        from peft import LoraConfig

        adapter = LoraConfig(r=rank, target_modules="all-linear")
    ppo = PPOConfig(
        total_episodes=4 * work["rows"],
        batch_size=2 * work["rows"],
        micro_batch_size=work["rows"],
        num_ppo_epochs=1,
        response_length=work["response_length"],
        stop_token_ids=(),
        device=device,  # type: ignore[arg-type]
        **{name: value for name, value in settings.items() if name != "adapter_rank"},
    )
    prompts = [[row + 1] * work["prompt_length"] for row in range(2 * work["rows"])]
    return PPOTrainer(policy, reward, prompts, ppo, peft_config=adapter)


def measured(make: Callable[[], PPOTrainer], updates: int = 2) -> int:
    """Bytes at the peak of the updates of a trainer that `make` makes; what loading takes does not count."""
    if torch.cuda.is_available():
        trainer = make()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(updates):
            trainer.step()
        return torch.cuda.max_memory_allocated()
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


def main() -> None:
    """The table; with --row the numbers of one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", choices=ROWS, help="settings of a single row, whose numbers are printed as JSON")
    row = parser.parse_args().row
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = SIZES[device]
    if row is not None:
        parts = peak(Shape.of(config_of(size)), setup_of(size, ROWS[row], device == "cuda"))
        begin = time.perf_counter()
        found = measured(lambda: trainer_of(size, ROWS[row], device))
        print(json.dumps({"parts": parts, "measured": found, "seconds": time.perf_counter() - begin}))
        return
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}, {Shape.of(config_of(size)).parameters / 1e6:.0f} M parameters, torch {torch.__version__}\n")
    print("| settings | arithmetic, GiB | measured, GiB | ratio | seconds |\n|---|---|---|---|---|", flush=True)
    for row in ROWS:
        command = [sys.executable, __file__, "--row", row]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path.cwd())
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
