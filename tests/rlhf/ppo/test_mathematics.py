"""The pure functions against the formulas of the papers, written once more in plain float64 loops over ragged rows.

Nothing here knows tensors or masks: a row is as long as its response. What lies outside a mask is filled with
nonsense before our functions see it. Gradients are checked against finite differences of these loops.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from rlhf import PPOConfig, PPOTrainer
from rlhf.ppo import losses
from rlhf.ppo.kl import LOG_RATIO_LIMIT, KLController, k1, k2, k3

Rows = list[list[float]]
Build = Callable[..., Any]

CLIP = 0.2
KINK = 1e-3
"""A difference quotient across a kink is no derivative: cases closer to one than this are not drawn."""


# ---- the formulas ----


def gae(rewards: Rows, values: Rows, gamma: float, lam: float) -> tuple[Rows, Rows]:
    """GAE as it is introduced (arXiv 1506.02438, eq. 16): the lambda-weighted mean of all n-step advantages."""
    advantages: Rows = []
    returns: Rows = []
    for reward, value in zip(rewards, values, strict=True):
        end = len(reward)
        advantages.append([])
        for t in range(end):
            n_step = []
            for n in range(1, end - t + 1):
                bootstrap = gamma**n * value[t + n] if t + n < end else 0.0
                n_step.append(sum(gamma**i * reward[t + i] for i in range(n)) + bootstrap - value[t])
            # All that is looked further ahead than the end sees the end: its weights add up to lambda^(n - 1).
            weights = [(1 - lam) * lam ** (n - 1) for n in range(1, end - t)] + [lam ** (end - t - 1)]
            advantages[-1].append(sum(w * a for w, a in zip(weights, n_step, strict=True)))
        returns.append([a + v for a, v in zip(advantages[-1], value, strict=True)])
    return advantages, returns


def moments(values: Rows) -> tuple[float, float]:
    """Mean and population variance of all numbers of all rows."""
    flat = [x for row in values for x in row]
    mean = math.fsum(flat) / len(flat)
    return mean, math.fsum((x - mean) ** 2 for x in flat) / len(flat)


def whiten(values: Rows, shift_mean: bool) -> Rows:
    mean, variance = moments(values)
    kept = 0.0 if shift_mean else mean
    return [[(x - mean) / math.sqrt(variance + 1e-8) + kept for x in row] for row in values]


def token_rewards(scores: list[float], logprobs: Rows, reference: Rows, coef: float) -> Rows:
    rewards = [[-coef * (p - q) for p, q in zip(*rows, strict=True)] for rows in zip(logprobs, reference, strict=True)]
    for row, score in zip(rewards, scores, strict=True):
        row[-1] += score
    return rewards


def policy_loss(
    new: Rows, old: Rows, advantages: Rows, denominator: float, clip: float = CLIP, high: float | None = None
) -> tuple[float, dict[str, float]]:
    """Minus PPO's clipped objective (arXiv 1707.06347, eq. 7)."""
    above = 1 + (clip if high is None else high)
    objective, sums = 0.0, dict.fromkeys(["approxkl", "clipfrac", "ratio_shift", "ratio_shift_squared"], 0.0)
    errors = []
    for rows in zip(new, old, advantages, strict=True):
        for p, q, advantage in zip(*rows, strict=True):
            ratio = math.exp(min(max(p - q, -LOG_RATIO_LIMIT), LOG_RATIO_LIMIT))
            inside = min(max(ratio, 1 - clip), above)
            objective += min(ratio * advantage, inside * advantage)
            sums["approxkl"] += (p - q) ** 2 / 2
            sums["clipfrac"] += ratio > above if advantage > 0 else ratio < 1 - clip if advantage < 0 else 0
            sums["ratio_shift"] += ratio - 1
            sums["ratio_shift_squared"] += (ratio - 1) ** 2
            errors.append(abs(ratio - 1))
    return -objective / denominator, sums | {"ratio_error": max(errors)}


