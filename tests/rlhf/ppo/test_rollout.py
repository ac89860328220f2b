"""From a sampled token to the gradient of a minibatch, recomputed one row at a time in float64."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rlhf.ppo.trainer import PPOConfig, PPOTrainer
from sft.models import batch

pytestmark = pytest.mark.usefixtures("one_thread")

EOS, STOPS = 22, (22, 0, 1)
PROMPTS = [[3, 7], [1, 2, 3, 4, 5, 6, 7], [9], [4, 4, 4, 8], [10, 11], [2, 9, 1], [12], [5, 5]]
KINDS = ["gpt2", "qwen3"]
Build = Callable[..., PreTrainedModel]
Make = Callable[..., PPOTrainer]
Rows = list[np.ndarray]


@pytest.fixture
def make(causal_lm: Build, reward_model: Build) -> Make:
    def build(kind: str, reward: Any = None, prompts: Any = PROMPTS, tokenizer: Any = None, **changes: Any) -> Any:
        base: dict[str, Any] = {
            "total_episodes": 32,
            "batch_size": 16,
            "num_mini_batches": 2,
            "num_ppo_epochs": 2,
            "response_length": 10,
            "temperature": 1.3,
            "learning_rate": 1e-2,
            "stop_token_ids": STOPS,
            "cpu": True,
        }
        reward = reward_model(kind) if reward is None else reward
        # A reference that the policy differs from at once.
        reference = causal_lm(kind, seed=7)
        config = PPOConfig(**base | changes)
        return PPOTrainer(causal_lm(kind), reward, prompts, config, tokenizer=tokenizer, reference=reference)

    return build


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_distribution_is_sampled_at_its_temperature(make: Make, kind: str) -> None:
    """With all probabilities laid end to end, each token is the one on which the random number of its place falls.

    Cut the least of them, suppress a token, or divide by another temperature, and the others move.
    """
    trainer = make(kind, total_episodes=128, batch_size=128, response_length=6)
    generator = torch.Generator().manual_seed(trainer.config.seed)
    numbers = torch.rand(128, 6, dtype=torch.float64, generator=generator).tolist()
    rollout = trainer.rollout()
    for prompt, response, fell in zip(rollout.prompts, rollout.responses, numbers, strict=True):
        with torch.no_grad():
            logits = trainer.policy.lm(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        shares = (logits.double() / 1.3).softmax(-1)
        ends = shares.cumsum(-1)
        for place, token in enumerate(response):
            end, share = ends[place, token].item(), shares[place, token].item()
            assert end - share - 1e-5 <= fell[place] <= end + 1e-5
        assert len(response) == 6 or response[-1] in STOPS


def whitened(rows: Rows, keep_mean: bool) -> Rows:
    flat = np.concatenate(rows)
    return [(row - flat.mean()) / np.sqrt(flat.var() + 1e-8) + keep_mean * flat.mean() for row in rows]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [
        {"score_clip": 0.5, "missing_eos_penalty": 0.75, "gamma": 0.9, "gae_lambda": 0.8},
        {"missing_eos_rule": "replace", "missing_eos_penalty": 2.0, "whiten_rewards": True},
        {"whiten_advantages": False},
    ],
    ids=["clipped", "whitened rewards", "unwhitened"],
)
def test_a_rollout_and_its_metrics(
    make: Make, tokenizer: PreTrainedTokenizerFast, kind: str, changes: dict[str, Any]
) -> None:
    """Everything that `prepare_rollout` makes of its episodes, where no value is 0 and the coefficient has moved."""
    shape = {"batch_size": 32, "response_length": 5, "micro_batch_size": 5, "log_samples": 3, "seed": 2}
    trainer = make(kind, tokenizer=tokenizer, **shape, **changes)
    config, beta = trainer.config, 0.3
    trainer.kl_controller.coef = beta
    torch.nn.init.normal_(trainer.value.score.weight, generator=torch.Generator().manual_seed(0))
    trainer.samples = [{"prompt": "of the rollout before"}] * 3
    rollout = trainer.rollout()
    ends = {(len(response) == 5, response[-1] in STOPS) for response in rollout.responses}
    assert ends == {(False, True), (True, True), (True, False)}, "a stop before the limit, one at it, and none"

    kls, k3s, entropies, raw, scores, stopped, rewards, values = ([] for _ in range(8))
    for prompt, response in zip(rollout.prompts, rollout.responses, strict=True):
        ids, start = torch.tensor([[*prompt, *response]]), len(prompt) - 1
        with torch.no_grad():
            tables = [
                (model.lm(ids).logits[0, start:-1].double() / 1.3).log_softmax(-1).numpy()
                for model in (trainer.policy, trainer.reference)
            ]
            hidden = trainer.value.backbone(ids).last_hidden_state[0, start:-1]
            values.append(trainer.value.score(hidden).double().numpy()[:, 0])
            reward: Any = trainer.reward
            judge = reward.model
            raw.append(judge.score(judge.base_model(ids).last_hidden_state[0, -1]).item())
        ours, theirs = (table[range(len(response)), response] for table in tables)
        kls.append(ours - theirs)
        k3s.append(np.exp(theirs - ours) - 1 - (theirs - ours))
        entropies.append(-(np.exp(tables[0]) * tables[0]).sum())
        stopped.append(response[-1] in STOPS)
        score = raw[-1] if config.score_clip is None else min(max(raw[-1], -config.score_clip), config.score_clip)
        if not stopped[-1]:
            replaced = config.missing_eos_rule == "replace"
            score = (0.0 if replaced else score) - config.missing_eos_penalty
        scores.append(score)
        rewards.append(-beta * kls[-1])
        rewards[-1][-1] += score
    assert config.score_clip is None or max(map(abs, raw)) > config.score_clip
    if config.whiten_rewards:
        rewards = whitened(rewards, keep_mean=True)
    advantages = [np.zeros(len(row)) for row in rewards]
    for reward, value, advantage in zip(rewards, values, advantages, strict=True):
        for t in reversed(range(len(reward))):
            goes_on = t + 1 < len(reward)
            delta = reward[t] - value[t] + (config.gamma * value[t + 1] if goes_on else 0.0)
            advantage[t] = delta + (config.gamma * config.gae_lambda * advantage[t + 1] if goes_on else 0.0)
    returns = [a + v for a, v in zip(advantages, values, strict=True)]
    errors = np.concatenate(returns) - np.concatenate(values)
    explained = 1 - errors.var() / np.concatenate(returns).var()
    if config.whiten_advantages:
        advantages = whitened(advantages, keep_mean=False)

    for ours, rows in (
        (rollout.values, values),
        (rollout.rewards, rewards),
        (rollout.advantages, advantages),
        (rollout.returns, returns),
        (rollout.scores[:, None], [[score] for score in scores]),
    ):
        for row, expected in zip(ours.tolist(), rows, strict=True):
            assert row == pytest.approx([*expected] + [0.0] * (len(row) - len(expected)), abs=2e-4)
    kl = np.mean([row.sum() for row in kls])
    assert {name: x for name, x in rollout.metrics.items() if not name.startswith("time/")} == pytest.approx(
        {
            "objective/kl": kl,
            "objective/kl_k3": np.mean([row.sum() for row in k3s]),
            "objective/entropy": np.mean(entropies),
            "objective/reward_scores": np.mean(raw),
            "objective/scores": np.mean(scores),
            "objective/non_score_reward": -beta * kl,
            "objective/rlhf_reward": np.mean(scores) - beta * kl,
            "objective/kl_coef": beta,
            "objective/stopped": np.mean(stopped),
            "objective/response_length": np.mean([len(response) for response in rollout.responses]),
            "val/num_eos_tokens": sum(stopped),
            "val/explained_variance": explained,
        },
        abs=2e-4,
    )

    def text(ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + token) for token in ids if token < EOS)

    for sample, prompt, response, score, stop in zip(
        trainer.samples, rollout.prompts, rollout.responses, raw, stopped, strict=False
    ):
        assert sample.pop("score") == pytest.approx(score, abs=1e-5)
        shown = response[:-1] if stop else response
        assert sample == {"prompt": text(prompt), "response": text(shown), "stopped": stop}
    assert len(trainer.samples) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_stays_where_it_is(make: Make, causal_lm: Build, kind: str) -> None:
    """Also where it is a copy that the trainer made: the KL is measured from where the policy began."""
    trainer = make(kind)
    reward: Any = trainer.reward
    own = PPOTrainer(causal_lm(kind), reward.model, PROMPTS, trainer.config)
    before = [parameter.clone() for parameter in own.policy.parameters()]
    last = own.train()[-1]
    assert last["objective/kl_k3"] > 1e-3
    assert all(torch.equal(a, b) for a, b in zip(before, own.reference.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, own.policy.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_policy_and_reference_round_alike(causal_lm: Build, reward_model: Build, kind: str) -> None:
    config = PPOConfig(total_episodes=16, batch_size=16, response_length=6, bf16=True, cpu=True)
    figures = PPOTrainer(causal_lm(kind), reward_model(kind), PROMPTS, config).rollout().metrics
    assert figures["objective/kl"] == figures["objective/kl_k3"] == 0


def test_the_controller_gets_the_kl_of_whole_sequences(make: Make) -> None:
    measured = make("qwen3").rollout().metrics["objective/kl"]
    trainer = make("qwen3", kl_coef=0.2, kl_target=measured / 1.1, kl_horizon=160)
    trainer.step()
    # 10 % too far, on 16 of 160 episodes.
    assert trainer.kl_controller.coef == pytest.approx(0.2 * 1.01, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_filler_may_be_any_token(make: Make, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop token, PAD, or one that is often sampled: nothing that is learned or logged depends on the filler."""
    ends = []
    for filler in (0, EOS, 23, 5):
        monkeypatch.setattr(batch, "FILLER", filler)
        trainer = make(kind, total_episodes=16)
        history = trainer.train()
        figures = [{k: v for k, v in line.items() if not k.startswith("time/") and k != "eps"} for line in history]
        ends.append((figures, torch.cat([p.flatten() for p in trainer.policy.parameters()])))
    for figures, weights in ends[1:]:
        assert figures == ends[0][0]
        assert torch.equal(weights, ends[0][1])


