"""Tiny random models: enough to be wrong with, quick to run."""

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

VOCABULARY, EOS, PAD = 24, 22, 23


def _config(kind: str, **changes: object) -> GPT2Config | Qwen3Config:
    common = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None}
    if kind == "gpt2":
        shape = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
        return GPT2Config(**{**common, **shape, **changes})
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    return Qwen3Config(**{**common, **shape, **changes})


def _build(cls: type[PreTrainedModel], config: GPT2Config | Qwen3Config, seed: int, std: float) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cls(config)
        # By default far larger than usual: predictions that differ plainly by position and by what was read.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=std)
    return model.eval()


@pytest.fixture
def causal_lm() -> Callable[..., PreTrainedModel]:
    """`causal_lm("gpt2" | "qwen3", seed=0, std=0.25, **config)`."""

    def build(kind: str, seed: int = 0, std: float = 0.25, **changes: object) -> PreTrainedModel:
        cls = GPT2LMHeadModel if kind == "gpt2" else Qwen3ForCausalLM
        return _build(cls, _config(kind, **changes), seed, std)

    return build


@pytest.fixture
def reward_model() -> Callable[..., PreTrainedModel]:
    """`reward_model("gpt2" | "qwen3", seed=1, std=0.25, **config)`: one label."""

    def build(kind: str, seed: int = 1, std: float = 0.25, **changes: object) -> PreTrainedModel:
        cls = GPT2ForSequenceClassification if kind == "gpt2" else Qwen3ForSequenceClassification
        return _build(cls, _config(kind, num_labels=1, **changes), seed, std)

    return build


@pytest.fixture
def letters() -> Callable[..., PreTrainedTokenizerFast]:
    """`letters("ab…", eos, pad)`: a tokenizer whose tokens are single characters in this order, then the two."""

    def build(alphabet: str, eos: str, pad: str) -> PreTrainedTokenizerFast:
        words = {character: i for i, character in enumerate([*alphabet, eos, pad])}
        backend = Tokenizer(WordLevel(words, unk_token=alphabet[0]))
        backend.pre_tokenizer = Split("", "isolated")
        backend.decoder = Fuse()
        return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token=pad)

    return build


@pytest.fixture
def tokenizer(letters: Callable[..., PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    """The letters a to v, ids 0 to 21, then EOS and PAD."""
    return letters("abcdefghijklmnopqrstuv", "<eos>", "<pad>")