def value_loss(new: Rows, old: Rows, returns: Rows, denominator: float, clip: float = CLIP) -> tuple[float, int]:
    """The larger of both squared errors (N+ details, arXiv 2403.17031), halved, and how often the clipped one is."""
    total, clipped = 0.0, 0
    for rows in zip(new, old, returns, strict=True):
        for value, before, target in zip(*rows, strict=True):
            near = min(max(value, before - clip), before + clip)  # the value to the bit, where nothing is clipped
            total += max((value - target) ** 2, (near - target) ** 2) / 2
            clipped += (near - target) ** 2 > (value - target) ** 2
    return total / denominator, clipped


def explained_variance(values: Rows, returns: Rows) -> float:
    errors = [[g - v for g, v in zip(*rows, strict=True)] for rows in zip(returns, values, strict=True)]
    return 1 - moments(errors)[1] / moments(returns)[1]


# ---- ragged cases ----


def ragged(*columns: st.SearchStrategy[float]) -> st.SearchStrategy[list[Rows]]:
    """One list of rows for every column, all of the same ragged shape."""
    rows = st.lists(st.lists(st.tuples(*columns), min_size=1, max_size=6), min_size=1, max_size=4)
    return rows.map(lambda drawn: [[[cell[i] for cell in row] for row in drawn] for i in range(len(columns))])


number = st.floats(-5, 5, allow_subnormal=False)
logprob = st.floats(-8, 0, allow_subnormal=False)
unlikely = st.floats(-30, 0, allow_subnormal=False)
"""Log-probabilities whose difference can be more than the log-ratio's limit."""


def padded(rows: Rows, filler: float, places: Sequence[Sequence[int]] | None = None) -> Tensor:
    """(B, R), float64: the rows' numbers at `places` (by default the first columns), `filler` elsewhere."""
    places = places or [range(len(row)) for row in rows]
    out = torch.full((len(rows), 1 + max(column[-1] for column in places)), filler, dtype=torch.float64)
    for place, columns, row in zip(range(len(rows)), places, rows, strict=True):
        out[place, list(columns)] = torch.tensor(row, dtype=torch.float64)
    return out


def mask_of(rows: Rows, places: Sequence[Sequence[int]] | None = None) -> Tensor:
    return padded([[1.0] * len(row) for row in rows], 0.0, places).bool()


def same(ours: Tensor, theirs: Rows, places: Sequence[Sequence[int]] | None = None) -> None:
    """Equal inside the mask; 0 outside, where our functions leave nothing of the nonsense."""
    torch.testing.assert_close(ours, padded(theirs, 0.0, places), atol=1e-9, rtol=1e-9)


@given(ragged(number, number), st.floats(0, 1), st.floats(0, 1), st.data())
def test_gae(case: list[Rows], gamma: float, lam: float, data: st.DataObject) -> None:
    rewards, values = case
    # The response's tokens anywhere in the row, in their order: what lies between them is skipped.
    columns = st.lists(st.integers(0, 9), min_size=6, max_size=6, unique=True)
    places = [sorted(data.draw(columns)[: len(row)]) for row in rewards]
    mask = mask_of(rewards, places)
    got = losses.gae(padded(rewards, math.nan, places), padded(values, math.inf, places), mask, gamma, lam)
    for ours, theirs in zip(got, gae(rewards, values, gamma, lam), strict=True):
        same(ours, theirs, places)


@given(ragged(number), st.booleans())
def test_whitening(case: list[Rows], shift_mean: bool) -> None:
    [values] = case
    # Of numbers that are all but equal, the difference is rounding.
    assume(moments(values)[1] > 1e-6)
    same(losses.whiten(padded(values, math.nan), mask_of(values), shift_mean=shift_mean), whiten(values, shift_mean))


