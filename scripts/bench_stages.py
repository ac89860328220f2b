"""What the stages' inner loops reach on this machine, in tokens per second.

    python scripts/bench_stages.py

Prints one line a measurement: the median of repeated runs after a warm-up, on models of preset `laptop`'s shape with
random weights.
"""

import statistics
import time
from collections.abc import Callable

import torch

from pretrain.model import GPT
from pretrain.optim import build_optimizers
from pretrain.presets import PRESETS
from pretrain.sampling import generate

VOCABULARY = 1024


def median_seconds(action: Callable[[], object], repeats: int = 9) -> float:
    """Median wall seconds of `action`, after two calls that are not counted."""
    seconds = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def training_step(dtype: torch.dtype) -> tuple[Callable[[], None], int]:
    """One optimizer step of preset `laptop`, and its tokens."""
    _, config = PRESETS["laptop"]
    model = GPT(config.model_config(VOCABULARY)).train()
    model.compute_dtype = dtype
    optimizers = build_optimizers(model, config)
    ids = torch.randint(VOCABULARY, (config.batch_size, config.context_length + 1))

    def step() -> None:
        model(ids[:, :-1], ids[:, 1:]).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return step, config.batch_size * config.context_length


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for dtype in (torch.float32, torch.bfloat16):
        step, tokens = training_step(dtype)
        print(f"pretraining step, {str(dtype)[6:]:9} {tokens / median_seconds(step):10,.0f} tokens/s")
    _, config = PRESETS["laptop"]
    model = GPT(config.model_config(VOCABULARY)).eval()
    for rows in (1, 64):
        prompts = [[1] * 8] * rows
        cached = median_seconds(lambda prompts=prompts: generate(model, prompts, max_new_tokens=64), 5)
        print(f"sampling {rows:3} rows with the cache {rows * 64 / cached:10,.0f} tokens/s")


if __name__ == "__main__":
    main()
