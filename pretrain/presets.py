"""The presets: sizes that fit a machine, and other people's published recipes by name.

A seed model has the hyperparameters that its project published; where it is silent, those of the script that it
follows, Karpathy's lecture "Let's build GPT" (github.com/karpathy/ng-video-lecture), and of nanoGPT for the two
recipes of nanoGPT (github.com/karpathy/nanoGPT). What is not as in the originals, in all of them:

- Batches are shuffled epochs of windows that do not overlap, where they draw windows at random, with replacement
  (shakespeare-tokens: in the order of the text).
- The loss is that of the whole validation split; they estimate it from some random batches. The best weights are kept.
- The character vocabulary has two tokens more, `<|endoftext|>` and `<|pad|>`.
- What a plain GPT-2 checkpoint has no place for: the bias of the output projection (lecture), biases that are missing
  in query, key and value only. A key's bias cancels in the softmax and a value's is one with the bias after it, so
  only a query's does anything.
- There is dropout on the embedding wherever there is dropout; the lecture has none there, and shakespeare-tokens none
  on the attention.
- shakespeare-bigram and shakespearegpt leave out the last LayerNorm, by an oversight; their projects' other scripts
  and the lecture have it. They, and gptfromscratch, divide attention by the root of the width in place of the head's.
"""

from dataclasses import replace
from typing import Any

from pretrain.config import PretrainConfig


def _sizes(width: int, layers: int, heads: int, context_length: int) -> dict[str, Any]:
    """A model's sizes; the feed-forward layers are four times as wide as the stream, as in all seed models."""
    sizes = {"width": width, "layers": layers, "heads": heads, "context_length": context_length}
    return sizes | {"feed_forward": 4 * width}


# What all seed models share: characters, the classic blocks, torch's AdamW at a constant rate.
_SEED = PretrainConfig(
    tokenizer="char",
    family="gpt2",
    activation="relu",
    tied=False,
    optimizer="adamw",
    schedule="constant",
    warmup_fraction=0.0,
    weight_decay=0.01,
    decay="all",
    adam_beta2=0.999,
    adam_eps=1e-8,
    precision="fp32",
    eval_first=True,
    eval_every=500,
    save_every=500,
    sample_tokens=300,
)
_LECTURE = replace(
    _SEED,
    **_sizes(384, layers=6, heads=6, context_length=256),
    dropout=0.2,
    steps=5000,
    batch_size=64,
    learning_rate=3e-4,
    save_every=250,
)
_LECTURE_AS_FIRST_WRITTEN = replace(_LECTURE, initialisation="torch")

# The rungs below it; more is not common to them than this. The bigram is that of the lecture's script bigram.py.
_LADDER = replace(_SEED, initialisation="torch", context_length=8, steps=5000, batch_size=32, learning_rate=1e-3)
_NOTHING: dict[str, Any] = {"width": 0, "layers": 0, "heads": 0, "feed_forward": 0}
_BIGRAM = replace(_LADDER, family="bigram", **_NOTHING, steps=3000, learning_rate=1e-2, eval_every=300)
_ONE_HEAD = replace(_LADDER, family="one-head", width=32, layers=1, heads=1, feed_forward=0)
_MULTI_HEAD = replace(_ONE_HEAD, family="multi-head", heads=4)
_FEED_FORWARD = replace(_MULTI_HEAD, family="feed-forward", feed_forward=32)
_RESIDUAL = replace(_FEED_FORWARD, family="residual", layers=3, feed_forward=128)
_LAYER_NORM = replace(_RESIDUAL, family="layer-norm")

_NANOGPT = replace(
    _SEED,
    activation="gelu",
    tied=True,
    bias=False,
    learning_rate=1e-3,
    weight_decay=0.1,
    decay="matrices",
    adam_beta2=0.99,
    schedule="cosine",
    final_fraction=0.1,
    max_grad_norm=1.0,
    eval_every=250,
    save_every=250,
)