@given(ragged(logprob, logprob), st.floats(0, 2), st.data())
def test_token_rewards(case: list[Rows], coef: float, data: st.DataObject) -> None:
    logprobs, reference = case
    scores = [data.draw(number) for _ in logprobs]
    kl = k1(padded(logprobs, math.nan), padded(reference, 0.0))
    ours = losses.token_rewards(torch.tensor(scores, dtype=torch.float64), kl, mask_of(logprobs), coef)
    same(ours, token_rewards(scores, logprobs, reference, coef))


@given(ragged(unlikely, unlikely, number), st.floats(1, 50))
def test_policy_loss(case: list[Rows], denominator: float) -> None:
    new, old, advantages = case
    ours = [padded(rows, math.nan) for rows in case]
    loss, stats = losses.policy_loss(ours[0], ours[1], ours[2], mask_of(new), CLIP, denominator)
    expected, sums = policy_loss(new, old, advantages, denominator)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    # Which side of a bound a ratio lies on that is at the bound, rounding decides.
    ratios = [math.exp(p - q) for rows in zip(new, old, strict=True) for p, q in zip(*rows, strict=True)]
    assume(all(abs(abs(ratio - 1) - CLIP) > 1e-9 for ratio in ratios))
    assume(all(abs(a) > 1e-9 or a == 0 for row in advantages for a in row))
    assert {name: figure.item() for name, figure in stats.items()} == pytest.approx(sums, rel=1e-9, abs=1e-9)


@given(ragged(number, number, number), st.floats(1, 50))
def test_value_loss(case: list[Rows], denominator: float) -> None:
    values, old, returns = case
    ours = [padded(rows, math.nan) for rows in case]
    loss, stats = losses.value_loss(ours[0], ours[1], ours[2], mask_of(values), CLIP, denominator)
    expected, clipped = value_loss(values, old, returns, denominator)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assume(all(_far_from_value_kinks(*cell) for rows in zip(*case, strict=True) for cell in zip(*rows, strict=True)))
    assert stats["clipfrac"].item() == clipped


@given(ragged(number, number))
def test_explained_variance(case: list[Rows]) -> None:
    values, returns = case
    assume(moments(returns)[1] > 1e-6)
    ours = losses.explained_variance(padded(values, 0.0), padded(returns, math.nan), mask_of(values))
    assert ours.item() == pytest.approx(explained_variance(values, returns), rel=1e-7, abs=1e-9)


@given(ragged(logprob, logprob))
def test_estimators_of_the_kl(case: list[Rows]) -> None:
    policy, reference = case
    for estimator, formula in (
        (k1, lambda p, q: p - q),
        (k2, lambda p, q: (p - q) ** 2 / 2),
        (k3, lambda p, q: math.exp(q - p) - 1 - (q - p)),
    ):
        rows = [[formula(p, q) for p, q in zip(*pair, strict=True)] for pair in zip(policy, reference, strict=True)]
        same(estimator(padded(policy, 0.0), padded(reference, 0.0)), rows)


@given(st.floats(0.01, 2), st.floats(0.5, 20), st.lists(st.tuples(st.floats(-5, 50), st.integers(1, 512)), max_size=20))
def test_the_adaptive_coefficient(coef: float, target: float, rollouts: list[tuple[float, int]]) -> None:
    controller = KLController(coef, target, horizon=10_000)
    for kl, episodes in rollouts:
        controller.update(kl, episodes)
        error = float(np.clip((kl - target) / target, -0.2, 0.2))
        coef += coef * error * episodes / 10_000
        assert controller.coef == pytest.approx(coef, rel=1e-12)


# ---- gradients ----


def difference_quotients(function: Callable[[Rows], float], at: Rows, step: float = 1e-6) -> Rows:
    """The derivative of a function of ragged rows, by central differences."""
    slopes: Rows = []
    for i, row in enumerate(at):
        slopes.append([])
        for j in range(len(row)):
            sides = []
            for sign in (1, -1):
                moved = [list(row) for row in at]
                moved[i][j] += sign * step
                sides.append(function(moved))
            slopes[-1].append((sides[0] - sides[1]) / (2 * step))
    return slopes


