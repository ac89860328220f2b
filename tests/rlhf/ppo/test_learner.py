"""The optimizers of PPO: what a user sets is what happens."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from rlhf.algorithms.config import PRESETS
from rlhf.ppo.trainer import PPOConfig, PPOTrainer

Build = Callable[..., PreTrainedModel]


def norm_of(parameters: Iterable[torch.nn.Parameter]) -> float:
    return torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm().item()


def test_gradients_are_clipped_and_adam_has_its_epsilon(causal_lm: Build, reward_model: Build) -> None:
    settings: dict[str, Any] = {"total_episodes": 8, "batch_size": 8, "num_ppo_epochs": 1, "response_length": 8}
    norms = {}
    for bound in (1e3, 0.01):
        config = PPOConfig(**settings, prompt_length=4, max_grad_norm=bound, adam_eps=3e-5, adam_beta2=0.9, cpu=True)
        trainer = PPOTrainer(causal_lm("qwen3"), reward_model("qwen3"), [[1, 2], [3]], config)
        for name, model in (("policy", trainer.policy), ("value", trainer.value)):
            trainer.learner.optimizer.optimizer.register_step_pre_hook(
                lambda *_, key=(bound, name), model=model: norms.update({key: norm_of(model.parameters())})
            )
        metrics = trainer.step()
        for name in ("policy", "value"):
            assert metrics[f"grad_norm/{name}"] > 0.02, "logged as it was before clipping"
            if bound > 1:
                assert norms[bound, name] == pytest.approx(metrics[f"grad_norm/{name}"], rel=1e-4)
            else:
                assert norms[bound, name] == pytest.approx(bound, rel=1e-3)
        policy, value = trainer.learner.optimizer.param_groups
        for group in (policy, value):
            assert group["eps"] == 3e-5
            assert group["betas"] == (0.9, 0.9)
            assert group["weight_decay"] == 0
    assert PPOConfig().adam_eps == 1e-5


def test_weight_decay_is_decoupled_and_spares_biases_and_norms(causal_lm: Build, reward_model: Build) -> None:
    """After the first step, whose Adam part does not depend on it, matrices differ by rate times decay times weight."""
    settings: Any = {"total_episodes": 8, "batch_size": 8, "num_ppo_epochs": 1, "response_length": 6, "cpu": True}
    settings |= {"learning_rate": 1e-2, "value_learning_rate": 2e-2}
    plain, decayed = (
        PPOTrainer(causal_lm("gpt2"), reward_model("gpt2"), [[1, 2], [3]], PPOConfig(**settings, weight_decay=decay))
        for decay in (0.0, 0.5)
    )
    models: Any = ((plain.policy, 1e-2), (plain.value, 2e-2))
    weights = [(p.detach().clone(), rate) for model, rate in models for p in model.parameters()]
    for trainer in (plain, decayed):
        trainer.step()
    after = [[*trainer.policy.parameters(), *trainer.value.parameters()] for trainer in (plain, decayed)]
    for (before, rate), without, with_decay in zip(weights, *after, strict=True):
        lost = 0.5 * rate * before if before.dim() > 1 else torch.zeros_like(before)
        torch.testing.assert_close(without - with_decay, lost, atol=1e-6, rtol=1e-4)
    assert {before.dim() > 1 for before, _ in weights} == {True, False}


def test_the_epochs_end_for_good_at_the_first_minibatch_beyond_the_bound(
    causal_lm: Build, reward_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is in nats a token; what shows it passed is not learned from, and no later epoch begins."""
    settings: Any = {
        "total_episodes": 8,
        "batch_size": 8,
        "num_mini_batches": 2,
        "num_ppo_epochs": 4,
        "response_length": 8,
    }
    config = PPOConfig(**settings, target_kl_stop=0.025, cpu=True)
    trainer = PPOTrainer(causal_lm("qwen3"), reward_model("qwen3"), [[1, 2], [3]], config)
    measured = [0.0, 0.01, 0.024, 0.026, 0.0, 0.0, 0.0, 0.0]
    seen: list[float] = []
    backward = trainer.learner._backward

    def scripted(*arguments: Any) -> dict[str, float]:
        seen.append(measured[len(seen)])
        return backward(*arguments) | {"approxkl": seen[-1]}

    monkeypatch.setattr(trainer.learner, "_backward", scripted)
    metrics = trainer.step()
    assert seen == measured[:4]
    assert metrics["optimizer_steps"] == 3
    assert metrics["policy/approxkl_avg"] == pytest.approx(0.034 / 3)


def test_the_presets_are_what_the_pages_say() -> None:
    presets = {name: config for name, (_, config) in PRESETS.items()}
    assert {name: config.lr_floor for name, config in presets.items()} == {"smoke": 0.1, "laptop": 0.04, "gpu": 0.1}
    assert presets["laptop"].cliprange_value == presets["gpu"].cliprange_value == 0.3
