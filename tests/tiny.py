"""Tiny models: enough to be wrong with, quick to run."""

import dataclasses
import json
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

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

from data.corpus import load_corpus
from data.run.card import Card
from data.run.folder import StageFolder, open_stage
from data.run.options import StageOptions
from data.run.record import StageRecord, read_stage
from data.tokenizers import bpe_tokenizer
from pretrain.checkpoint import save_model
from pretrain.model import GPT, GPTConfig

VOCABULARY, EOS, PAD = 24, 22, 23


def _config(kind: str, **changes: Any) -> GPT2Config | Qwen3Config:
    common: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None}
    if kind == "gpt2":
        shape: dict[str, Any] = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
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


# ---- a run of tiny models, made through the stages' own contract ----

SHAPE = GPTConfig(vocab_size=320, context_length=64, width=32, layers=1, heads=2, feed_forward=64)


def write_play(path: Path) -> None:
    """A play of our own in which every reply differs."""
    rng = random.Random(0)
    nouns = ["harbour", "lantern", "orchard", "river", "candle", "winter", "garden", "ladder", "kettle", "meadow"]
    verbs = ["keeps", "brings", "forgets", "follows", "mends", "carries", "leaves", "finds"]
    lines = [
        f"{speaker}:\nThe {rng.choice(nouns)} {rng.choice(verbs)} the {rng.choice(nouns)},\n"
        f"and {rng.choice(nouns)} {rng.choice(verbs)} {number}.\n"
        for number, speaker in enumerate(["MASON", "WEAVER", "PILOT"] * 130)
    ]
    path.write_text("\n".join(lines), "utf-8")


def write_directed_play(path: Path) -> None:
    """A play of our own in which every direction of the built-in table is followed by some reply."""
    rng, speakers = random.Random(0), ["MASON", "WEAVER", "PILOT"]
    words = ["love", "night", "king", "harbour", "river", "lantern", "crown", "winter"]
    speeches = []
    for number in range(360):
        lines = [f"The {rng.choice(words)} keeps {number} {rng.choice(words)}," for _ in range(rng.randint(1, 4))]
        if rng.random() < 0.3:
            lines[0] = f"Good {rng.choice(speakers).capitalize()}, {lines[0].lower()}"
        if rng.random() < 0.3:
            lines[-1] = "Now " + lines[-1][4:]
        lines[-1] = lines[-1][:-1] + rng.choice(".?!")
        speeches.append(f"{speakers[number % 3]}:\n" + "\n".join(lines) + "\n")
    path.write_text("\n".join(speeches), "utf-8")


def learned(ids: torch.Tensor, steps: int, shape: GPTConfig) -> GPT:
    """A tiny model after a second of training: it writes half-words, ends some speeches, and depends on the seed."""
    model = GPT(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        starts = torch.randint(len(ids) - 33, (16,)).tolist()
        batch = torch.stack([ids[start : start + 33] for start in starts])
        model(batch[:, :-1], batch[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


class RunMaker:
    """Writes stage folders of tiny models into one run."""

    def __init__(self, folder: Path, family: Any = "modern", directed: bool = False) -> None:
        """directed: a play in which replies follow directions, and a run that has the built-in ones."""
        self.shape = dataclasses.replace(SHAPE, family=family)
        self.run, text = folder / "run", folder / "play.txt"
        (write_directed_play if directed else write_play)(text)
        self.cards: dict[str, Card] = {}
        self.more = {"directions": "built-in"} if directed else {}
        self.corpus = corpus = load_corpus(str(text))
        self.tokenizer = bpe_tokenizer(corpus.train, SHAPE.vocab_size)
        speeches = [[*self.tokenizer.encode(each), self.tokenizer.eos_id] for each in corpus.train.split("\n\n")]
        self.ids = torch.tensor([token for speech in speeches for token in speech])

    def open(self, stage: str, parent: str | None) -> AbstractContextManager[StageFolder]:
        options = StageOptions(run=self.run, overwrite=True)
        record: StageRecord | None = read_stage(self.run / parent) if parent else None
        return open_stage(stage, options, preset="smoke", parent=record, corpus=None if parent else self.corpus)

    def language_model(self, stage: str, parent: str | None, seed: int, **config: Any) -> None:
        with self.open(stage, parent) as folder:
            torch.manual_seed(seed)
            model = learned(self.ids, 60, self.shape)
            save_model(model, self.tokenizer, folder.path)
            self.tokenizer.save(folder.path, SHAPE.context_length)
            for step in range(3):
                folder.log(step=step, episode=step * 8, bits_per_char=4 - step, **{"objective/kl": step / 10})
            folder.card = self.cards.get(stage)
            folder.config = {"prompt_length": 24, "response_length": 32} | (self.more if parent else {}) | config

    def reward_model(self, stage: str = "reward", seed: int = 3, **attributes: float) -> None:
        """attributes: of the model's configuration, such as `follow_scale`."""
        with self.open(stage, "sft") as folder:
            config = json.loads((self.run / "sft/config.json").read_text("utf-8"))
            del config["architectures"], config["dtype"]
            torch.manual_seed(seed)
            model = Qwen3ForSequenceClassification(Qwen3Config(**config | {"num_labels": 1}))
            model.config.update({"reward_mean": 0.1, "reward_std": 0.5} | attributes)
            model.save_pretrained(folder.path)
            self.tokenizer.save(folder.path, SHAPE.context_length)
            folder.card = self.cards.get(stage)
            folder.config = {"label_temperature": 0.05}


@pytest.fixture(scope="session")
def run_maker() -> type[RunMaker]:
    """`RunMaker(folder)`: its `run` gets the stages that are asked for."""
    return RunMaker
