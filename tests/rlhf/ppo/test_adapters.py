"""LoRA for policy and value: what learns and what is shared, the trainer's invariants with it, saving and resuming."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoKrConfig, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model

from data.console import UserError
from rlhf.ppo.adapters import share_weights, trainable
from rlhf.ppo.networks import ValueModel
from rlhf.ppo.trainer import PPOConfig, PPOTrainer
from sft.models.batch import Batch
from sft.models.loading import load_causal_lm, load_classifier

pytestmark = pytest.mark.usefixtures("one_thread")

EOS = 22
PROMPTS = [[3, 7], [1, 2, 3, 4, 5, 6, 7], [9], [4, 4, 4, 8]]
KINDS = ["gpt2", "qwen3"]
Build = Callable[..., Any]
Make = Callable[..., PPOTrainer]


@pytest.fixture
def lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture
def make(causal_lm: Build, reward_model: Build, tokenizer: Any, lora: LoraConfig) -> Make:
    def build(kind: str = "qwen3", reward: Any = None, peft_config: Any = lora, **changes: Any) -> PPOTrainer:
        base: dict[str, Any] = {
            "total_episodes": 48,
            "batch_size": 16,
            "num_ppo_epochs": 2,
            "num_mini_batches": 2,
            "response_length": 8,
            "temperature": 1.0,
            "learning_rate": 3e-2,
            "stop_token_ids": (EOS, 0, 1),
            "cpu": True,
        }
        reward = reward_model(kind) if reward is None else reward
        config = PPOConfig(**base | changes)
        return PPOTrainer(causal_lm(kind), reward, PROMPTS, config, tokenizer=tokenizer, peft_config=peft_config)

    return build


def short(prompts: list[str], responses: list[str]) -> list[float]:
    return [-float(len(response)) for response in responses]


def snapshot(*modules: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"{i}.{n}": p.detach().clone() for i, m in enumerate(modules) for n, p in m.named_parameters()}


def logprobs(policy: torch.nn.Module) -> torch.Tensor:
    batch = Batch(PROMPTS, [[5, 6, 7], [8], [1, 2, 3], [EOS]])
    with torch.no_grad():
        return policy(batch, 1.0)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reward", [None, short], ids=["model", "function"])
def test_only_the_adapters_and_the_value_head_learn(make: Make, kind: str, reward: Any) -> None:
    trainer = make(kind, reward)
    networks = (trainer.policy, trainer.reference, trainer.value)
    learned = {f"{i}.{name}" for i, network in enumerate(networks) for name in trainable(network)}
    assert {name for name in learned if "lora_" not in name} == {"2.score.weight", "2.score.bias"}
    assert {name[0] for name in learned if "lora_" in name} == {"0", "2"}, "the reference learns nothing"
    before, reference, policy = snapshot(*networks), logprobs(trainer.reference), logprobs(trainer.policy)
    torch.testing.assert_close(policy, reference, atol=1e-6, rtol=0)
    trainer.train()
    after = snapshot(*networks)
    assert {name for name, weight in after.items() if not torch.equal(weight, before[name])} == learned
    assert torch.equal(logprobs(trainer.reference), reference)
    assert (logprobs(trainer.policy) - reference).abs().max() > 0.05
    adapted: Any = trainer.models.adapted
    with adapted.disable_adapter():
        torch.testing.assert_close(logprobs(trainer.policy), reference, atol=1e-6, rtol=0)


def test_frozen_weights_are_in_memory_once(make: Make, causal_lm: Build, reward_model: Build) -> None:
    trainer = make("qwen3")
    reward: Any = trainer.reward
    networks: tuple[torch.nn.Module, ...] = (trainer.policy, trainer.reference, trainer.value, reward.model)
    held = {p.data_ptr(): p.numel() for network in networks for p in network.parameters()}
    learned = sum(p.numel() for network in networks for p in trainable(network).values())
    models = sum(p.numel() for model in (causal_lm("qwen3"), reward_model("qwen3")) for p in model.parameters())
    assert sum(held.values()) == models + learned
    from_policy = make("qwen3", short)
    networks = (from_policy.policy, from_policy.reference, from_policy.value)
    held = {p.data_ptr(): p.numel() for network in networks for p in network.parameters()}
    learned = sum(p.numel() for network in networks for p in trainable(network).values())
    assert sum(held.values()) == sum(p.numel() for p in causal_lm("qwen3").parameters()) + learned


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_ratio_is_one_and_the_head_stays_plain(make: Make, kind: str) -> None:
    trainer = make(kind)
    assert trainer.policy.plain_head
    for metrics in trainer.train():
        assert metrics["val/first_ratio_error"] < 2e-5
    assert metrics["objective/kl"] > 1e-3
    # Logits at the response alone are those of the whole model, adapter included.
    fast = logprobs(trainer.policy)
    trainer.policy.plain_head = False
    torch.testing.assert_close(fast, logprobs(trainer.policy), atol=1e-5, rtol=0)


def test_without_learning_nothing_moves(make: Make) -> None:
    for metrics in make(learning_rate=0.0).train():
        assert metrics["val/ratio"] == pytest.approx(1, abs=1e-5)
        assert metrics["objective/kl"] == pytest.approx(0, abs=1e-5)


def test_it_learns_as_the_whole_model_does(make: Make) -> None:
    """Short responses pay: both come to answer with little more than a stop."""
    lengths = []
    for peft_config in (None, LoraConfig(r=8, target_modules="all-linear")):
        rate = 3e-3 if peft_config is None else 3e-2
        trainer = make(reward=short, peft_config=peft_config, total_episodes=32 * 12, batch_size=32, learning_rate=rate)
        history = trainer.train()
        lengths.append((history[0]["objective/response_length"], history[-1]["objective/response_length"]))
    for before, after in lengths:
        assert after < 0.6 * before, lengths


def test_resuming_is_not_having_stopped_and_keeps_the_adapters_alone(make: Make, tmp_path: Path) -> None:
    whole = make(output_dir=tmp_path, save_every=1)
    whole.step()
    state = torch.load(tmp_path / "resume" / "state.pt", weights_only=True)
    assert state["policy"].keys() == trainable(whole.policy).keys()
    assert all("lora_" in name for name in state["policy"])
    resumed = make()
    resumed.load_state(tmp_path / "resume")
    whole.train()
    resumed.train()
    ends = [snapshot(trainer.policy, trainer.value) for trainer in (whole, resumed)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    other = LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    for config in (other, None):
        with pytest.raises(UserError, match="run with peft_config="):
            make(peft_config=config).load_state(tmp_path / "resume")


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_is_saved_as_peft_saves_it(make: Make, causal_lm: Build, tmp_path: Path, kind: str) -> None:
    trainer = make(kind)
    trainer.train()
    trainer.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    assert (tmp_path / "adapter" / "tokenizer.json").exists()
    ids = torch.tensor([[1, 2, 3]])
    expected = trainer.policy.lm(ids).logits
    assert (expected - causal_lm(kind)(ids).logits).abs().max() > 0.05
    loaded = PeftModel.from_pretrained(causal_lm(kind), tmp_path / "adapter")
    torch.testing.assert_close(loaded(ids).logits, expected, atol=1e-5, rtol=0)
    loaded.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = type(causal_lm(kind)).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged(ids).logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("peft_config", "message"),
    [
        ("lora", "peft_config is a str: give one of peft's"),
        (PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), "adds tokens to the prompt"),
        (LoKrConfig(target_modules=["c_attn"]), "peft cannot adapt the value model: Target module .*Conv1D.* not supp"),
        (LoraConfig(target_modules=["nowhere"]), "peft cannot adapt the (policy|value model): .*nowhere"),
        (LoraConfig(target_modules="all-linear", bias="all"), "trains .*bias, which the reference shares"),
        (LoraConfig(target_modules="all-linear", init_lora_weights="pissa"), "changes the weights when it is made"),
    ],
)
def test_what_cannot_be_an_adapter_is_said_in_one_line(make: Make, peft_config: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make("gpt2", peft_config=peft_config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "peft_config",
    [
        LoraConfig(r=4, target_modules=["c_attn", "lm_head"]),
        LoraConfig(r=4, target_modules=["c_attn", "wte"]),
        LoraConfig(r=4, target_modules=["c_attn"], modules_to_save=["lm_head"]),
    ],
    ids=["output", "embedding", "saved"],
)
def test_tied_weights_are_adapted_nowhere(
    make: Make, causal_lm: Build, tokenizer: Any, tmp_path: Path, peft_config: Any
) -> None:
    """Merged, the two places would differ. Untied, each has its own."""
    peft_config.task_type = "CAUSAL_LM"
    with pytest.raises(UserError, match=r"changes '(lm_head|transformer.wte)' of the policy, whose weights anoth"):
        make("gpt2", short, peft_config)
    config = PPOConfig(total_episodes=16, batch_size=8, response_length=6, learning_rate=3e-2, cpu=True)
    untied = causal_lm("gpt2", tie_word_embeddings=False)
    untied.save_pretrained(tmp_path / "sft")
    trainer = PPOTrainer(tmp_path / "sft", short, PROMPTS, config, tokenizer=tokenizer, peft_config=peft_config)
    trainer.train()
    trainer.save(tmp_path / "adapter")
    merged = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").merge_and_unload()
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(merged(ids).logits, trainer.policy.lm(ids).logits, atol=1e-4, rtol=1e-4)
    assert (merged(ids).logits - untied(ids).logits).abs().max() > 1e-3


class Packed(torch.nn.Linear):
    """As bitsandbytes' 8-bit layer: at the first call it takes for itself what its weight holds."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False)
        self.state = SimpleNamespace(held=None)
        self.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        self.weight.held = layer.weight.detach().clone()  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held: Any = self.weight
        if held.held is not None:
            self.state.held, held.held = held.held, None
        return x @ (torch.ones_like(self.weight) if self.state.held is None else self.state.held).T


