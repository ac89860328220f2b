"""Fewer bits and fewer activations: what is learned stays what it was, to rounding, and nothing is lost on the way."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from data.console import UserError
from rlhf.ppo.placement.precision import MasterAdam, Masters, checkpoint_layers
from rlhf.ppo.trainer import PPOConfig, PPOTrainer

pytestmark = pytest.mark.usefixtures("one_thread")

Build = Callable[..., PreTrainedModel]
Make = Callable[..., PPOTrainer]
PROMPTS = [[3, 7], [1, 2, 3, 4, 5], [9], [4, 4, 8]]


@pytest.fixture
def make(causal_lm: Build, reward_model: Build) -> Make:
    def build(kind: str = "qwen3", peft_config: Any = None, **changes: Any) -> PPOTrainer:
        base: dict[str, Any] = {"total_episodes": 16, "batch_size": 8, "num_mini_batches": 2, "num_ppo_epochs": 2}
        base |= {"response_length": 6, "temperature": 1.0, "learning_rate": 1e-3, "cpu": True}
        config = PPOConfig(**base | changes)
        return PPOTrainer(causal_lm(kind), reward_model(kind), PROMPTS, config, peft_config=peft_config)

    return build


def dtypes(module: torch.nn.Module) -> set[torch.dtype]:
    return {weight.dtype for weight in module.parameters()}


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_layers_computed_twice_learn_the_same(make: Make, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, checkpointed = (make(kind, learning_rate=1e-5, gradient_checkpointing=on) for on in (False, True))
    for each in (plain.policy, plain.value):
        each.hidden_states.packs = False
    layer = type(checkpointed.policy.lm.base_model.get_submodule("h" if kind == "gpt2" else "layers")[0])
    passes: Counter[bool] = Counter()
    forward = layer.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        passes[torch.is_grad_enabled()] += 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", counted)
    expected = plain.train()
    once = passes[True]
    for module in (checkpointed.policy, checkpointed.value):
        for part in module.modules():
            if isinstance(part, layer):
                del part.forward
        checkpoint_layers(module, "model")
    found = checkpointed.train()
    for one, other in zip(expected, found, strict=True):
        same = {name: value for name, value in one.items() if not name.startswith("time/") and name != "eps"}
        assert {name: other[name] for name in same} == pytest.approx(same, abs=1e-5, rel=1e-4)
    assert passes[True] - once == 2 * once > 0


def test_frozen_models_may_be_rounded(make: Make) -> None:
    trainer = make(frozen_dtype="bfloat16")
    reward: Any = trainer.reward
    assert dtypes(trainer.reference) == dtypes(reward.model) == {torch.bfloat16}
    assert dtypes(trainer.policy) == dtypes(trainer.value) == {torch.float32}
    metrics, exact = trainer.step(), make().step()
    assert metrics["objective/response_length"] == exact["objective/response_length"]
    assert metrics["objective/scores"] == pytest.approx(exact["objective/scores"], abs=0.1)
    assert 0 < abs(metrics["objective/kl"]) < 0.3, "the policy is exact, the reference is rounded"


def test_below_an_adapter_there_is_one_rounded_set_of_weights(make: Make, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    trainer = make(peft_config=peft.LoraConfig(r=2, target_modules="all-linear"), frozen_dtype="bfloat16")
    shared = {id(weight) for weight in trainer.reference.parameters()}
    frozen = [weight for weight in trainer.policy.parameters() if not weight.requires_grad]
    assert {id(weight) for weight in frozen} == shared
    assert {weight.dtype for weight in frozen} == {torch.bfloat16}
    assert {weight.dtype for weight in trainer.policy.parameters() if weight.requires_grad} == {torch.float32}
    first, second = trainer.train()
    assert first["objective/kl"] == 0
    assert second["objective/kl"] != 0
    with pytest.raises(UserError, match="weights_dtype is bfloat16 and there is a peft_config"):
        make(peft_config=peft.LoraConfig(r=2, target_modules="all-linear"), weights_dtype="bfloat16")


def test_small_steps_of_rounded_weights_are_not_lost() -> None:
    """One in 256 is the distance of bfloat16 numbers near 1: steps of a tenth of it add up."""
    weight = torch.nn.Parameter(torch.ones(3))
    masters = Masters([weight])
    optimizer = MasterAdam([{"params": [weight]}], masters, lr=1 / 2560, betas=(0.0, 0.0))
    for step in range(1, 31):
        weight.grad = torch.full_like(weight, -1.0)
        optimizer.step()
        assert weight.grad is None
        assert masters.of(weight).tolist() == pytest.approx([1 + step / 2560] * 3, abs=1e-6)
    assert weight.dtype == torch.bfloat16
    assert (weight > 1).all()


def test_rounded_weights_are_saved_and_resumed_in_all_digits(make: Make, tmp_path: Path) -> None:
    trainer = make(weights_dtype="bfloat16", gradient_checkpointing=True)
    assert dtypes(trainer.policy) == dtypes(trainer.value.backbone) == {torch.bfloat16}
    trainer.step()
    trainer.save_state(tmp_path / "state")
    resumed = make(weights_dtype="bfloat16", gradient_checkpointing=True)
    resumed.train(resume_from=tmp_path / "state")
    trainer.train()
    names = trainer.models.masters.learned(trainer.policy)
    for name, weight in resumed.models.masters.learned(resumed.policy).items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, names[name])
    trainer.save(tmp_path / "aligned", value=True)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "aligned")
    assert saved.dtype == torch.float32
    for name, weight in saved.named_parameters():
        assert torch.equal(weight, names[f"lm.{name}"])
