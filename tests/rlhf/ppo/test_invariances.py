"""A rollout against recomputation, and what must not change an update."""

import random
from typing import Any

import hypothesis
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from rlhf.ppo.prompts import Prompt
from tests.rlhf.ppo.small import EOS, KINDS, Build, Make, distance, untimed, weights, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", KINDS)
def test_a_rollout_against_recomputation_row_by_row(make: Make, causal_lm: Build, kind: str) -> None:
    reference = causal_lm(kind, seed=7)
    trainer = make(kind, reference=reference, kl_coef=0.3, missing_eos_penalty=0.75, temperature=1.3)
    assert trainer.value.score.weight.abs().max() == 0
    rollout = trainer.rollout()
    assert {len(r) for r in rollout.responses} != {10}, "some rows must stop early for this test to mean anything"
    assert any(r[-1] not in (EOS, 0, 1) for r in rollout.responses), "and some must not"
    for row, (prompt, response) in enumerate(zip(rollout.prompts, rollout.responses, strict=True)):
        length = len(response)
        # Nothing follows the first stop token, and it is itself inside the mask.
        assert not {EOS, 0, 1} & set(response[:-1])
        assert rollout.mask[row].tolist() == [True] * length + [False] * (rollout.mask.shape[1] - length)
        ids = torch.tensor([[*prompt, *response]])
        logprobs = []
        for model in (trainer.policy.lm, reference):
            with torch.no_grad():
                table = (model(input_ids=ids).logits / 1.3).log_softmax(-1)[0, len(prompt) - 1 : -1]
            logprobs.append(table.gather(-1, ids[0, len(prompt) :, None]).squeeze(-1))
        torch.testing.assert_close(rollout.logprobs[row, :length], logprobs[0], atol=1e-5, rtol=0)
        reward: Any = trainer.reward
        hidden = reward.model.base_model(input_ids=ids).last_hidden_state
        score = reward.model.score(hidden[0, -1]).item() - (0.0 if response[-1] in (EOS, 0, 1) else 0.75)
        assert rollout.scores[row].item() == pytest.approx(score, abs=1e-5)
        # KL penalty on every token, the score once more on the last, nothing after it.
        expected = -0.3 * (logprobs[0] - logprobs[1])
        expected[-1] += score
        torch.testing.assert_close(rollout.rewards[row, :length], expected, atol=1e-5, rtol=0)
        for quantity in (rollout.rewards, rollout.advantages, rollout.returns, rollout.values):
            assert (quantity[row, length:] == 0).all()
    metrics = rollout.metrics
    assert metrics["objective/rlhf_reward"] == pytest.approx(rollout.rewards.sum(1).mean().item(), abs=1e-4)
    assert metrics["objective/non_score_reward"] == pytest.approx(-0.3 * metrics["objective/kl"], rel=1e-5)
    assert metrics["objective/response_length"] == rollout.mask.sum(1).float().mean().item()
    assert metrics["objective/kl_k3"] > 0
    assert rollout.advantages[rollout.mask].mean().item() == pytest.approx(0, abs=1e-6)
    assert rollout.advantages[rollout.mask].std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_scores_are_normalised_clipped_and_ruled_in_this_order(make: Make, reward_model: Build) -> None:
    model = reward_model("qwen3")
    plain = make(reward=model, missing_eos_penalty=0.0).rollout()
    model.config.reward_mean, model.config.reward_std = 0.25, 0.5
    normalised = make(reward=model, missing_eos_penalty=0.0).rollout()
    assert normalised.responses == plain.responses
    torch.testing.assert_close(normalised.scores, (plain.scores - 0.25) / 0.5)
    ruled = make(reward=model, score_clip=0.6, missing_eos_rule="subtract", missing_eos_penalty=2.0).rollout()
    stopped = torch.tensor([r[-1] in (EOS, 0, 1) for r in ruled.responses])
    assert stopped.any()
    assert not stopped.all()
    assert (normalised.scores.abs() > 0.6).any()
    clipped = normalised.scores.clamp(-0.6, 0.6)
    torch.testing.assert_close(ruled.scores, torch.where(stopped, clipped, clipped - 2.0))
    replaced = make(reward=model, missing_eos_rule="replace", missing_eos_penalty=2.0).rollout()
    assert (replaced.scores[~stopped] == -2.0).all()


