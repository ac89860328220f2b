"""Shapes in the annotations of the mathematics are checked while the tests run, and cost users nothing."""

import subprocess
import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from pretrain.model import GPT, GPTConfig, rotate
from rlhf.ppo.kl import k1
from rlhf.ppo.losses import gae, masked_sum, policy_loss
from sft.models.batch import Padded, position_ids

B, R = 2, 3
CELLS, MASK = torch.zeros(B, R), torch.ones(B, R, dtype=torch.bool)
IDS = torch.zeros(B, R, dtype=torch.long)
MODEL = GPT(GPTConfig(vocab_size=5, context_length=4, width=4, layers=1, heads=2, feed_forward=4))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (masked_sum, (CELLS, MASK[:, :-1])),
        (masked_sum, (CELLS, CELLS)),  # a mask of numbers
        (gae, (CELLS, CELLS.T, MASK, 1.0, 0.95)),
        (gae, (CELLS.long(), CELLS, MASK, 1.0, 0.95)),
        (policy_loss, (CELLS, CELLS[0], CELLS, MASK, 0.2, 6)),  # what broadcasting would let pass
        (k1, (CELLS, CELLS[:, :1])),
        (MODEL, (IDS[0],)),
        (MODEL, (IDS, IDS[:, :-1])),
        (rotate, (torch.zeros(B, 2, R, 4), CELLS[0], CELLS[0])),
        (position_ids, (IDS[0],)),
        (Padded, (IDS, MASK, MASK[:, :-1], MASK)),
    ],
)
def test_a_wrong_shape_is_caught(function: object, arguments: tuple[object, ...]) -> None:
    assert callable(function)
    with pytest.raises(TypeCheckError):
        function(*arguments)


def test_right_shapes_pass() -> None:
    assert masked_sum(CELLS, MASK) == 0
    assert MODEL(IDS, IDS).shape == ()
    assert Padded(IDS, MASK, MASK, MASK).ids.shape == (B, R)
    assert policy_loss(CELLS, CELLS, CELLS, MASK, 0.2, 6)[0] == 0


def test_users_get_the_plain_functions() -> None:
    """Without the hook of the tests: no checker is imported, and a wrong shape is the caller's own affair."""
    code = (
        "import sys, torch; from rlhf.ppo.kl import k1; assert k1(torch.zeros(2, 3), torch.zeros(1)).shape == (2, 3);"
        "assert not hasattr(k1, '__wrapped__'); assert 'beartype' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