def _far_from_value_kinks(value: float, before: float, target: float) -> bool:
    near = min(max(value, before - CLIP), before + CLIP)
    # At the clip's bounds, and where the clipped and the free error are equal on opposite sides of the target.
    return abs(abs(value - before) - CLIP) > KINK and (near == value or abs(near + value - 2 * target) > KINK)


@given(ragged(st.floats(-1, 1), number), st.data())
def test_the_gradient_of_the_policy_loss(case: list[Rows], data: st.DataObject) -> None:
    log_ratios, advantages = case
    assume(all(abs(abs(math.exp(r) - 1) - CLIP) > KINK for row in log_ratios for r in row))
    old = [[data.draw(logprob) for _ in row] for row in log_ratios]
    new = [[q + r for q, r in zip(*rows, strict=True)] for rows in zip(old, log_ratios, strict=True)]
    logprobs = padded(new, 3.0).requires_grad_()
    loss, _ = losses.policy_loss(logprobs, padded(old, 5.0), padded(advantages, 7.0), mask_of(new), CLIP, 6.0)
    loss.backward()
    slopes = difference_quotients(lambda rows: policy_loss(rows, old, advantages, 6.0)[0], new)
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, padded(slopes, 0.0), atol=1e-7, rtol=1e-5)


@given(ragged(number, number, number))
def test_the_gradient_of_the_value_loss(case: list[Rows]) -> None:
    new, old, returns = case
    assume(all(_far_from_value_kinks(*cell) for rows in zip(*case, strict=True) for cell in zip(*rows, strict=True)))
    values = padded(new, 3.0).requires_grad_()
    loss, _ = losses.value_loss(values, padded(old, 5.0), padded(returns, 7.0), mask_of(new), CLIP, 6.0)
    loss.backward()
    slopes = difference_quotients(lambda rows: value_loss(rows, old, returns, 6.0)[0], new)
    assert values.grad is not None
    torch.testing.assert_close(values.grad, padded(slopes, 0.0), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize(
    "terms", [{}, {"cliprange_high": 0.1, "entropy_coef": 0.4, "kl_in": "loss", "kl_coef": 0.6}], ids=["plain", "all"]
)
def test_a_whole_update_through_a_tiny_policy(causal_lm: Build, reward_model: Build, terms: dict[str, Any]) -> None:
    """What the trainer logs and leaves in `grad`: packing, micro-batches, masks, temperature, all losses together.

    On the other side stand the loops above on single unpadded rows through float64 copies of the two models, and
    differences along a random direction for every parameter.
    """
    shape: dict[str, Any] = {
        "batch_size": 6,
        "total_episodes": 6,
        "prompt_length": 4,
        "response_length": 5,
        "micro_batch_size": 4,
    }
    clips: dict[str, Any] = {"cliprange": 0.2, "cliprange_value": 0.3, "vf_coef": 0.3}
    free: dict[str, Any] = {"max_grad_norm": math.inf, "ratio_tolerance": math.inf, "learning_rate": 0.0}
    config = PPOConfig(**shape, **clips, **free, **terms, num_ppo_epochs=1, temperature=1.3, cpu=True)
    trainer = PPOTrainer(causal_lm("gpt2"), reward_model("gpt2"), [[1, 2, 3, 4], [3], [5, 6]], config)
    torch.manual_seed(0)
    torch.nn.init.normal_(trainer.value.score.weight, std=0.1)
    rollout = trainer.rollout()
    # As if steps had been taken since: ratios and values on both sides of their clips.
    for drifted in (rollout.logprobs, rollout.values, rollout.reference_logprobs):
        drifted += 0.3 * torch.randn_like(drifted) * rollout.mask
    metrics = trainer.learner.update(rollout)

    old_logprobs, reference, advantages, old_values, returns = (
        [row[keep].tolist() for row, keep in zip(rows.double(), rollout.mask, strict=True)]
        for rows in (
            rollout.logprobs,
            rollout.reference_logprobs,
            rollout.advantages,
            rollout.values,
            rollout.returns,
        )
    )
    tokens = sum(map(len, rollout.responses))
    copies: Any = (copy.deepcopy(model).double().requires_grad_(False) for model in (trainer.policy.lm, trainer.value))
    lm, value = copies
    episodes = [(torch.tensor([[*p, *r]]), len(p) - 1) for p, r in zip(rollout.prompts, rollout.responses, strict=True)]

    def tables() -> list[Tensor]:
        return [(lm(ids).logits[0, start:-1] / 1.3).log_softmax(-1) for ids, start in episodes]

    def entropy() -> float:
        return -sum((table.exp() * table).sum().item() for table in tables()) / tokens

    def squared_kl(rows: Rows) -> float:
        cells = [cell for pair in zip(rows, reference, strict=True) for cell in zip(*pair, strict=True)]
        return math.fsum((p - q) ** 2 / 2 for p, q in cells) / tokens

    def clipped_loss() -> tuple[float, dict[str, float], Rows]:
        chosen = [ids[0, start + 1 :, None] for ids, start in episodes]
        rows = [table.gather(1, taken)[:, 0].tolist() for table, taken in zip(tables(), chosen, strict=True)]
        return *policy_loss(rows, old_logprobs, advantages, tokens, 0.2, config.cliprange_high), rows

    def policy_objective() -> tuple[float, Any]:
        loss, _, rows = clipped_loss()
        kl = config.kl_coef * squared_kl(rows) if config.kl_in == "loss" else 0.0
        return loss - config.entropy_coef * entropy() + kl, None

    def value_objective() -> tuple[float, int]:
        rows = [value.score(value.backbone(ids).last_hidden_state)[0, start:-1, 0].tolist() for ids, start in episodes]
        return value_loss(rows, old_values, returns, tokens, clip=0.3)

    loss, sums, rows = clipped_loss()
    squared_error, clipped = value_objective()
    shift = sums["ratio_shift"] / tokens
    expected = {
        "loss/policy_avg": loss,
        "loss/value_avg": squared_error,
        "policy/approxkl_avg": sums["approxkl"] / tokens,
        "policy/clipfrac_avg": sums["clipfrac"] / tokens,
        "val/clipfrac_avg": clipped / tokens,
        "val/ratio": 1 + shift,
        "val/ratio_var": sums["ratio_shift_squared"] / tokens - shift**2,
        "val/first_ratio_error": sums["ratio_error"],
        "policy/entropy_avg": entropy(),
        "optimizer_steps": 1,
        "lr": 0,
    }
    if terms:
        expected["loss/kl_avg"] = squared_kl(rows)
        assert [row.sum().item() for row in rollout.rewards] == pytest.approx(rollout.scores.tolist(), abs=1e-6)
    assert 0 < clipped < tokens
    assert 0 < sums["clipfrac"] < tokens

    checked = 0
    for name, objective, weight, model, double in (
        ("policy", policy_objective, 1.0, trainer.policy.lm, lm),
        ("value", value_objective, 0.3, trainer.value, value),
    ):
        gradients = [p.grad.double() for p in model.parameters() if p.grad is not None]
        largest = max(gradient.abs().max().item() for gradient in gradients)
        expected[f"grad_norm/{name}"] = math.sqrt(sum((gradient**2).sum().item() for gradient in gradients))
        for gradient, parameter in zip(gradients, double.parameters(), strict=True):
            direction = torch.randn_like(parameter)
            direction /= direction.norm()
            sides = []
            for step in (1e-5, -2e-5):
                parameter.add_(step * direction)
                sides.append(weight * objective()[0])
            parameter.add_(1e-5 * direction)
            slope = (gradient * direction).sum().item()
            assert slope == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-3, abs=1e-5 * largest)
            checked += abs(slope) > 1e-3 * largest
    assert checked > 40, "a gradient of nothing proves nothing"
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