def test_the_value_starts_from_the_reward_model_with_an_empty_head(make: Make, reward_model: Build) -> None:
    model = reward_model("qwen3")
    trainer = make(reward=model)
    for ours, theirs in zip(trainer.value.backbone.parameters(), model.base_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.requires_grad
    assert model.score.weight.abs().max() > 0
    assert (trainer.rollout().values == 0).all()
    before = [p.clone() for p in model.parameters()]
    trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)), "the reward is frozen"
    assert distance(before[:-1], [*trainer.value.backbone.parameters()]) > 0


def test_with_a_function_the_value_starts_from_the_policy(make: Make, tokenizer: Any) -> None:
    trainer = make(reward=lambda prompts, responses: [0.0] * len(prompts), tokenizer=tokenizer)
    body = trainer.policy.lm.base_model
    assert distance([*trainer.value.backbone.parameters()], [*body.parameters()]) == 0
    assert trainer.value.backbone is not body


def test_reward_functions_get_text_and_rewards_add_up(make: Make, tokenizer: Any, reward_model: Build) -> None:
    seen: list[tuple[list[str], list[str]]] = []

    def length(prompts: list[str], responses: list[str]) -> list[float]:
        seen.append((prompts, responses))
        return [float(len(r)) for r in responses]

    texts = Dataset.from_dict({"prompt": ["abc", "hello", "d"]})
    parts = [(length, 2.0), (reward_model("qwen3"), 0.5)]
    rollout = make(reward=parts, prompts=texts, tokenizer=tokenizer, missing_eos_penalty=0.0).rollout()
    prompts, responses = seen[0]
    assert set(prompts) == {"abc", "hello", "d"}
    for ids, text in zip(rollout.responses, responses, strict=True):
        body = ids[:-1] if ids[-1] in (EOS, 0, 1) else ids
        assert text == "".join(chr(ord("a") + i) if i < 22 else "<pad>" for i in body)
    model_only = make(reward=reward_model("qwen3"), prompts=texts, tokenizer=tokenizer, missing_eos_penalty=0.0)
    other = model_only.rollout()
    assert other.responses == rollout.responses
    lengths = torch.tensor([float(len(text)) for text in responses])
    torch.testing.assert_close(rollout.scores, 2.0 * lengths + 0.5 * other.scores)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_ratio_is_one(make: Make, kind: str) -> None:
    history = make(kind, total_episodes=64, micro_batch_size=3).train()
    assert len(history) == 4
    for metrics in history:
        assert metrics["val/first_ratio_error"] < 2e-5
    assert history[-1]["val/ratio_var"] > 1e-4, "later minibatches must move"


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_ratio_is_one_in_bf16(make: Make, kind: str) -> None:
    """Old and new log-probabilities come from the same operations: what rounds, rounds alike."""
    for metrics in make(kind, total_episodes=48, bf16=True).train():
        assert metrics["val/first_ratio_error"] < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_without_learning_the_ratio_stays_one_and_the_kl_zero(make: Make, kind: str) -> None:
    trainer = make(kind, learning_rate=0.0, value_learning_rate=0.0, total_episodes=48, num_ppo_epochs=3)
    before = weights(trainer)
    for metrics in trainer.train():
        assert metrics["val/ratio"] == pytest.approx(1, abs=1e-5)
        assert metrics["val/ratio_var"] == pytest.approx(0, abs=1e-9)
        assert metrics["policy/approxkl_avg"] == pytest.approx(0, abs=1e-9)
        assert metrics["policy/clipfrac_avg"] == 0
        assert metrics["objective/kl"] == pytest.approx(0, abs=1e-5)
        assert metrics["objective/kl_k3"] == pytest.approx(0, abs=1e-5)
    assert distance(before, weights(trainer)) == 0


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.settings(
    max_examples=6, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from([1, 2, 4]), st.integers(1, 16), st.randoms(use_true_random=False))