def test_nothing_is_tokenised_after_the_prompts(
    make: Make, reward_model: Build, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards = [(lambda prompts, responses: [float(len(text)) for text in responses], 1.0), (reward_model("qwen3"), 0.5)]
    trainer = make("qwen3", rewards, ["abc", "d"], tokenizer)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("token in, token out")

    for method in ("encode", "__call__"):
        monkeypatch.setattr(type(tokenizer), method, refuse)
    assert len(trainer.train()) == 2


def test_the_seconds_are_those_that_passed(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    def slow(prompts: list[str], responses: list[str]) -> list[float]:
        time.sleep(0.2)
        return [0.0] * len(prompts)

    trainer = make("qwen3", slow, tokenizer=tokenizer)
    begin = time.perf_counter()
    metrics = trainer.step()
    passed = time.perf_counter() - begin
    parts = [metrics[f"time/{part}"] for part in ("rollout", "scoring", "update")]
    assert min(parts) > 0
    assert metrics["time/scoring"] >= 0.2
    assert sum(parts) <= 16 / metrics["eps"] <= passed


def test_a_minibatch_is_divided_by_its_own_tokens(make: Make) -> None:
    """Before any step every ratio is 1 and every value 0: both losses are means over the minibatch's tokens.

    Each starts from no gradient: the same rows later give the same one again.
    """
    trainer = make("qwen3", num_mini_batches=4, micro_batch_size=3, whiten_advantages=False)
    rollout = trainer.rollout()
    parameters = [*trainer.policy.parameters(), *trainer.value.parameters()]
    gradients = []
    for rows in ([0, 5, 9, 13], [1, 2, 3, 4], [0, 5, 9, 13]):
        tokens = [(i, t) for i in rows for t in range(len(rollout.responses[i]))]
        advantages, returns = [[x[i, t].item() for i, t in tokens] for x in (rollout.advantages, rollout.returns)]
        figures = trainer.learner._backward(rollout, rows)
        assert figures["policy_loss"] == pytest.approx(-np.mean(advantages), abs=1e-5)
        assert figures["value_loss"] == pytest.approx(np.mean(np.square(returns)) / 2, rel=1e-4)
        gradients.append([p.grad.clone() for p in parameters if p.grad is not None])
    assert max(g.abs().max().item() for g in gradients[0]) > 1e-3
    for first, again in itertools.zip_longest(gradients[0], gradients[2]):
        torch.testing.assert_close(first, again, atol=1e-7, rtol=0)
