"""The presets: each can be trained, and the seed models have the sizes that their projects print."""

import pytest
import torch

from pretrain.checkpoint import new_model
from pretrain.model import GPTConfig
from pretrain.presets import PRESETS
from pretrain.training.schedules import lr_factor

VOCABULARIES = {"char": 65, "gpt2": 50_258}
"""Characters as the originals count them: without our two special tokens."""


def parameters(preset: str) -> int:
    config = PRESETS[preset][1]
    with torch.device("meta"):
        return new_model(config.model_config(VOCABULARIES[config.tokenizer])).parameter_count()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_sound(preset: str) -> None:
    _, config = PRESETS[preset]
    config.validate()
    config.micro_batches(1)
    assert 0 < lr_factor(config.steps // 2, config) <= 1


def test_sizes_are_those_that_were_published() -> None:
    # nanoGPT's log: 10,740,096 decayed and 4,992 others.
    assert parameters("nanogpt-gpu") == 10_740_096 + 4_992
    # The lecture's: 10,788,929. It has no biases in queries, keys and values, and one in the head.
    assert parameters("lecture") == 10_788_929 + 6 * 3 * 384 - 65
    assert PRESETS["shakespeare-bigram"][1] == PRESETS["gptfromscratch"][1]
    assert parameters("shakespeare-bigram") == parameters("lecture")
    # "About 370K".
    assert parameters("shakespeare-gpt") == pytest.approx(370_000, rel=0.02)
    # The lecture's notebook, with the same settings: 209,729.
    assert parameters("shakespearegpt") == 209_729 + 4 * 3 * 64 - 65
    tokens = PRESETS["shakespeare-tokens"][1].model_config(50_258)
    assert isinstance(tokens, GPTConfig)
    assert tokens.vocab_rows == 50_304


def test_tokens_a_step_are_those_that_were_published() -> None:
    tokens = {name: config.batch_size * config.context_length for name, (_, config) in PRESETS.items()}
    assert tokens["shakespeare-tokens"] == 4096
    assert tokens["nanogpt-gpu"] == 16_384
    assert tokens["nanogpt-cpu"] == 12 * 64
    assert PRESETS["shakespeare-tokens"][1].micro_batches(1) == (8, 8)
