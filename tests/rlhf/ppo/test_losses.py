"""The pure functions in hand-worked cases. `test_mathematics.py` has their formulas on any case."""

import math

import numpy as np
import pytest
import torch

from rlhf.ppo import losses
from rlhf.ppo.kl import LOG_RATIO_LIMIT

RNG = np.random.default_rng(3)


def ragged_mask(rows: int, width: int) -> np.ndarray:
    lengths = RNG.integers(1, width + 1, rows)
    lengths[0] = width
    return np.arange(width)[None] < lengths[:, None]


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


class TestGAE:
    def test_hand_worked(self) -> None:
        rewards = torch.tensor([[0.0, 0.0, 1.0, 9.0]])
        values = torch.tensor([[0.5, 0.25, 0.75, 9.0]])
        mask = torch.tensor([[True, True, True, False]])
        advantages, returns = losses.gae(rewards, values, mask, gamma=1.0, lam=0.5)
        # deltas: .25 - .5 = -.25; .75 - .25 = .5; 1 - .75 = .25 (nothing follows the last token)
        assert advantages.tolist() == [[-0.25 + 0.5 * 0.5 + 0.25 * 0.25, 0.5 + 0.5 * 0.25, 0.25, 0.0]]
        assert returns.tolist() == [[0.0625 + 0.5, 0.625 + 0.25, 1.0, 0.0]]

    def test_what_follows_the_stop_is_never_read(self) -> None:
        rewards, values, mask = RNG.normal(size=(4, 8)), RNG.normal(size=(4, 8)), ragged_mask(4, 8)
        clean = losses.gae(tensor(rewards), tensor(values), tensor(mask), 1.0, 0.95)
        rewards[~mask], values[~mask] = np.nan, np.inf
        for before, after in zip(
            clean, losses.gae(tensor(rewards), tensor(values), tensor(mask), 1.0, 0.95), strict=True
        ):
            assert torch.equal(before, after)

    def test_with_lambda_one_returns_are_the_rewards_to_come(self) -> None:
        rewards, values, mask = RNG.normal(size=(4, 8)), RNG.normal(size=(4, 8)), ragged_mask(4, 8)
        _, returns = losses.gae(tensor(rewards), tensor(values), tensor(mask), 1.0, 1.0)
        to_come = np.cumsum((rewards * mask)[:, ::-1], axis=1)[:, ::-1] * mask
        np.testing.assert_allclose(returns.numpy(), to_come, atol=1e-12)


class TestTokenRewards:
    def test_the_score_arrives_once_on_the_last_token(self) -> None:
        mask = torch.tensor([[True, True, True, False], [True, False, False, False], [True] * 4])
        kl = torch.tensor([[0.5, -1.0, 2.0, 7.0], [1.0, 7.0, 7.0, 7.0], [0.0] * 4])
        rewards = losses.token_rewards(torch.tensor([10.0, 20.0, 30.0]), kl, mask, kl_coef=0.1)
        expected = [[-0.05, 0.1, -0.2 + 10, 0.0], [-0.1 + 20, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 30.0]]
        assert torch.allclose(rewards, torch.tensor(expected))


class TestWhiten:
    def test_the_mean_stays_when_it_is_not_to_shift(self) -> None:
        values, mask = tensor(RNG.normal(-4.0, 5.0, size=(6, 10))), tensor(ragged_mask(6, 10))
        white = losses.whiten(values, mask, shift_mean=False)
        assert white[mask].mean().item() == pytest.approx(values[mask].mean().item())
        assert white[mask].std(correction=0).item() == pytest.approx(1.0, abs=1e-6)

    def test_nan_outside_the_mask_does_no_harm(self) -> None:
        values, mask = torch.tensor([[1.0, 3.0, math.nan]]), torch.tensor([[True, True, False]])
        assert losses.whiten(values, mask)[0].tolist() == pytest.approx([-1.0, 1.0, 0.0])


