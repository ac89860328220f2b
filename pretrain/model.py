"""The GPT, in two families that share one body.

gpt2    LayerNorm, learned positions, GELU or ReLU, biases or none, elementwise dropout: the course's model,
        saved in transformers' GPT-2 layout (Radford et al., 2019).
modern  RMSNorm, rotary positions, QK-norm, SwiGLU, no biases, tied embedding, locked dropout: saved in
        transformers' Qwen3 layout (Su et al., arXiv 2104.09864; Shazeer, arXiv 2002.05202;
        Dehghani et al., arXiv 2302.05442).

Shapes: B sequences, T positions, S keys, C width, H heads, D = C/H, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.console import UserError

Stream = Float[Tensor, "B T C"]
PerHead = Float[Tensor, "B H T D"]
Rotation = tuple[Float[Tensor, "T half"], Float[Tensor, "T half"]]


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of a GPT."""

    family: Literal["gpt2", "modern"] = "modern"
    vocab_size: int
    """Ids that there are: the tokenizer's vocabulary."""
    padded_vocab_size: int | None = None
    """Rows of the embedding and the head while training, if more: matrices of a size that GPUs like. Nothing else
    knows of them: evaluation, sampling and the checkpoint have `vocab_size`."""
    context_length: int
    """Positions a prediction can look back on, in tokens."""
    width: int
    layers: int
    heads: int
    feed_forward: int
    """Hidden width of the feed-forward layer."""
    dropout: float = 0.0
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu_tanh"
    """Feed-forward nonlinearity of the gpt2 family; modern always uses SwiGLU."""
    tied: bool = True
    """Whether the output projection is the embedding itself."""
    bias: bool = True
    """Biases in the linear layers and norms of the gpt2 family; modern never has any."""
    initialisation: Literal["gpt2", "torch"] = "gpt2"
    """Of the gpt2 family: GPT-2's small weights, or whatever torch's layers start with (embeddings N(0, 1))."""

    def __post_init__(self) -> None:
        if min(self.vocab_size, self.context_length, self.width, self.layers, self.heads) < 1:
            raise UserError("vocabulary, context, width, layers and heads must all be at least 1")
        if self.width % self.heads:
            raise UserError(f"width {self.width} is not divisible by {self.heads} heads: change one of them")
        if self.family == "modern" and (self.width // self.heads) % 2:
            raise UserError(
                f"rotary positions need an even head width, not {self.width}/{self.heads}: change width or heads"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), not {self.dropout}")
        if self.padded_vocab_size is not None and self.padded_vocab_size < self.vocab_size:
            raise UserError(
                f"padded_vocab_size {self.padded_vocab_size} is less than the vocabulary's {self.vocab_size} tokens"
            )

    @property
    def has_biases(self) -> bool:
        return self.family == "gpt2" and self.bias

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding and the head."""
        return self.padded_vocab_size or self.vocab_size


class Linear(nn.Linear):
    """A linear layer whose float32 weights are cast to the dtype of the activations."""

    def forward(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class LayerNorm(nn.LayerNorm):
    def forward(self, x: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        return super().forward(x.float()).to(x.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) · gain, computed in float32 (Zhang & Sennrich, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        scaled = x.float()
        scaled = scaled * torch.rsqrt(scaled.square().mean(-1, keepdim=True) + self.eps)
        return (scaled * self.weight).to(x.dtype)


class LockedDropout(nn.Module):
    """Dropout with one mask for all positions of a sequence (Gal & Ghahramani, arXiv 1512.05287)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Stream) -> Stream:
        if not self.training or self.rate == 0:
            return x
        mask = x.new_empty(x.shape[0], 1, x.shape[2]).bernoulli_(1 - self.rate)
        return x * (mask / (1 - self.rate))


