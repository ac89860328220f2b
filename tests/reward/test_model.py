"""How a new reward model starts."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from reward.model import new_reward_model

WIDTH = 256


def test_a_new_head_has_the_scale_of_one_over_the_root_of_its_width(tmp_path: Path) -> None:
    config = Qwen3Config(
        vocab_size=12, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16,
        num_key_value_heads=2, max_position_embeddings=16, pad_token_id=11, eos_token_id=10, bos_token_id=None,
    )  # fmt: skip
    body: Any = Qwen3ForCausalLM(config)
    body.save_pretrained(tmp_path)
    models: list[Any] = [new_reward_model(tmp_path, seed) for seed in (1, 1, 2)]
    first, same, other = models
    assert first.score.weight.shape == (1, WIDTH)
    assert first.score.weight.std().item() == pytest.approx(1 / math.sqrt(WIDTH + 1), rel=0.15)
    assert torch.equal(first.score.weight, same.score.weight)
    assert not torch.equal(first.score.weight, other.score.weight)
    assert torch.equal(first.base_model.embed_tokens.weight, body.base_model.embed_tokens.weight)