def test_weights_that_serve_one_layer_are_shared_with_what_that_layer_took(
    causal_lm: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = causal_lm("qwen3")
    expected = model(torch.tensor([[1, 2, 3]])).logits
    model.config.quantization_config = {"quant_method": "any"}
    for layer in model.model.layers:
        layer.mlp.up_proj = Packed(layer.mlp.up_proj)
    other: Any = share_weights(model)
    for each in (other, model, other):
        torch.testing.assert_close(each(torch.tensor([[1, 2, 3]])).logits, expected, atol=1e-5, rtol=0)
    assert other.model.layers[0].mlp.up_proj.state.held is model.model.layers[0].mlp.up_proj.state.held
    monkeypatch.setattr(Packed, "__deepcopy__", lambda layer, memo: torch.nn.Linear(32, 64, bias=False), raising=False)
    with pytest.raises(UserError, match="the quantised weights of a Qwen3ForCausalLM cannot be shared"):
        share_weights(model)


def test_a_model_that_holds_an_adapter_is_refused(make: Make, causal_lm: Build, tmp_path: Path) -> None:
    """It would be saved as the adapter alone, without what was learned below it."""
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    causal_lm("qwen3").save_pretrained(tmp_path / "sft")
    model = type(causal_lm("qwen3")).from_pretrained(tmp_path / "sft")
    adapted: Any = get_peft_model(model, lora)
    adapted.save_pretrained(tmp_path / "adapter")
    for policy in (tmp_path / "adapter", model):
        with pytest.raises(UserError, match=r"the policy holds an adapter: merge it first .*merge_and_unload"):
            load_causal_lm(policy)
    assert load_causal_lm(adapted.merge_and_unload()).can_generate()


def test_without_peft_the_package_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r'needs the package peft: pip install "shakespeare-rlhf\[peft\]"'):
        make()
    assert make(peft_config=None).step(), "nobody else needs it"


