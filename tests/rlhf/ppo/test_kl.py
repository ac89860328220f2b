"""KL estimators against exact divergences, and the controllers against hand-worked cases."""

import pytest
import torch

from rlhf.ppo.kl import LOG_RATIO_LIMIT, KLController, clamp_log_ratio, k1, k2, k3


def exact_kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p * (p / q).log()).sum()


def test_k1_and_k3_are_unbiased() -> None:
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    q = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    for estimator in (k1, k3):
        assert (p * estimator(p.log(), q.log())).sum().item() == pytest.approx(exact_kl(p, q).item(), abs=1e-12)


def test_hand_worked_values() -> None:
    policy, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    assert k1(policy, reference).tolist() == pytest.approx([0.5, -1.0])
    assert k2(policy, reference).tolist() == pytest.approx([0.125, 0.5])
    assert k3(policy, reference).tolist() == pytest.approx([0.1065307, 0.7182818])


def test_k3_is_never_negative_and_stays_finite() -> None:
    difference = torch.linspace(-500, 500, 1001)
    estimate = k3(difference, torch.zeros_like(difference))
    assert estimate.isfinite().all()
    assert (estimate >= 0).all()


def test_log_ratio_is_clamped_on_both_sides() -> None:
    clamped = clamp_log_ratio(torch.tensor([-1e9, -3.0, 0.0, 1e9]))
    assert clamped.tolist() == [-LOG_RATIO_LIMIT, -3.0, 0.0, LOG_RATIO_LIMIT]
    assert clamped.exp().isfinite().all()


def test_a_fixed_coefficient_stays() -> None:
    controller = KLController(0.07)
    controller.update(kl=1000.0, episodes=64)
    assert controller.coef == 0.07


@pytest.mark.parametrize(
    ("kl", "error"),
    [(6.0, 0.0), (6.6, 0.1), (5.4, -0.1), (60.0, 0.2), (0.0, -0.2), (-3.0, -0.2)],
)
def test_adaptive_coefficient_is_proportional_and_clipped(kl: float, error: float) -> None:
    controller = KLController(coef=0.5, target=6.0, horizon=1000)
    controller.update(kl, episodes=100)
    assert controller.coef == pytest.approx(0.5 * (1 + error * 0.1))


def test_adaptive_coefficient_settles_on_its_target() -> None:
    """On a system whose KL falls as the coefficient rises, the KL comes to the target."""
    controller = KLController(coef=1.0, target=6.0, horizon=1000)
    for _ in range(300):
        controller.update(kl=3.0 / controller.coef, episodes=100)
    assert 3.0 / controller.coef == pytest.approx(6.0, rel=1e-3)
