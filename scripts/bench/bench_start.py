"""How soon PPO starts: a whole process to the end of its first update, next to one that only loads two models.

    python scripts/bench/bench_start.py                # pairs of processes, in turns; the median of the ratios counts

Left is `import torch, transformers` and a tiny policy and reward model made with them, plus the seconds of the update
itself; right is the same two models and `from rlhf import PPOTrainer`, a trainer and its first update.
"""

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import tyro

AIM = 1.3
MODELS = """
import torch, transformers
shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, max_position_embeddings=64, eos_token_id=62, pad_token_id=63)
policy = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape))
reward = transformers.Qwen3ForSequenceClassification(transformers.Qwen3Config(**shape, num_labels=1))
"""
UPDATE = f"""
import time
from rlhf import PPOConfig, PPOTrainer
{MODELS}
config = PPOConfig(total_episodes=16, batch_size=16, response_length=16, cpu=True)
trainer = PPOTrainer(policy, reward, [[1, 2, 3], [4]], config)
clock = time.perf_counter()
trainer.step()
print(time.perf_counter() - clock)
"""


@dataclass
class StartOptions:
    """Measure, and print the ratio next to the one that is aimed at."""

    pairs: int = 5


def run(code: str) -> tuple[float, str]:
    """Seconds of a whole process, and what it prints."""
    clock = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - clock, done.stdout


def ratios(pairs: int) -> list[float]:
    """Of each pair of processes, after one that only fills the disk's cache."""
    run(UPDATE)
    found = []
    for pair in range(1, pairs + 1):
        base, _ = run(MODELS)
        whole, said = run(UPDATE)
        update = float(said)
        found.append(whole / (base + update))
        print(f"pair {pair}: {whole:.2f} s; two models {base:.2f} s, the update {update:.2f} s: {found[-1]:.2f}")
    return found


def main(options: StartOptions) -> None:
    ratio = statistics.median(ratios(options.pairs))
    print(f"first update: {ratio:.2f} of loading two models and the update; aim ≤ {AIM}", end=": ")
    print("reached" if ratio <= AIM else "MISSED")


if __name__ == "__main__":
    main(tyro.cli(StartOptions, description=__doc__))
