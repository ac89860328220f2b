"""The ladder of Karpathy's lecture "Let's build GPT" (2023): six models, each the one before and one idea more.

bigram        the next character from the current one, read off a table
one-head      the past is averaged by what the present asks for: self-attention
multi-head    several narrow heads side by side
feed-forward  a layer in which each position thinks about what it has gathered
residual      blocks of both, each *added* to the stream that runs past them, so that they can be stacked
layer-norm    every block reads a normalised copy of the stream

From here to `pretrain.model.GPT` it is only size, dropout, and all heads in one product. Weights start as torch
starts them, as in the lecture. They have no cache: `generate_without_cache` draws from them.

Shapes: B sequences, T positions, C width, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.console import UserError

Rung = Literal["bigram", "one-head", "multi-head", "feed-forward", "residual", "layer-norm"]


@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """The shape of a rung. What a rung does not have is 0; UserError where a number would mean nothing."""

    rung: Rung
    vocab_size: int
    context_length: int = 8
    """Positions a prediction can look back on, in tokens. (The bigram is trained on as many, and sees one.)"""
    width: int = 32
    heads: int = 4
    layers: int = 3
    feed_forward: int = 128
    """Width after the (first) linear layer of the feed-forward."""

    def __post_init__(self) -> None:
        fixed = {
            "bigram": {"width": 0, "heads": 0, "layers": 0, "feed_forward": 0},
            "one-head": {"heads": 1, "layers": 1, "feed_forward": 0},
            "multi-head": {"layers": 1, "feed_forward": 0},
            "feed-forward": {"layers": 1},
        }.get(self.rung, {})
        for name in ("vocab_size", "context_length", "width", "heads", "layers", "feed_forward"):
            value = getattr(self, name)
            if value != fixed.get(name, value):
                raise UserError(f"{name} is fixed at {fixed[name]} for rung {self.rung}, but is {value}: leave it out")
            if name not in fixed and value < 1:
                raise UserError(f"{name} must be at least 1 in the rung {self.rung}, not {value}")
        if self.heads and self.width % self.heads:
            raise UserError(f"width {self.width} is not divisible by {self.heads} heads: change one of them")


class LadderModel(nn.Module):
    """What the rungs share: ids go in, logits or the loss come out."""

    compute_dtype = torch.float32

    def __init__(self, config: LadderConfig) -> None:
        super().__init__()
        self.config = config
        self.context_length = config.context_length

    def logits(self, ids: Tensor) -> Tensor:
        """Scores (B, T, V) of every possible next character, from ids (B, T) with T ≤ the context."""
        raise NotImplementedError

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of ids (B, T), or with `targets` (B, T) the mean cross-entropy in nats."""
        logits = self.logits(ids)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


class BigramModel(LadderModel):
    """Row i of the table holds the scores of what follows character i. Nothing else is looked at."""

    def __init__(self, config: LadderConfig) -> None:
        super().__init__(config)
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)

    def logits(self, ids: Tensor) -> Tensor:
        return self.table(ids)


class Head(nn.Module):
    """One head of causal self-attention, (B, T, C) to (B, T, size): Vaswani et al., arXiv 1706.03762.

    Every position sends out a query (what it looks for), a key (what it is) and a value (what it tells), and
    takes the average of the values up to its own, weighted by how well their keys meet its query.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, size, bias=False)
        self.key = nn.Linear(width, size, bias=False)
        self.value = nn.Linear(width, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.weights(x) @ self.value(x)

    def weights(self, x: Tensor) -> Tensor:
        """(B, T, T): how much position t (row) takes from position s (column); a row sums to 1, the future is 0."""
        query, key = self.query(x), self.key(x)
        # Without the root the scores' variance grows with the size, and the softmax takes one position only.
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        return scores.masked_fill(future, -torch.inf).softmax(-1)


class OneHeadModel(LadderModel):
    """New: characters and places are vectors, and a head lets the present ask the past."""

    def __init__(self, config: LadderConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context_length, config.width)
        self.attention = Head(config.width, config.width)
        self.head = nn.Linear(config.width, config.vocab_size)

    def logits(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        x = self.attention(x)
        return self.head(x)


class Heads(nn.Module):
    """Several heads side by side, (B, T, C) to (B, T, C): each has its own questions and a share of the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(width, width // heads) for _ in range(heads))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([head(x) for head in self.heads], dim=-1)


class MultiHeadModel(LadderModel):
    """New: heads, where there was one head."""

    def __init__(self, config: LadderConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context_length, config.width)
        self.attention = Heads(config.width, config.heads)
        self.head = nn.Linear(config.width, config.vocab_size)

    def logits(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        x = self.attention(x)
        return self.head(x)


class FeedForwardModel(LadderModel):
    """New: a feed-forward layer, at each position by itself."""

    def __init__(self, config: LadderConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context_length, config.width)
        self.attention = Heads(config.width, config.heads)
        self.feed_forward = nn.Sequential(nn.Linear(config.width, config.feed_forward), nn.ReLU())
        self.head = nn.Linear(config.feed_forward, config.vocab_size)

    def logits(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        x = self.attention(x)
        x = self.feed_forward(x)
        return self.head(x)


class ResidualBlock(nn.Module):
    """Attention, then feed-forward: what each finds is projected and added to x (He et al., arXiv 1512.03385)."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(Heads(width, heads), nn.Linear(width, width))
        self.feed_forward = nn.Sequential(nn.Linear(width, feed_forward), nn.ReLU(), nn.Linear(feed_forward, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class ResidualModel(LadderModel):
    """New: attention and feed-forward are a block, next to which the stream continues; several blocks."""

    def __init__(self, config: LadderConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context_length, config.width)
        blocks = [ResidualBlock(config.width, config.heads, config.feed_forward) for _ in range(config.layers)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(config.width, config.vocab_size)

    def logits(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        x = self.blocks(x)
        return self.head(x)


class NormBlock(nn.Module):
    """The block before, reading normalised copies of x: mean 0, variance 1 over the width, at every position.

    Ba et al., arXiv 1607.06450; before the layer, not behind it as in 2017: Xiong et al., arXiv 2002.04745.
    """

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = nn.Sequential(Heads(width, heads), nn.Linear(width, width))
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, feed_forward), nn.ReLU(), nn.Linear(feed_forward, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class LayerNormModel(LadderModel):
    """New: norms, in the blocks and before the head."""

    def __init__(self, config: LadderConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context_length, config.width)
        blocks = [NormBlock(config.width, config.heads, config.feed_forward) for _ in range(config.layers)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size)

    def logits(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        x = self.blocks(x)
        return self.head(self.norm(x))


RUNGS: dict[Rung, type[LadderModel]] = dict(
    zip(
        get_args(Rung),
        (BigramModel, OneHeadModel, MultiHeadModel, FeedForwardModel, ResidualModel, LayerNormModel),
        strict=True,
    )
)