PRESETS: dict[str, tuple[str, PretrainConfig]] = {
    "smoke": (
        "seconds: what the tests drive",
        PretrainConfig(
            vocab_size=384,
            width=64,
            layers=2,
            heads=2,
            feed_forward=128,
            context_length=96,
            steps=60,
            batch_size=8,
            eval_every=60,
            save_every=20,
            sample_tokens=40,
        ),
    ),
    "laptop": (
        "2 CPU cores, under 2 minutes",
        PretrainConfig(width=128, heads=2, feed_forward=344, steps=800, eval_every=200, save_every=200),
    ),
    "laptop-best": (
        "2 CPU cores, eleven minutes, under ten with --compile: the lowest loss",
        PretrainConfig(teachers=3, steps=1370, eval_every=1370, save_every=685),
    ),
    "gpu": (
        "one GPU, 10.7 M parameters, context 256, bf16",
        PretrainConfig(
            width=384,
            layers=6,
            heads=6,
            feed_forward=1024,
            context_length=256,
            dropout=0.4,
            weight_decay=0.1,
            steps=1200,
            batch_size=64,
            muon_learning_rate=0.03,
            learning_rate=0.006,
            precision="bf16",
            compile=True,
            eval_every=150,
            save_every=500,
        ),
    ),
    "bigram": ("4 K parameters: the ladder's first rung, a table of pairs; seconds", _BIGRAM),
    "one-head": ("8 K: the bigram, and a head of self-attention; under a minute", _ONE_HEAD),
    "multi-head": ("8 K: four heads in place of one; under a minute", _MULTI_HEAD),
    "feed-forward": ("9 K: and a feed-forward layer; under a minute", _FEED_FORWARD),
    "residual": ("42 K: three blocks of both, added to a stream; a minute or two", _RESIDUAL),
    "layer-norm": ("42 K: and norms, the ladder's last rung; a minute or two", _LAYER_NORM),
    "lecture": (
        "10.8 M parameters: the model that Karpathy's lecture ends with; a GPU, or most of a day on a CPU",
        _LECTURE,
    ),
    "nanogpt-cpu": (
        "0.8 M parameters: nanoGPT's Shakespeare recipe for a laptop; minutes on a CPU",
        replace(
            _NANOGPT,
            **_sizes(128, layers=4, heads=4, context_length=64),
            steps=2000,
            batch_size=12,
            warmup_fraction=0.05,
        ),
    ),
    "nanogpt-gpu": (
        "10.7 M parameters: nanoGPT's Shakespeare recipe for a GPU; minutes there, most of a day on a CPU",
        replace(
            _NANOGPT,
            **_sizes(384, layers=6, heads=6, context_length=256),
            dropout=0.2,
            steps=5000,
            batch_size=64,
            warmup_fraction=0.02,
            precision="bf16",
            compile=True,
        ),
    ),
    "shakespeare-gpt": (
        "0.37 M parameters, cyclical learning rates: Csviney/shakespeare-GPT; a minute on a CPU",
        replace(
            _SEED,
            # Its script has 64 wide, 0.11 M; its README says about 370 K: as deep, and wider.
            **_sizes(120, layers=2, heads=2, context_length=8),
            dropout=0.2,
            steps=5000,
            batch_size=32,
            # The bounds that `python -m pretrain.lr_range_test shakespeare-gpt` suggests; its script has 1e-4 to
            # 1e-2, and torch's step size.
            learning_rate=0.0026,
            schedule="triangular",
            base_fraction=0.0028,
            step_size=2000,
        ),
    ),
    "gpt-from-scratch": (
        "1.6 M parameters, batches of 256 short windows: the project GPT From Scratch; hours on a CPU",
        replace(
            _SEED,
            initialisation="torch",
            **_sizes(128, layers=8, heads=8, context_length=32),
            dropout=0.1,
            steps=10_000,
            batch_size=256,
            learning_rate=3e-4,
            eval_every=1000,
            save_every=250,
        ),
    ),
    "shakespeare-bigram": (
        "10.8 M parameters: EnderPey/Shakespeare's BigramModel, the lecture's as it was first written; a GPU",
        _LECTURE_AS_FIRST_WRITTEN,
    ),
    "shakespeare-tokens": (
        "7.2 M parameters, GPT-2's tokens: EnderPey/Shakespeare's GPTModel; hours on a CPU",
        replace(
            _SEED,
            tokenizer="gpt2",
            padded_vocab_size=50_304,
            activation="gelu",
            tied=True,
            **_sizes(128, layers=4, heads=4, context_length=64),
            dropout=0.1,
            steps=4000,
            batch_size=64,
            micro_batch_size=8,
            learning_rate=6e-4,
            weight_decay=0.1,
            decay="matrices",
            adam_beta2=0.95,
            schedule="cosine",
            warmup_fraction=0.25,
            final_fraction=0.1,
            max_grad_norm=1.0,
            eval_every=100,
            save_every=100,
            sample_tokens=100,
        ),
    ),
    "shakespearegpt": (
        "0.2 M parameters: AngelaYu-3/shakespeareGPT, the lecture's model for a CPU; minutes there",
        replace(
            _SEED,
            initialisation="torch",
            **_sizes(64, layers=4, heads=4, context_length=32),
            steps=10_000,
            batch_size=16,
            learning_rate=1e-3,
        ),
    ),
    "gptfromscratch": (
        "10.8 M parameters: ColterDowning/GPTfromScratch's bigramv2, the lecture's as it was first written; a GPU",
        _LECTURE_AS_FIRST_WRITTEN,
    ),
}