def test_any_split_gives_the_same_update(
    make: Make, kind: str, minibatches: int, micro: int, shuffling: random.Random
) -> None:
    """Gradients of every minibatch, however its rows are divided over forward passes, and in whatever order they come:
    equal up to float noise."""
    whole = make(kind, num_mini_batches=minibatches, num_ppo_epochs=1)
    split = make(kind, num_mini_batches=minibatches, num_ppo_epochs=1, micro_batch_size=micro)
    rollout = whole.rollout()
    size = whole.config.mini_batch_size
    rows = shuffling.sample(range(16), 16)
    for first in range(0, 16, size):
        minibatch = rows[first : first + size]
        stats = [trainer.learner._backward(rollout, minibatch) for trainer in (whole, split)]
        assert stats[1] == pytest.approx(stats[0], abs=1e-5)
        mine, other = ([p.grad for p in weights_of(trainer) if p.grad is not None] for trainer in (whole, split))
        assert max(gradient.abs().max() for gradient in mine) > 1e-3
        assert distance(mine, other) < 2e-6


def test_minibatches_are_optimizer_steps_whatever_the_micro_batch(make: Make) -> None:
    trainer = make(num_mini_batches=4, micro_batch_size=2, num_ppo_epochs=3)
    optimizer = trainer.learner.optimizer.optimizer
    stepped: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: stepped.append(len(optimizer.param_groups)))
    metrics = trainer.step()
    assert stepped == [2] * 12, "policy and value, in each of four minibatches of three epochs"
    for model in (trainer.policy, trainer.value):
        assert {optimizer.state[weight]["step"].item() for weight in model.parameters()} == {12}
    assert metrics["optimizer_steps"] == 12


def test_minibatches_are_drawn_anew_each_epoch(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(num_ppo_epochs=2)
    seen: list[list[int]] = []
    backward = trainer.learner._backward

    def noted(rollout: Any, rows: list[int], *more: Any) -> dict[str, float]:
        seen.append(rows)
        return backward(rollout, rows, *more)

    monkeypatch.setattr(trainer.learner, "_backward", noted)
    trainer.step()
    epochs = [seen[0] + seen[1], seen[2] + seen[3]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(16))] * 2
    assert epochs[0] != epochs[1]
    assert epochs[0] != list(range(16))


def test_stopping_itself_is_trained(make: Make) -> None:
    """The gradient of responses that are nothing but a stop token: zero if it fell outside the loss mask."""
    trainer = make(whiten_advantages=False, missing_eos_penalty=0.0, num_mini_batches=1, num_ppo_epochs=1)
    episodes = trainer.experience.read([Prompt([3, 7])] * 16, [[EOS]] * 16, torch.ones(16))
    rollout = trainer.prepare_rollout(episodes)
    assert rollout.mask.tolist() == [[True]] * 16
    assert rollout.advantages.tolist() == [[1.0]] * 16
    trainer.learner.update(rollout)
    logits = trainer.policy.lm(input_ids=torch.tensor([[3, 7]])).logits[0, -1]
    assert logits.log_softmax(-1)[EOS] > rollout.logprobs[0, 0] + 0.01


def test_equal_seeds_equal_trajectories(make: Make) -> None:
    first, same, other = make(seed=3), make(seed=3), make(seed=4)
    histories = [untimed(trainer.train()) for trainer in (first, same, other)]
    assert histories[0] == histories[1]
    assert distance(weights(first), weights(same)) == 0
    assert distance(weights(first), weights(other)) > 0
