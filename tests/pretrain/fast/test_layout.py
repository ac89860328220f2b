"""Texts that begin alike, with their beginning once, are what they are one by one."""

import pytest
import torch
from torch import Tensor

from pretrain.fast import layout
from pretrain.fast.gpt import body
from pretrain.fast.layout import BranchedLayout, Layout
from pretrain.model import GPT, GPTConfig

TEXTS: list[tuple[list[int], list[list[int]]]] = [
    ([5, 6, 7], [[1, 2], [3, 4, 5, 6, 7, 8], [9]]),
    ([], [[4, 5, 6], [7]]),
    ([8], [[2, 2, 3]]),
    ([9, 10, 11, 12, 3], [[1], [2, 9, 3, 4], [11, 11], [5, 4, 3, 2, 1, 0, 7]]),
]
"""A beginning, and what continues it."""


@pytest.mark.parametrize("family", ["modern", "gpt2"])
@pytest.mark.parametrize("sizes", [(2, 4, 2, 4), (16, 64, 16, 128)])
def test_branches_are_texts_of_their_own(
    family: str, sizes: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in zip(("GROUP", "STRIP", "WIDTH_STEP", "TOKEN_STEP"), sizes, strict=True):
        monkeypatch.setattr(layout, name, size)
    torch.manual_seed(0)
    shape = GPTConfig(family=family, vocab_size=13, context_length=16, width=8, layers=2, heads=2, feed_forward=16)  # type: ignore[arg-type]
    model = GPT(shape).double()

    def states_and_gradients(states: Tensor) -> tuple[Tensor, list[Tensor]]:
        (states * torch.arange(states.numel()).view(states.shape).sin()).sum().backward()
        gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
        model.zero_grad()
        return states.detach(), gradients

    rows = [[*begin, *(token for branch in branches for token in branch)] for begin, branches in TEXTS]
    numbers = [
        [0] * len(begin) + [number for number, branch in enumerate(branches, 1) for _ in branch]
        for begin, branches in TEXTS
    ]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    segments = torch.tensor([row + [-1] * (width - len(row)) for row in numbers])
    branched = BranchedLayout(segments)
    places = branched.source[branched.chosen[: branched.count]]
    given = places if branched.restore is None else places[branched.restore]
    assert torch.equal(given, (segments > 0).flatten().nonzero().flatten())
    together = states_and_gradients(body(model)(ids, branched, torch.float64))

    def alone(begin: list[int], branch: list[int]) -> Tensor:
        text = torch.tensor([[*begin, *branch]])
        return body(model)(text, Layout(text >= 0, torch.arange(text.shape[1])[None] >= len(begin)), torch.float64)

    apart = states_and_gradients(torch.cat([alone(begin, branch) for begin, branches in TEXTS for branch in branches]))
    torch.testing.assert_close(together, apart)
