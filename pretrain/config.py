"""What a pretraining run is made of."""

from dataclasses import dataclass, fields
from typing import Literal

from data.console import UserError
from data.run.options import BatchOptions, StageOptions, check_ranges
from pretrain.ladder.models import LadderConfig, Rung
from pretrain.model import GPTConfig

CYCLIC_SCHEDULES = ("triangular", "triangular2", "exp_range")
# What is the GPT's alone, and how the rungs of the ladder are, whatever one asks for.
LADDER_IS = {
    "padded_vocab_size": None,
    "dropout": 0.0,
    "activation": "relu",
    "tied": False,
    "bias": True,
    "initialisation": "torch",
    "precision": "fp32",
}


@dataclass(kw_only=True)
class PretrainConfig(BatchOptions, StageOptions):
    """Train a GPT from scratch."""

    corpus: str = "auto"
    """Text to read: auto, tinyshakespeare, complete, pastiche, or the path of a UTF-8 text."""
    tokenizer: Literal["char", "bpe", "gpt2"] = "bpe"
    """Characters, byte-level BPE trained on the training split, or GPT-2's own vocabulary."""
    vocab_size: int = 1024
    """Size of the BPE vocabulary, its two special tokens included."""
    padded_vocab_size: int | None = None
    """Rows of the embedding while training, if more than the vocabulary has: GPUs like multiples of 64."""

    family: Literal["gpt2", "modern"] | Rung = "modern"
    """gpt2: LayerNorm, learned positions, GELU. modern: RMSNorm, rotary positions, QK-norm, SwiGLU. The others: a rung
    of the lecture's ladder (its preset has the sizes; 0 is what a rung does not have)."""
    width: int = 192
    """Width of the residual stream."""
    layers: int = 4
    heads: int = 3
    feed_forward: int = 512
    """Hidden width of the feed-forward layers."""
    context_length: int = 128
    """Tokens a prediction can look back on."""
    dropout: float = 0.0
    """Dropout rate; modern locks one mask over all positions of a sequence, gpt2 drops elementwise."""
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu_tanh"
    """Nonlinearity of the gpt2 family."""
    tied: bool = True
    """Whether the output projection is the embedding itself."""
    bias: bool = True
    """Biases in the linear layers and norms of the gpt2 family; modern never has any."""
    initialisation: Literal["gpt2", "torch"] = "gpt2"
    """Initial weights of the gpt2 family: GPT-2's small ones, or those of torch's layers (embeddings N(0, 1))."""

    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 16
    """Sequences per optimizer step, over all processes."""
    micro_batch_size: int | None = None
    """Sequences per forward pass of one process; fewer than the batch accumulates gradients."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """muon: torch's Muon on the hidden matrices and AdamW on the rest."""
    learning_rate: float = 0.01
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = 0.04
    """Peak learning rate of Muon; a matrix (out, in) gets √max(1, out/in) times that."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    decay: Literal["matrices", "all"] = "matrices"
    """What AdamW decays: matrices, or every parameter as torch does by default. With Muon it decays nothing."""
    adam_beta1: float = 0.9
    """Decay of AdamW's first moment."""
    adam_beta2: float = 0.95
    """Decay of AdamW's second moment."""
    adam_eps: float = 1e-10
    """AdamW's epsilon; tiny, rare tokens' rows move as far as common ones."""
    schedule: Literal["constant", "cosine", "linear", "triangular", "triangular2", "exp_range"] = "linear"
    """Course of the learning rate: after the warm-up; or in cycles between two bounds (Smith, WACV 2017)."""
    warmup_fraction: float = 0.02
    """Share of the steps in which the learning rate rises linearly from 0; cycles have none."""
    final_fraction: float = 0.0
    """Final learning rate of cosine and linear, as a share of the peak."""
    base_fraction: float = 0.1
    """Lower bound of the cycles, as a share of the upper one, which is the learning rate."""
    step_size: int = 500
    """Steps in half a cycle, from bound to bound."""
    gamma: float = 0.9999
    """exp_range: the cycles' height shrinks by this factor every step."""
    teachers: int = 0
    """Models that are trained first, in RUN/teachers/, each from a seed of its own; this one then learns their mean
    prediction instead of the token that came (Hinton et al., arXiv 1503.02531)."""
    teacher_preset: str = "laptop"
    """Preset of the teachers, except for corpus and tokenizer, which are this model's."""
    max_grad_norm: float | None = None
    """Clip the gradient's norm."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Type of the activations; auto takes bf16 where the processor has instructions for it."""
    compile: bool = False
    """torch.compile: 10 to 20 seconds once, then faster steps."""
    eval_every: int = 200
    """Steps between evaluations on the whole validation split; the best weights are kept."""
    eval_first: bool = False
    """Evaluate the untrained model too."""
    save_every: int = 400
    """Steps between the states that --resume continues from."""
    sample_tokens: int = 100
    """Length of the samples written at every evaluation, in tokens."""

    def model_config(self, vocab_size: int) -> GPTConfig | LadderConfig:
        """The model's shape; UserError for one that cannot be built."""
        if self.family == "gpt2" or self.family == "modern":
            shape = {field.name: getattr(self, field.name) for field in fields(GPTConfig)}
            return GPTConfig(**shape | {"vocab_size": vocab_size})
        for name, value in LADDER_IS.items():
            if getattr(self, name) != value:
                raise UserError(
                    f"{name} is fixed at {value} for rung {self.family}, but is {getattr(self, name)}: leave it out"
                )
        sizes = {name: getattr(self, name) for name in ("context_length", "width", "layers", "heads", "feed_forward")}
        return LadderConfig(rung=self.family, vocab_size=vocab_size, **sizes)

    def validate(self) -> None:
        """Raise UserError for a configuration that cannot be trained."""
        check_ranges(
            self,
            counts="steps batch_size step_size eval_every save_every",
            positive="learning_rate muon_learning_rate gamma adam_eps",
            shares="warmup_fraction final_fraction base_fraction gamma",
            rates="adam_beta1 adam_beta2",
            not_negative="teachers",
        )
        if self.schedule in CYCLIC_SCHEDULES and self.warmup_fraction > 0:
            raise UserError(f"schedule {self.schedule} begins at its lower bound: set warmup_fraction to 0")
        self.model_config(vocab_size=1)
