"""A trainer of tiny models."""

from collections.abc import Callable
from typing import Any

import pytest

from rlhf.ppo.trainer import PPOTrainer
from tests.rlhf.ppo.small import PROMPTS, Build, settings


@pytest.fixture
def make(causal_lm: Build, reward_model: Build) -> Callable[..., PPOTrainer]:
    def build(kind: str = "qwen3", reward: Any = None, prompts: Any = PROMPTS, **changes: Any) -> PPOTrainer:
        extra = {
            key: changes.pop(key)
            for key in ("tokenizer", "value", "reference", "eval_hook", "callbacks")
            if key in changes
        }
        reward = reward_model(kind) if reward is None else reward
        return PPOTrainer(causal_lm(kind), reward, prompts, settings(**changes), **extra)

    return build
