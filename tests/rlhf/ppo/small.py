"""What tests of the trainer share: prompts of a few tokens, settings, and how far two runs are apart."""

from collections.abc import Callable
from typing import Any

import torch

from rlhf.ppo.trainer import PPOConfig, PPOTrainer

EOS, PAD = 22, 23
PROMPTS = [[3, 7], [1, 2, 3, 4, 5, 6, 7], [9], [4, 4, 4, 8], [10, 11], [2, 9, 1], [12], [5, 5]]
KINDS = ["gpt2", "qwen3"]
Build = Callable[..., Any]
Make = Callable[..., PPOTrainer]


def settings(**changes: Any) -> PPOConfig:
    base: dict[str, Any] = {
        "total_episodes": 32,
        "batch_size": 16,
        "num_mini_batches": 2,
        "num_ppo_epochs": 2,
        "prompt_length": 8,
        "response_length": 10,
        "learning_rate": 1e-2,
        "value_learning_rate": 1e-2,
        "stop_token_ids": (EOS, 0, 1),
        "temperature": 1.0,
        "missing_eos_penalty": 1.0,
        "lr_floor": 0.1,
        "cpu": True,
    }
    return PPOConfig(**(base | changes))


def weights_of(trainer: PPOTrainer) -> list[torch.nn.Parameter]:
    return [*trainer.policy.parameters(), *trainer.value.parameters()]


def weights(trainer: PPOTrainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in weights_of(trainer)]


def distance(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True))


def untimed(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in metrics.items() if not k.startswith("time/") and k != "eps"} for metrics in history]
