"""The optimizers of PPO: what a user sets is what happens."""

from collections.abc import Callable, Iterable

import pytest
import torch
from transformers import PreTrainedModel

from rlhf.ppo import PPOConfig, PPOTrainer

Build = Callable[..., PreTrainedModel]


def norm_of(parameters: Iterable[torch.nn.Parameter]) -> float:
    return torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm().item()


def test_gradients_are_clipped_and_adam_has_its_epsilon(causal_lm: Build, reward_model: Build) -> None:
    settings = {"total_episodes": 8, "batch_size": 8, "num_ppo_epochs": 1, "response_length": 8}
    norms = {}
    for bound in (1e3, 0.01):
        config = PPOConfig(**settings, prompt_length=4, max_grad_norm=bound, adam_eps=3e-5, adam_beta2=0.9, cpu=True)
        trainer = PPOTrainer(causal_lm("qwen3"), reward_model("qwen3"), [[1, 2], [3]], config)
        metrics = trainer.step()
        for name, model in (("policy", trainer.policy), ("value", trainer.value)):
            norms[bound, name] = norm_of(model.parameters())
            assert metrics[f"grad_norm/{name}"] > 0.02, "logged as it was before clipping"
            if bound > 1:
                assert norms[bound, name] == pytest.approx(metrics[f"grad_norm/{name}"], rel=1e-4)
            else:
                assert norms[bound, name] == pytest.approx(bound, rel=1e-3)
        for optimizer in (trainer.learner.policy_optimizer, trainer.learner.value_optimizer):
            assert optimizer.param_groups[0]["eps"] == 3e-5
            assert optimizer.param_groups[0]["betas"] == (0.9, 0.9)
    assert PPOConfig().adam_eps == 1e-5
