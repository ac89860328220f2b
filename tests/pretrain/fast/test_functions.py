"""Values against torch's own operations, gradients against finite differences, both in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from pretrain.fast import layout
from pretrain.fast.functions import FusedRMSNorm, GeluTanh, PackedAttention, Rotation, TokenLogprobs
from pretrain.fast.layout import Layout

pytestmark = pytest.mark.usefixtures("one_thread")

F64 = torch.float64


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def variable(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, requires_grad=True)


def test_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.fast.functions.GELU_CHUNK", 7)
    x = torch.linspace(-9, 9, 60, dtype=F64).view(4, 15).requires_grad_()
    torch.testing.assert_close(GeluTanh.apply(x), F.gelu(x, approximate="tanh"))
    assert gradcheck(GeluTanh.apply, (x,))
    half = x.detach().to(torch.bfloat16)
    assert GeluTanh.apply(half).dtype == torch.bfloat16
    torch.testing.assert_close(GeluTanh.apply(half), F.gelu(half, approximate="tanh"))


def test_rms_norm() -> None:
    x, gain = variable(3, 2, 5), variable(5)
    torch.testing.assert_close(FusedRMSNorm.apply(x, gain, 0.1, F64), F.rms_norm(x, (5,), gain, 0.1))
    assert gradcheck(lambda x, gain: FusedRMSNorm.apply(x, gain, 0.1, F64), (x, gain))


def test_rotation() -> None:
    x, angles = variable(3, 2, 6), torch.randn(3, 1, 3, dtype=F64)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)
    as_complex = torch.complex(x[..., :3], x[..., 3:]) * torch.polar(torch.ones_like(angles), angles)
    rotated = Rotation.apply(x, cos, sin, F64)
    torch.testing.assert_close(rotated, torch.cat([as_complex.real, as_complex.imag], -1))
    assert gradcheck(lambda x: Rotation.apply(x, cos, sin, F64), (x,))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_entropies(temperature: float) -> None:
    logits, targets = variable(6, 9), torch.tensor([0, 8, 3, 3, 1, 7])
    logprobs, entropies = TokenLogprobs.apply(logits, targets, temperature)
    expected = torch.distributions.Categorical(logits=logits / temperature)
    torch.testing.assert_close(logprobs, expected.log_prob(targets))
    torch.testing.assert_close(entropies, expected.entropy())
    for part in (slice(0, 1), slice(1, 2), slice(0, 2)):
        assert gradcheck(lambda logits, part=part: TokenLogprobs.apply(logits, targets, temperature)[part], (logits,))
    wild = torch.tensor([[200.0, -200.0, 0.0]])
    assert TokenLogprobs.apply(wild, torch.tensor([1]), 1.0)[0].item() == -400.0
    wild.requires_grad_()
    TokenLogprobs.apply(wild, torch.tensor([1]), 1.0)[1].sum().backward()
    assert wild.grad is not None
    assert wild.grad.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize(("heads", "key_heads"), [(2, 2), (4, 2)])
@pytest.mark.parametrize("lengths", [[4, 4], [3, 7, 1, 20, 5]])
def test_attention(heads: int, key_heads: int, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in (("GROUP", 2), ("STRIP", 4), ("WIDTH_STEP", 2), ("TOKEN_STEP", 4)):
        monkeypatch.setattr(layout, name, small)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    wanted = mask & (torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None] // 2)
    wanted[0] = False  # a row of which nothing is wanted
    lay = Layout(mask, wanted)
    tokens = int(mask.sum())
    q, k, v = variable(len(lay.positions), heads * 3), *(variable(len(lay.positions), key_heads * 3) for _ in "kv")

    def row_by_row(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, first = [], 0
        for length in sorted(lengths):
            rows = slice(first, first + length)
            first += length
            asks, keys, values = (
                x[rows].view(length, count, 3).transpose(0, 1)
                for x, count in ((q, heads), (k, key_heads), (v, key_heads))
            )
            mixed = F.scaled_dot_product_attention(asks, keys, values, is_causal=True, scale=0.4, enable_gqa=True)
            out.append(mixed.transpose(0, 1).flatten(1))
        return torch.cat(out)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return PackedAttention.apply(q, k, v, lay.all, heads, key_heads, 0.4)[:tokens]

    def ours_at_the_wanted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return PackedAttention.apply(q[lay.chosen], k, v, lay.last, heads, key_heads, 0.4)[: lay.count]

    torch.testing.assert_close(ours(q, k, v), row_by_row(q, k, v))
    torch.testing.assert_close(ours_at_the_wanted(q, k, v), row_by_row(q, k, v)[lay.chosen[: lay.count]])
    assert gradcheck(ours, (q, k, v), fast_mode=True)
    assert gradcheck(ours_at_the_wanted, (q, k, v), fast_mode=True)
