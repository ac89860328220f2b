"""Our GPT as a `Body`, and the decoder that samples from it."""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.fast.body import Body, BodyLayer, Linear, Norm
from pretrain.fast.decoder import KVDecoder
from pretrain.fast.functions import GeluTanh
from pretrain.model import GPT


def decoder(model: GPT) -> KVDecoder:
    """What `pretrain.sampling.generate` draws from: the model without dropout, in its `compute_dtype`."""
    head = model.embedding if model.config.tied else model.head
    return KVDecoder(
        body(model), Linear(head, slice(model.config.vocab_size)), model.context_length, model.compute_dtype
    )


def body(model: GPT) -> Body:
    """The model without its head, and without dropout."""
    config = model.config
    modern = config.family == "modern"
    return Body(
        layers=[_layer(model, block) for block in model.blocks],
        norm=_norm(model.norm, modern),
        embedding=model.embedding,
        positions=None if modern else model.positions,
        rotation=partial(_rotation, model) if modern else None,
        heads=config.heads,
        key_heads=config.heads,
        head_width=config.width // config.heads,
    )


def _layer(model: GPT, block: Any) -> BodyLayer:
    attention, feed_forward, modern = block.attention, block.feed_forward, model.config.family == "modern"
    activations: dict[str, Any] = {"relu": F.relu, "gelu": F.gelu, "gelu_tanh": GeluTanh.apply}
    return BodyLayer(
        attention_norm=_norm(block.attention_norm, modern),
        query=Linear(attention.query),
        keys_values=(Linear(attention.key), Linear(attention.value)),
        head_norms=(_norm(attention.query_norm, True), _norm(attention.key_norm, True)) if modern else None,
        softmax_scale=1 / math.sqrt(model.config.width // model.config.heads),
        out=Linear(attention.out),
        feed_forward_norm=_norm(block.feed_forward_norm, modern),
        up=(Linear(feed_forward.gate), Linear(feed_forward.up)) if modern else (Linear(feed_forward.up),),
        activation=F.silu if modern else activations[model.config.activation],
        down=Linear(feed_forward.down),
    )


def _norm(module: Any, modern: bool) -> Norm:
    return Norm(module, module.eps, centred=not modern)


def _rotation(model: GPT, positions: Tensor) -> Tensor:
    cos, sin = model.cos[positions], model.sin[positions]
    return torch.cat([cos, cos, -sin, sin], dim=-1)