def rotate(x: PerHead, cos: Float[Tensor, "T D//2"], sin: Float[Tensor, "T D//2"]) -> PerHead:
    """Rotate the pairs (x_i, x_{i+D/2}) by the angles of `cos` and `sin`."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Multi-head causal self-attention (Vaswani et al., arXiv 1706.03762)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.modern = config.family == "modern"
        head_width = config.width // config.heads
        self.softmax_scale = 1 / math.sqrt(head_width)
        self.query = Linear(config.width, config.width, bias=config.has_biases)
        self.key = Linear(config.width, config.width, bias=config.has_biases)
        self.value = Linear(config.width, config.width, bias=config.has_biases)
        self.out = Linear(config.width, config.width, bias=config.has_biases)
        if self.modern:
            self.query_norm, self.key_norm = RMSNorm(head_width), RMSNorm(head_width)
        self.dropout = 0.0 if self.modern else config.dropout

    def forward(self, x: Stream, bias: Float[Tensor, "T T"], rotation: Rotation | None) -> Stream:
        q, k, v = self.project(x, rotation)
        dropout = self.dropout if self.training else 0.0
        if x.device.type == "cpu":
            # Written out: on a CPU torch's fused kernel has a backward several times slower in bfloat16.
            mixed = F.dropout(self.weights(q, k, bias), dropout) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).reshape(x.shape))

    def project(self, x: Stream, rotation: Rotation | None) -> tuple[PerHead, PerHead, PerHead]:
        """Queries, keys and values of x; the first two normalised and rotated."""
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        q, k, v = (layer(x).view(split).transpose(1, 2) for layer in (self.query, self.key, self.value))
        if self.modern:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        return q, k, v

    def weights(self, q: PerHead, k: Float[Tensor, "B H S D"], bias: Float[Tensor, "T S"]) -> Float[Tensor, "B H T S"]:
        """What each query attends to: shares of the keys, rows of sum 1."""
        scores = (q * self.softmax_scale) @ k.transpose(-1, -2) + bias.to(q.dtype)
        return scores.float().softmax(-1).to(q.dtype)


class FeedForward(nn.Module):
    """Two layers with a nonlinearity (gpt2), or the gated SwiGLU (modern)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.modern = config.family == "modern"
        if self.modern:
            self.gate = Linear(config.width, config.feed_forward, bias=False)
        self.up = Linear(config.width, config.feed_forward, bias=config.has_biases)
        self.down = Linear(config.feed_forward, config.width, bias=config.has_biases)
        self.activation = config.activation

    def forward(self, x: Stream) -> Stream:
        if self.modern:
            return self.down(F.silu(self.gate(x)) * self.up(x))
        hidden = self.up(x)
        if self.activation == "relu":
            return self.down(F.relu(hidden))
        return self.down(F.gelu(hidden, approximate="tanh" if self.activation == "gelu_tanh" else "none"))


def build_norm(config: GPTConfig) -> nn.Module:
    """The family's normalisation of the residual stream."""
    if config.family == "modern":
        return RMSNorm(config.width)
    return LayerNorm(config.width, bias=config.bias)


class Block(nn.Module):
    """Attention, then feed-forward, each on a normalised copy and added to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm, self.attention = build_norm(config), Attention(config)
        self.feed_forward_norm, self.feed_forward = build_norm(config), FeedForward(config)
        self.dropout = LockedDropout(config.dropout) if config.family == "modern" else nn.Dropout(config.dropout)

    def forward(self, x: Stream, bias: Float[Tensor, "T T"], rotation: Rotation | None) -> Stream:
        x = x + self.dropout(self.attention(self.attention_norm(x), bias, rotation))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class GPT(nn.Module):
    """A decoder-only transformer. Weights are float32; `compute_dtype` is that of the activations."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.context_length = config.context_length
        self.compute_dtype = torch.float32
        self.cos: Tensor
        self.sin: Tensor
        modern = config.family == "modern"
        self.embedding = nn.Embedding(config.vocab_rows, config.width)
        if not modern:
            self.positions = nn.Embedding(config.context_length, config.width)
        self.dropout = LockedDropout(config.dropout) if modern else nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = build_norm(config)
        if not config.tied:
            self.head = Linear(config.width, config.vocab_rows, bias=False)
        if modern:
            half = config.width // config.heads // 2
            frequencies = 10_000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
            angles = torch.arange(config.context_length, dtype=torch.float32)[:, None] * frequencies
            self.register_buffer("cos", angles.cos(), persistent=False)
            self.register_buffer("sin", angles.sin(), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        if self.config.family == "modern":
            nn.init.normal_(self.embedding.weight, std=0.05)
            for name, parameter in self.named_parameters():
                if name.endswith(("out.weight", "down.weight")):
                    nn.init.zeros_(parameter)  # every block starts as the identity
                elif parameter.ndim == 2 and not name.startswith("embedding"):
                    nn.init.normal_(parameter, std=0.7 / math.sqrt(parameter.shape[1]))
            return
        if self.config.initialisation == "torch":
            return
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                # GPT-2 scales what is added to the residual stream, so that depth does not widen it.
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.layers) if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(
        self, ids: Int[Tensor, "B T"], targets: Int[Tensor, "B T"] | Float[Tensor, "B T V"] | None = None
    ) -> Float[Tensor, "B T V"] | Float[Tensor, ""]:
        """Logits of ids, or with `targets`, ids or distributions, the mean cross-entropy in nats.

        T may not exceed the context. Logits and loss are float32.
        """
        length = ids.shape[1]
        x, rotation = self.embedding(ids), None
        if self.config.family == "modern":
            rotation = (self.cos[:length], self.sin[:length])
        else:
            x = x + self.positions.weight[:length]
        x = self.dropout(x.to(self.compute_dtype))
        bias = _causal_bias(length, ids.device)
        for block in self.blocks:
            x = block(x, bias, rotation)
        head = self.embedding.weight if self.config.tied else self.head.weight
        if not self.training:
            head = head[: self.config.vocab_size]
        logits = F.linear(self.norm(x), head.to(x.dtype)).float()
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1))


def _causal_bias(length: int, device: torch.device) -> Float[Tensor, "T T"]:
    """0 where a query (row) may look, -1e9 where the key lies in its future."""
    return torch.full((length, length), -1e9, device=device).triu(1)
