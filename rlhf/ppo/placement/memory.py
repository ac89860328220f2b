"""How much memory PPO takes on each device, by arithmetic. A test compares it with measured peaks.

It is about models of the Llama kind (Llama, Qwen2, Qwen3, Mistral) that transformers computes.
"""

from dataclasses import dataclass
from typing import Any, Literal

GIB = 2**30
FLOAT, BFLOAT = 4, 2
"""Bytes per number."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model of the Llama kind."""

    vocabulary: int
    width: int
    layers: int
    feed_forward: int
    queries: int
    """Width of the queries of all heads."""
    keys: int
    """Width of the keys of all heads; values have the same."""
    tied: bool
    """Whether the embedding is the output layer too."""

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """The shape in a configuration of transformers."""
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            config.vocab_size,
            config.hidden_size,
            config.num_hidden_layers,
            config.intermediate_size,
            head * config.num_attention_heads,
            head * config.num_key_value_heads,
            config.tie_word_embeddings,
        )

    @property
    def linear(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the linear maps in each layer."""
        width, feed_forward = self.width, self.feed_forward
        attention = [(width, self.queries), (width, self.keys), (width, self.keys), (self.queries, width)]
        return [*attention, (width, feed_forward), (width, feed_forward), (feed_forward, width)]

    @property
    def layer(self) -> int:
        """Weights of each layer."""
        return sum(inputs * outputs for inputs, outputs in self.linear) + 2 * self.width

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and as many of the output layer where that has its own."""
        return self.vocabulary * self.width

    @property
    def body(self) -> int:
        """Weights of a model without a head: a value or a reward model, but for one row."""
        return self.embedding + self.layers * self.layer + self.width

    @property
    def parameters(self) -> int:
        """Weights of a language model."""
        return self.body + (0 if self.tied else self.embedding)


@dataclass(frozen=True)
class Setup:
    """What decides about memory, apart from the shape: settings of `PPOConfig`, and how the run is launched."""

    rows: int
    """Episodes per forward pass of one process: `micro_batch_size`."""
    prompt_length: int
    response_length: int
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    weights_dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    adapter_rank: int = 0
    """Rank of LoRA on all linear maps of the layers; 0: all weights learn."""
    autocast: bool = False
    """`bf16`: products in bfloat16 whatever the weights are."""
    eager_heads: int = 0
    """Heads whose matrix of attention is kept, as on a CPU; 0 where attention is fused."""
    shard: Literal["trained", "all"] | None = None
    devices: int = 1
    """Devices among which `shard` divides."""
    gather_for_generation: bool = True
    episodes: int = 0
    """Episodes that each process samples at once: `batch_size` over all devices. 0: as many as `rows`."""


def peak(shape: Shape, setup: Setup) -> dict[str, int]:
    """Bytes on one device at the peak of training, by what they are for.

    That is in an update whose minibatches have more than one micro-batch: the gradients of the first are there when the
    second is computed. Only where the policy is divided, and gathered for the rollout, that may take more.
    """
    update, rollout = _update(shape, setup), _rollout(shape, setup)
    return update if setup.shard is None or sum(update.values()) > sum(rollout.values()) else rollout


def _held(shape: Shape, setup: Setup) -> tuple[dict[str, int], int]:
    """What is there while learning, and the bytes per number of the weights that compute."""
    frozen = BFLOAT if setup.frozen_dtype == "bfloat16" else FLOAT
    trained = BFLOAT if setup.weights_dtype == "bfloat16" else FLOAT
    weights = shape.parameters + shape.body
    learned = weights
    if setup.adapter_rank:
        per_layer = setup.adapter_rank * sum(inputs + outputs for inputs, outputs in shape.linear)
        learned, trained = 2 * shape.layers * per_layer, FLOAT
    below = frozen if setup.adapter_rank else trained
    if setup.shard is not None:  # the parts are the float32 weights; they are rounded when they are gathered
        trained = FLOAT
    masters = learned * FLOAT if trained == BFLOAT else 0
    parts = setup.devices if setup.shard is not None else 1
    held = {
        "weights that learn": learned * trained // parts,
        "gradients": learned * trained // parts,
        "optimizer": (learned * 2 * FLOAT + masters) // parts,
        "frozen weights": weights * frozen // (parts if setup.shard == "all" else 1),
    }
    return held, below


def _update(shape: Shape, setup: Setup) -> dict[str, int]:
    held, below = _held(shape, setup)
    weights = shape.parameters + shape.body
    # autocast keeps a copy of what learns from its first use to the end of both forward passes, if its weights are
    # whole; the backward pass keeps the copies that it needs, but for layers that are computed again.
    kept = not setup.gradient_checkpointing or not (setup.adapter_rank or setup.shard)
    copies = weights * BFLOAT if setup.autocast and below == FLOAT and kept else 0
    gathered, whole = _gathered(shape, setup, below)
    return held | {
        "gathered": gathered,
        "autocast": copies,
        "activations": _activations(shape, setup, below, whole),
        "logits": setup.rows * setup.response_length * shape.vocabulary * 3 * FLOAT,
    }


def _gathered(shape: Shape, setup: Setup, below: int) -> tuple[int, int]:
    """What a backward pass has of divided weights and their gradients before these are divided; and the gradients of a
    layer, which are part of it and come as the layer's activations go.

    The embeddings of both models, and the output layer, are there for all of it, and the policy's gradients of them,
    which its logits begin with; of the layers one that computes, the next, and the buffer through which they come.
    """
    if setup.shard is None or (setup.shard == "trained" and setup.adapter_rank):
        return 0, 0
    outer = shape.parameters + shape.body - 2 * shape.layers * shape.layer
    weights = (outer + 3 * shape.layer) * below
    if setup.adapter_rank:
        return weights, 0
    whole = shape.layer * (below + FLOAT)
    return weights + (shape.parameters - shape.layers * shape.layer) * below + whole, whole


def _rollout(shape: Shape, setup: Setup) -> dict[str, int]:
    held, below = _held(shape, setup)
    del held["gradients"]
    number = BFLOAT if setup.autocast else below
    length, episodes = setup.prompt_length + setup.response_length, setup.episodes or setup.rows
    divided = setup.shard == "all" or (setup.shard == "trained" and not setup.adapter_rank)
    whole = shape.parameters if setup.gather_for_generation else shape.parameters - (shape.layers - 3) * shape.layer
    cached = setup.autocast and setup.gather_for_generation and not setup.adapter_rank and below == FLOAT
    return held | {
        "gathered": whole * below if divided else 0,
        "autocast": shape.parameters * BFLOAT if cached else 0,
        "keys and values": episodes * length * shape.layers * 2 * shape.keys * number,
        "logits": episodes * shape.vocabulary * 3 * FLOAT,
    }


def _activations(shape: Shape, setup: Setup, weights: int, gradients: int) -> int:
    """What the backward passes of policy and value model need of one micro-batch.

    weights: bytes per number of those that compute. gradients: bytes that take the place of a layer's activations.
    """
    length = setup.prompt_length + setup.response_length
    tokens = setup.rows * length
    number = BFLOAT if setup.autocast else weights
    # Two norms each keep what goes in (in float32), the normalised and the product, and each part adds to the stream.
    stream = shape.width * {(FLOAT, FLOAT): 24, (FLOAT, BFLOAT): 20, (BFLOAT, BFLOAT): 16}[weights, number]
    # Queries and keys before and after their rotation, keys and values for every head, and the mix of values.
    attention = 3 * shape.queries + 3 * shape.keys + (2 * shape.queries if shape.keys < shape.queries else 0)
    layer = tokens * (stream + (attention + 4 * shape.feed_forward) * number)
    if setup.eager_heads:
        layer += tokens * length * setup.eager_heads * FLOAT
    given_up = min(layer, gradients)
    if setup.gradient_checkpointing:
        return 2 * shape.layers * tokens * shape.width * weights + layer - given_up
    return 2 * shape.layers * layer - given_up
