"""The networks on each way through them: packed, the plain body, and the whole model with its own head."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor
from transformers import CodeGenConfig, CodeGenForCausalLM, OPTConfig

from data.console import UserError
from rlhf.ppo.networks import ValueModel
from rlhf.ppo.rewards.model import ModelReward
from rlhf.ppo.trainer import PPOConfig, PPOTrainer
from sft.models.batch import Batch, Padded
from sft.models.forward import LogProbs
from sft.models.loading import load_classifier

PROMPTS, RESPONSES = [[3, 7], [1, 2, 3, 4, 5, 6, 7], [9], [4, 4, 4, 8]], [[5, 6, 7], [8], [1, 2, 3, 4, 5], [22]]
KINDS = ["gpt2", "qwen3"]
PATHS = ["packed", "plain", "whole"]
Build = Callable[..., Any]


@pytest.fixture
def networks(causal_lm: Build, reward_model: Build) -> Callable[..., list[Any]]:
    """`networks(kind, path, **config)`: policy, value with a head that is not 0, and reward, made while in training."""

    def build(kind: str, path: str, **changes: Any) -> list[Any]:
        policy = LogProbs(causal_lm(kind, **changes).train())
        value = ValueModel(reward_model(kind, **changes).base_model.train())
        reward = ModelReward(reward_model(kind, **changes).train(), batch_rows=3)
        torch.nn.init.ones_(value.score.weight)
        if path != "packed":
            for network in (policy, value, reward.scores):
                network.hidden_states.body = None
        policy.plain_head = path != "whole"
        return [policy, value, reward]

    return build


def outputs(policy: Any, value: Any, reward: Any, widths: tuple[int, ...] = (0, 0, 0, 0)) -> list[Tensor]:
    """Log-probabilities, values and scores; every row moved to the right by its width."""
    batch = Batch(PROMPTS, RESPONSES)
    plain = batch.padded

    def moved(tensor: Tensor) -> Tensor:
        rows = [torch.nn.functional.pad(row, (w, max(widths) - w)) for row, w in zip(tensor, widths, strict=True)]
        return torch.stack(rows)

    batch.padded = Padded(*(moved(tensor) for tensor in (plain.ids, plain.mask, plain.predicts_response, plain.last)))
    with torch.no_grad():
        return [policy(batch, 0.7)[0], value(batch), reward(PROMPTS, RESPONSES)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_every_path_is_the_same_function_wherever_padding_stands(networks: Any, kind: str, path: str) -> None:
    """Row by row and without padding, on the side of transformers."""
    policy, value, reward = networks(kind, path)
    logprobs, values, scores = [], [], []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        ids, start = torch.tensor([prompt + response]), len(prompt) - 1
        with torch.no_grad():
            table = (policy.lm(ids).logits[0, start:-1] / 0.7).log_softmax(-1)
            logprobs.append(table.gather(1, ids[0, start + 1 :, None])[:, 0])
            values.append(value.score(value.backbone(ids).last_hidden_state)[0, start:-1, 0])
            scores.append(reward.model.score(reward.model.base_model(ids).last_hidden_state)[0, -1])
    for widths in ((0, 0, 0, 0), (6, 0, 3, 17)):
        for ours, theirs in zip(outputs(policy, value, reward, widths), (logprobs, values, scores), strict=True):
            torch.testing.assert_close(ours, torch.cat(theirs), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_no_network_has_dropout(networks: Any, kind: str, path: str) -> None:
    """Neither as it is made, of a model in training, nor after `train()`."""
    names = ["resid_pdrop", "embd_pdrop", "attn_pdrop"] if kind == "gpt2" else ["attention_dropout"]
    without, dropping = outputs(*networks(kind, path)), networks(kind, path, **dict.fromkeys(names, 0.5))
    for _ in range(2):
        for ours, theirs in zip(outputs(*dropping), without, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        for network in dropping[:2]:
            network.train()


def opt(head: str) -> Any:
    """As OPT-350m: what comes out of the body is narrower than what is within."""
    sizes: dict[str, Any] = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 64, "num_hidden_layers": 2}
    tokens: dict[str, Any] = {
        "vocab_size": 24,
        "pad_token_id": 23,
        "eos_token_id": 22,
        "bos_token_id": None,
        "num_labels": 1,
    }
    more: dict[str, Any] = {"num_attention_heads": 4, "max_position_embeddings": 64, "do_layer_norm_before": False}
    return getattr(transformers, f"OPTFor{head}")(OPTConfig(**sizes, **tokens, **more))


def long(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]


@pytest.mark.parametrize("of", ["policy", "reward", "value"])
def test_the_value_head_is_as_wide_as_what_it_reads(causal_lm: Build, tokenizer: Any, tmp_path: Path, of: str) -> None:
    config = PPOConfig(total_episodes=4, batch_size=4, response_length=6, cpu=True)
    policy = opt("CausalLM") if of == "policy" else causal_lm("gpt2")
    reward = opt("SequenceClassification") if of == "reward" else long
    value = opt("SequenceClassification") if of == "value" else None
    trainer = PPOTrainer(policy, reward, PROMPTS, config, tokenizer=tokenizer, value=value)
    assert trainer.value.score.in_features == 16
    trainer.train()
    trainer.save(tmp_path, value=True)
    assert load_classifier(tmp_path / "value").config.num_labels == 1


# ---- what learns, and what does not ----


def settings(**changes: Any) -> PPOConfig:
    base: dict[str, Any] = {"total_episodes": 16, "batch_size": 8, "response_length": 6, "learning_rate": 1e-2}
    return PPOConfig(**base | changes, cpu=True)


def snapshot(module: Any) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def test_what_is_frozen_stays_as_it_is(
    causal_lm: Build, reward_model: Build, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the policy, of the value model that starts from it, and of one that is given."""
    policy, given = causal_lm("gpt2"), reward_model("gpt2")
    frozen = [*policy.transformer.wte.parameters(), *policy.transformer.h[0].parameters()]
    for weight in [*frozen, *given.transformer.h.parameters()]:
        weight.requires_grad_(False)
    trainer = PPOTrainer(policy, long, PROMPTS, settings(), tokenizer=tokenizer)
    assert "13 of 28 weight tensors of the policy are frozen (requires_grad), and stay so" in " ".join(
        capsys.readouterr().err.split()
    )
    names = {name for name, weight in policy.named_parameters() if not weight.requires_grad}
    for network in (trainer.policy.lm, trainer.value):
        before = snapshot(network)
        trainer.train()
        trainer.updates_done = 0
        moved = {name for name, weight in snapshot(network).items() if not torch.equal(weight, before[name])}
        stays = {name.replace("transformer.", "backbone.") for name in names} if network is trainer.value else names
        assert moved.isdisjoint(stays)
        assert moved | stays >= before.keys() - {"transformer.wpe.weight", "backbone.wpe.weight"}
    trainer = PPOTrainer(causal_lm("gpt2"), long, PROMPTS, settings(), tokenizer=tokenizer, value=given)
    before = snapshot(trainer.value)
    trainer.train()
    moved = {name for name, weight in snapshot(trainer.value).items() if not torch.equal(weight, before[name])}
    assert moved
    assert not any(".h." in name for name in moved)