def test_sharing_copies_modules_and_no_tensor(causal_lm: Build) -> None:
    model = causal_lm("qwen3")
    other = share_weights(model)
    assert other is not model
    assert other.model.layers[0] is not model.model.layers[0]
    assert all(a is b for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert not any(p.requires_grad for p in other.parameters())
    assert other.lm_head.weight is other.model.embed_tokens.weight, "what is tied stays tied"


@pytest.mark.parametrize("reward", [None, short], ids=["model", "function"])
def test_the_value_model_is_saved_with_its_adapter_merged(make: Make, tmp_path: Path, reward: Any) -> None:
    trainer = make("gpt2", reward)
    trainer.step()
    batch, before = Batch(PROMPTS, [[5, 6], [7], [8, 9, 1], [EOS]]), snapshot(trainer.value)
    trainer.save(tmp_path, value=True)
    assert all(torch.equal(weight, before[name]) for name, weight in snapshot(trainer.value).items())
    saved: Any = load_classifier(tmp_path / "value")
    assert not any("lora" in name for name in saved.state_dict())
    with torch.no_grad():
        values = trainer.value(batch)
        merged = ValueModel(saved.base_model, saved)(batch)
    assert values.abs().min() > 0
    torch.testing.assert_close(merged, values, atol=1e-5, rtol=1e-4)
    assert (tmp_path / "adapter_model.safetensors").exists()
