"""Each rung of the ladder is what it says: by hand, by counting, and by what may not matter to it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from data.console import UserError
from pretrain.checkpoint import new_model
from pretrain.ladder.models import (
    RUNGS,
    Head,
    Heads,
    LadderConfig,
    LadderModel,
    NormBlock,
    ResidualBlock,
)
from pretrain.presets import PRESETS

V, T, C = 11, 8, 12
SHAPES: dict[str, dict[str, int]] = {
    "bigram": {"width": 0, "heads": 0, "layers": 0, "feed_forward": 0},
    "one-head": {"width": C, "heads": 1, "layers": 1, "feed_forward": 0},
    "multi-head": {"width": C, "heads": 3, "layers": 1, "feed_forward": 0},
    "feed-forward": {"width": C, "heads": 3, "layers": 1, "feed_forward": 20},
    "residual": {"width": C, "heads": 3, "layers": 2, "feed_forward": 20},
    "layer-norm": {"width": C, "heads": 3, "layers": 2, "feed_forward": 20},
}
EVERY_RUNG = pytest.mark.parametrize("rung", list(RUNGS))


def build(rung: Any, **changes: int) -> LadderModel:
    torch.manual_seed(0)
    config = LadderConfig(rung=rung, vocab_size=V, context_length=T, **{**SHAPES[rung], **changes})
    return RUNGS[config.rung](config)


def some_ids(rows: int = 3, length: int = T) -> Tensor:
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(1))


@EVERY_RUNG
def test_the_future_never_changes_a_prediction(rung: str) -> None:
    model, ids = build(rung), some_ids()
    logits = model(ids)
    for position in range(T):
        changed = ids.clone()
        changed[:, position] = (changed[:, position] + 1) % V
        after = model(changed)
        assert torch.allclose(after[:, :position], logits[:, :position], atol=1e-6)
        assert not torch.allclose(after[:, position], logits[:, position], atol=1e-3)


@EVERY_RUNG
def test_a_short_text_is_read_as_the_beginning_of_a_long_one(rung: str) -> None:
    model, ids = build(rung), some_ids()
    for length in range(1, T + 1):
        assert torch.allclose(model(ids[:, :length]), model(ids)[:, :length], atol=1e-6)


@EVERY_RUNG
def test_only_the_bigram_sees_one_character(rung: str) -> None:
    model, ids = build(rung), some_ids()
    changed = ids.clone()
    changed[:, :-1] = (changed[:, :-1] + 1) % V
    same = torch.allclose(model(changed)[:, -1], model(ids)[:, -1], atol=1e-6)
    assert same == (rung == "bigram")


def test_the_bigram_is_its_table() -> None:
    model: Any = build("bigram")
    with torch.no_grad():
        model.table.weight.copy_(torch.arange(V * V).view(V, V))
    assert model(torch.tensor([[2, 0]])).tolist() == [[list(range(2 * V, 3 * V)), list(range(V))]]


@EVERY_RUNG
def test_the_loss_is_the_mean_surprise(rung: str) -> None:
    model, ids, targets = build(rung), some_ids(), some_ids().flip(1)
    probabilities = model(ids).softmax(-1)
    surprises = [
        -math.log(probabilities[row, position, targets[row, position]].item())
        for row in range(3)
        for position in range(T)
    ]
    assert model(ids, targets).item() == pytest.approx(sum(surprises) / len(surprises), rel=1e-5)


@torch.no_grad()
def test_a_head_is_the_average_written_out() -> None:
    torch.manual_seed(0)
    head, x = Head(C, 5), torch.randn(1, 4, C)
    found = head(x)
    for t in range(4):
        query = head.query.weight @ x[0, t]
        shares = [math.exp(float(query @ (head.key.weight @ x[0, s])) / math.sqrt(5)) for s in range(t + 1)]
        mixed = [share / sum(shares) * (head.value.weight @ x[0, s]) for s, share in enumerate(shares)]
        assert torch.allclose(found[0, t], torch.stack(mixed).sum(0), atol=1e-6)
    assert torch.allclose(head.weights(x).sum(-1), torch.ones(1, 4))
    assert torch.equal(head.weights(x).triu(1), torch.zeros(1, 4, 4))


def test_a_head_that_asks_nothing_takes_the_plain_average() -> None:
    head, x = Head(C, 5), torch.randn(2, T, C)
    torch.nn.init.zeros_(head.query.weight)
    counts = torch.arange(1, T + 1)[:, None]
    assert torch.allclose(head(x), head.value(x).cumsum(1) / counts, atol=1e-6)


def test_heads_stand_side_by_side() -> None:
    heads, x = Heads(C, 3), torch.randn(2, T, C)
    found = heads(x)
    assert found.shape == (2, T, C)
    for number, head in enumerate(heads.heads):
        assert torch.allclose(found[..., 4 * number : 4 * number + 4], head(x), atol=1e-6)


def test_feed_forward_is_for_each_position_by_itself() -> None:
    model: Any = build("feed-forward")
    layer, x = model.feed_forward, torch.randn(2, T, C)
    order = torch.randperm(T)
    assert torch.allclose(layer(x[:, order]), layer(x)[:, order], atol=1e-6)
    linear = layer[0]
    assert torch.allclose(layer(x)[1, 2], (linear.weight @ x[1, 2] + linear.bias).clamp(min=0), atol=1e-6)


@pytest.mark.parametrize("block_type", [ResidualBlock, NormBlock])
def test_a_block_whose_projections_are_zero_is_the_identity(block_type: Any) -> None:
    block, x = block_type(C, 3, 20), torch.randn(2, T, C)
    assert not torch.allclose(block(x), x, atol=1e-2)
    for layer in (block.attention[1], block.feed_forward[2]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    assert torch.equal(block(x), x)


def test_norms_make_a_block_deaf_to_scale_and_shift() -> None:
    """What a block adds does not depend on how large the stream has grown; without norms it does."""
    x = torch.randn(2, T, C)
    norm, plain = NormBlock(C, 3, 20), ResidualBlock(C, 3, 20)

    def added(block: Any, x: Tensor) -> Tensor:
        return block.attention(block.attention_norm(x)) if isinstance(block, NormBlock) else block.attention(x)

    assert torch.allclose(added(norm, 5 * x + 3), added(norm, x), atol=1e-4)
    assert not torch.allclose(added(plain, 5 * x + 3), added(plain, x), atol=1e-2)
    model: Any = build("layer-norm")
    seen: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(some_ids())
    assert torch.allclose(seen[0].mean(-1), torch.zeros(3, T), atol=1e-5)
    assert torch.allclose(seen[0].var(-1, unbiased=False), torch.ones(3, T), atol=1e-3)


def test_parameters_counted_by_hand() -> None:
    """The lecture's shapes with its 65 characters and our two special tokens: V 67, width 32, context 8."""
    ends = 67 * 32 + 8 * 32 + (32 * 67 + 67)
    heads = 3 * 32 * 32
    block = heads + (32 * 32 + 32) + (32 * 128 + 128) + (128 * 32 + 32)
    by_hand = {
        "bigram": 67 * 67,
        "one-head": ends + heads,
        "multi-head": ends + heads,
        "feed-forward": ends + heads + 32 * 32 + 32,
        "residual": ends + 3 * block,
        "layer-norm": ends + 3 * (block + 2 * 64) + 64,
    }
    assert by_hand == {"bigram": 4489, "one-head": 7683, "multi-head": 7683, "feed-forward": 8739} | {
        "residual": 42_051,
        "layer-norm": 42_499,
    }
    for rung, parameters in by_hand.items():
        assert new_model(PRESETS[rung][1].model_config(67)).parameter_count() == parameters, rung


@pytest.mark.parametrize(
    ("rung", "changes", "words"),
    [
        ("bigram", {"width": 32}, "width is fixed at 0 for rung bigram, but is 32"),
        ("one-head", {"heads": 2}, "heads is fixed at 1 for rung one-head, but is 2"),
        ("multi-head", {"layers": 2}, "layers is fixed at 1 for rung multi-head, but is 2"),
        ("multi-head", {"feed_forward": 48}, "feed_forward is fixed at 0 for rung multi-head, but is 48"),
        ("feed-forward", {"feed_forward": 0}, "feed_forward must be at least 1"),
        ("residual", {"layers": 0}, "layers must be at least 1"),
        ("layer-norm", {"heads": 5}, "not divisible by 5 heads"),
        ("bigram", {"context_length": 0}, "context_length must be at least 1"),
    ],
)
def test_a_shape_that_a_rung_does_not_have_is_refused(rung: Any, changes: dict[str, int], words: str) -> None:
    sizes = {"context_length": T, **SHAPES[rung], **changes}
    with pytest.raises(UserError, match=words):
        LadderConfig(rung=rung, vocab_size=V, **sizes)