def test_a_policy_of_which_nothing_learns_is_refused_and_a_reward_that_only_scores_begins_a_value(
    causal_lm: Build, reward_model: Build
) -> None:
    with pytest.raises(
        UserError, match=r"every weight of the policy \(GPT2LMHeadModel\) is frozen: call requires_grad_"
    ):
        PPOTrainer(causal_lm("gpt2").requires_grad_(False), reward_model("gpt2"), PROMPTS, settings())
    reward = reward_model("gpt2").requires_grad_(False)
    trainer = PPOTrainer(causal_lm("gpt2"), reward, PROMPTS, settings())
    assert all(weight.requires_grad for weight in trainer.value.parameters())
    assert not any(weight.requires_grad for weight in reward.parameters())
    head_only = PPOTrainer(causal_lm("gpt2"), reward, PROMPTS, settings(), value=reward)
    assert [name for name, weight in head_only.value.named_parameters() if weight.requires_grad] == [
        "score.weight",
        "score.bias",
    ]


@pytest.mark.parametrize("shared", ["modules", "weights", "storage"])
@pytest.mark.parametrize("adapted", [False, True])
def test_what_shares_weights_with_the_policy_does_not_change_with_it(
    causal_lm: Build, reward_model: Build, shared: str, adapted: bool
) -> None:
    policy, reward, reference = causal_lm("qwen3"), reward_model("qwen3"), causal_lm("qwen3")
    for other in (reward, reference):
        if shared == "modules":
            other.model = policy.model
        elif shared == "weights":
            other.model.layers[1].mlp.up_proj.weight = policy.model.layers[1].mlp.up_proj.weight
        else:
            other.model.norm.weight.data = policy.model.norm.weight.data
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if adapted else None
    trainer = PPOTrainer(
        policy, {"a": (reward, 0.5), "b": (reward_model("qwen3", seed=3), 1)}, PROMPTS, settings(), peft_config=lora,
        reference=reference,
    )  # fmt: skip

    reward_of: Any = trainer.reward

    def seen() -> Tensor:
        with torch.no_grad():
            return torch.cat([reward_of(PROMPTS, RESPONSES), trainer.reference(Batch(PROMPTS, RESPONSES))[0]])

    before = seen()
    trainer.train()
    torch.testing.assert_close(seen(), before, atol=1e-6, rtol=0)