class TestPolicyLoss:
    def test_hand_worked_clipping(self) -> None:
        """Four corners: ratio above and below the range, advantage positive and negative."""
        ratio = torch.tensor([[1.5, 0.5, 1.5, 0.5]])
        advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
        mask = torch.ones(1, 4, dtype=torch.bool)
        loss, stats = losses.policy_loss(ratio.log(), torch.zeros(1, 4), advantages, mask, 0.2, 4.0)
        # clipped where going further would pay: -1.2 and +0.8; not where it must still be pulled back
        assert loss.item() == pytest.approx((-1.2 - 0.5 + 1.5 + 0.8) / 4)
        assert stats["clipfrac"].item() == 2
        assert stats["ratio_error"].item() == pytest.approx(0.5)
        assert stats["approxkl"].item() == pytest.approx(math.log(1.5) ** 2 + math.log(0.5) ** 2)
        assert stats["ratio_shift"].item() == pytest.approx(0.0, abs=1e-6)
        assert stats["ratio_shift_squared"].item() == pytest.approx(1.0)

    def test_the_clip_may_be_wider_above(self) -> None:
        ratio, advantages = torch.tensor([[1.5, 0.5, 1.25, 1.5]]), torch.tensor([[1.0, -1.0, 1.0, -1.0]])
        mask = torch.ones(1, 4, dtype=torch.bool)
        loss, stats = losses.policy_loss(ratio.log(), torch.zeros(1, 4), advantages, mask, 0.2, 4.0, 0.3)
        # 1.3 is the bound above and 0.8 the one below; 1.25 is inside, and what must be pulled back is never clipped
        assert loss.item() == pytest.approx((-1.3 + 0.8 - 1.25 + 1.5) / 4)
        assert stats["clipfrac"].item() == 2

    def test_an_absurd_ratio_stays_finite(self) -> None:
        logprobs = torch.zeros(1, 1, requires_grad=True)
        loss, _ = losses.policy_loss(
            logprobs, torch.tensor([[-500.0]]), torch.tensor([[-1.0]]), torch.ones(1, 1, dtype=torch.bool), 0.2, 1.0
        )
        assert loss.item() == pytest.approx(math.exp(LOG_RATIO_LIMIT), rel=1e-5)

    def test_parts_of_a_batch_add_up_to_it(self) -> None:
        new, old, advantages = (tensor(RNG.normal(size=(8, 6))) for _ in range(3))
        mask = tensor(ragged_mask(8, 6))
        count = mask.sum()
        whole, _ = losses.policy_loss(new, old, advantages, mask, 0.2, count)
        parts = sum(
            losses.policy_loss(new[i : i + 3], old[i : i + 3], advantages[i : i + 3], mask[i : i + 3], 0.2, count)[0]
            for i in (0, 3, 6)
        )
        assert float(parts) == pytest.approx(whole.item())


class TestKLLoss:
    def test_hand_worked(self) -> None:
        logprobs, reference = torch.tensor([[-1.0, -2.0, 9.0]]), torch.tensor([[-1.5, -1.0, -9.0]])
        loss = losses.kl_loss(logprobs, reference, torch.tensor([[True, True, False]]), 2.0)
        assert loss.item() == pytest.approx((0.5**2 + 1.0**2) / 2 / 2)

    def test_its_gradient_is_that_of_the_kl_to_the_reference(self) -> None:
        """All tokens, weighed by their probabilities, as many samples would be; k1 and k3 have other gradients."""
        logits, reference = torch.tensor([0.3, -1.0, 0.8], requires_grad=True), torch.tensor([0.1, 0.7, -0.5])
        ours, theirs = logits.log_softmax(0), reference.log_softmax(0)
        (expected,) = torch.autograd.grad((ours.exp() * (ours - theirs)).sum(), logits, retain_graph=True)
        weighed = ours.exp().detach()
        one = torch.tensor([[True]])
        each = [losses.kl_loss(ours[i : i + 1, None], theirs[i : i + 1, None], one, 1.0) for i in range(3)]
        (gradient,) = torch.autograd.grad((weighed * torch.stack(each)).sum(), logits)
        torch.testing.assert_close(gradient, expected)


class TestValueLoss:
    def test_hand_worked_clipping(self) -> None:
        old, values = torch.zeros(1, 3), torch.tensor([[0.5, 0.5, 0.1]])
        returns = torch.tensor([[1.0, 0.4, 1.0]])
        mask = torch.ones(1, 3, dtype=torch.bool)
        loss, stats = losses.value_loss(values, old, returns, mask, 0.2, 3.0)
        # larger of (.5-1)² and (.2-1)²; of (.5-.4)² and (.2-.4)²; inside the range both are (.1-1)²
        assert loss.item() == pytest.approx(0.5 * (0.64 + 0.04 + 0.81) / 3)
        assert stats["clipfrac"].item() == 2


def test_explained_variance() -> None:
    returns = torch.tensor([[1.0, 2.0, 3.0, math.nan]])
    mask = torch.tensor([[True, True, True, False]])
    assert losses.explained_variance(returns + 5, returns, mask).item() == pytest.approx(1.0)
    assert losses.explained_variance(torch.zeros(1, 4), returns, mask).item() == pytest.approx(0.0)
    assert losses.explained_variance(-returns, returns, mask).item() == pytest.approx(1.0 - 4.0)
