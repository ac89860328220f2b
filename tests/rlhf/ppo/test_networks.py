"""The networks on each way through them: packed, the plain body, and the whole model with its own head."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CodeGenConfig, CodeGenForCausalLM

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