def test_quantised_weights_do_not_learn(causal_lm: Build, reward_model: Build) -> None:
    """Marked as transformers marks them; the weights are as they were, so that what is frozen can be run."""

    def marked(model: Any) -> Any:
        model.config.quantization_config = {"quant_method": "any"}
        return model

    with pytest.raises(UserError, match=r"the policy \(Qwen3ForCausalLM\) is quantised, .*: give a peft_config"):
        PPOTrainer(marked(causal_lm("qwen3")), reward_model("qwen3"), PROMPTS, settings())
    models: Any = (causal_lm("qwen3"), marked(reward_model("qwen3")), PROMPTS, settings())
    with pytest.raises(UserError, match="would start from a Qwen3ForSequenceClassification that is quantised"):
        PPOTrainer(*models)
    assert PPOTrainer(*models, value=reward_model("qwen3"), reference=marked(causal_lm("qwen3"))).train()
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = PPOTrainer(marked(causal_lm("qwen3")), *models[1:], peft_config=lora)
    assert adapted.train()


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_model_is_saved_and_started_from(
    causal_lm: Build, reward_model: Build, tokenizer: Any, tmp_path: Path, kind: str
) -> None:
    """Its head included, as a plain sequence classifier, which as a reward model gives the value too."""
    config = PPOConfig(total_episodes=16, batch_size=8, response_length=6, value_learning_rate=1e-2, cpu=True)
    models: Any = (causal_lm(kind), reward_model(kind), PROMPTS, config)
    trainer = PPOTrainer(*models, tokenizer=tokenizer)
    trainer.step()
    trainer.save(tmp_path, value=True)
    again = PPOTrainer(*models, tokenizer=tokenizer, value=tmp_path / "value")
    assert trainer.value.score.bias.item() != 0
    with torch.no_grad():
        values = trainer.value(Batch(PROMPTS, RESPONSES))
        torch.testing.assert_close(again.value(Batch(PROMPTS, RESPONSES)), values)
    classifier = load_classifier(tmp_path / "value")
    score = ModelReward(classifier, 4)([PROMPTS[0]], [RESPONSES[0][:1]])
    torch.testing.assert_close(score[0], values[1])
    assert again.step()["val/explained_variance"] != 0
    half = PPOTrainer(models[0], reward_model(kind).bfloat16(), *models[2:], tokenizer=tokenizer)
    half.save(tmp_path / "half", value=True)
    saved = {weight.dtype for weight in load_file(tmp_path / "half" / "value" / "model.safetensors").values()}
    assert saved == {torch.bfloat16}, "of the model that it began as; the policy is of its own"
    assert {weight.dtype for weight in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float32}
    # A reward model in the same place gives its body alone.
    assert PPOTrainer(*models, tokenizer=tokenizer, value=reward_model(kind)).value.score.weight.abs().max() == 0


def test_what_has_no_classifier_is_refused_before_anything_is_written(
    causal_lm: Build, tokenizer: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    shape: Any = {"vocab_size": 24, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32, "rotary_dim": 8}
    policy = CodeGenForCausalLM(CodeGenConfig(**shape, bos_token_id=22, eos_token_id=22))
    config = PPOConfig(total_episodes=4, batch_size=4, response_length=4, cpu=True)
    trainer = PPOTrainer(policy, lambda p, r: [0.0] * len(p), ["ab"], config, tokenizer=tokenizer)
    with pytest.raises(UserError, match="the value model cannot be saved: transformers has no sequence classifier for"):
        trainer.save(tmp_path / "out", value=True)
    assert not (tmp_path / "out").exists()
