"""What a pretraining run is made of, and the presets."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from data.console import UserError
from pretrain.model import GPTConfig
from pretrain.stage import StageOptions


@dataclass(kw_only=True)
class PretrainConfig(StageOptions):
    """Train a GPT from scratch."""

    corpus: str = "auto"
    """auto, tinyshakespeare, pastiche, or the path of a UTF-8 text."""
    tokenizer: Literal["char", "bpe", "gpt2"] = "bpe"
    """Characters, byte-level BPE trained on the training split, or GPT-2's own vocabulary."""
    vocab_size: int = 1024
    """Size of the BPE vocabulary, its two special tokens included."""

    family: Literal["gpt2", "modern"] = "modern"
    """gpt2: LayerNorm, learned positions, GELU. modern: RMSNorm, rotary positions, QK-norm, SwiGLU."""
    width: int = 192
    """Width of the residual stream."""
    layers: int = 4
    heads: int = 3
    feed_forward: int = 512
    """Hidden width of the feed-forward layers."""
    context_length: int = 128
    """Tokens a prediction can look back on."""
    dropout: float = 0.0
    """Rate; modern locks one mask over all positions of a sequence, gpt2 drops elementwise."""
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu_tanh"
    """Nonlinearity of the gpt2 family."""
    tied: bool = True
    """Whether the output projection is the embedding itself."""

    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 16
    """Sequences an optimizer step, over all processes."""
    micro_batch_size: int | None = None
    """Sequences a forward pass on one process; fewer than the batch accumulates gradients."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """muon: torch's Muon on the hidden matrices and AdamW on the rest."""
    learning_rate: float = 0.01
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = 0.04
    """Peak learning rate of Muon; a matrix (out, in) gets √max(1, out/in) times that."""
    weight_decay: float = 0.0
    """Decoupled weight decay, on matrices only."""
    adam_beta2: float = 0.95
    """Second moment's decay; the first moment's is 0.9."""
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    """Course of the learning rate after the warm-up."""
    warmup_fraction: float = 0.02
    """Share of the steps in which the learning rate rises linearly from 0."""
    final_fraction: float = 0.0
    """Where cosine and linear end, as a share of the peak."""
    max_grad_norm: float | None = None
    """Clip the gradient's norm."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Type of the activations; auto takes bf16 where the processor has instructions for it."""
    compile: bool = False
    """torch.compile: 10 to 20 seconds once, then faster steps."""
    eval_every: int = 200
    """Steps between evaluations on the whole validation split; the best weights are kept."""
    save_every: int = 400
    """Steps between the states that --resume continues from."""
    sample_tokens: int = 100
    """Length of the samples written at every evaluation, in tokens."""

    def model_config(self, vocab_size: int) -> GPTConfig:
        return GPTConfig(
            family=self.family,
            vocab_size=vocab_size,
            context_length=self.context_length,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            feed_forward=self.feed_forward,
            dropout=self.dropout,
            activation=self.activation,
            tied=self.tied,
        )

    def micro_batches(self, processes: int) -> tuple[int, int]:
        """(sequences a forward pass, forward passes a step) on one of `processes`."""
        share, rest = divmod(self.batch_size, processes)
        if rest or share == 0:
            raise UserError(f"batch_size {self.batch_size} is not divisible by {processes} processes")
        micro = self.micro_batch_size or share
        if micro < 1 or share % micro:
            raise UserError(
                f"a process's batch of {share} is not divisible by micro_batch_size {micro}: change one of them"
            )
        return micro, share // micro

    def validate(self) -> None:
        """Raise UserError for a configuration that cannot be trained."""
        for name in ("steps", "batch_size", "eval_every", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "muon_learning_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("warmup_fraction", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        self.model_config(vocab_size=1)


def learning_rate_scale(step: int, config: PretrainConfig) -> float:
    """The share of the peak learning rate that step 0 … steps − 1 takes: warm-up, then the schedule."""
    warmup = round(config.warmup_fraction * config.steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, config.steps - warmup)
    shape = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_fraction + (1 - config.final_fraction) * shape


_SMOKE: dict[str, Any] = {
    "vocab_size": 384,
    "width": 64,
    "layers": 2,
    "heads": 2,
    "feed_forward": 128,
    "context_length": 96,
    "steps": 60,
    "batch_size": 8,
    "eval_every": 60,
    "save_every": 20,
    "sample_tokens": 40,
}

PRESETS: dict[str, tuple[str, PretrainConfig]] = {
    "smoke": ("seconds: what the tests drive", PretrainConfig(**_SMOKE)),
    "laptop": (
        "2 CPU cores, under 2 minutes",
        PretrainConfig(width=128, heads=2, feed_forward=344, steps=680, eval_every=170, save_every=170),
    ),
    "gpu": (
        "one GPU, 10.7 M parameters, context 256, bf16",
        PretrainConfig(
            width=384,
            layers=6,
            heads=6,
            feed_forward=1024,
            context_length=256,
            dropout=0.2,
            weight_decay=0.1,
            steps=1500,
            batch_size=64,
            muon_learning_rate=0.03,
            learning_rate=0.006,
            precision="bf16",
            compile=True,
            eval_every=150,
            save_every=500,
        ),
    ),
}
