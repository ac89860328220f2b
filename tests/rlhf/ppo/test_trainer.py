"""The trainer: what controls it, what it refuses, its state, and that it learns."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from data.console import UserError
from rlhf.ppo.trainer import PPOTrainer
from tests.rlhf.ppo.small import EOS, KINDS, PROMPTS, Build, Make, distance, settings, untimed, weights

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_epochs_stop_at_the_kl_bound(make: Make) -> None:
    free = make(num_ppo_epochs=8).step()
    bounded = make(num_ppo_epochs=8, target_kl_stop=free["policy/approxkl_avg"] / 10).step()
    assert free["optimizer_steps"] == 16
    assert 1 <= bounded["optimizer_steps"] < 16
    assert bounded["policy/approxkl_avg"] <= free["policy/approxkl_avg"] / 10


def test_learning_rates_fall_in_a_line_to_the_floor(make: Make) -> None:
    trainer = make(total_episodes=64, learning_rate=1e-3, value_learning_rate=2e-3, lr_floor=0.2)
    rates = [metrics["lr"] for metrics in trainer.train()]
    assert rates == pytest.approx([1e-3, 0.8e-3, 0.6e-3, 0.4e-3])
    assert trainer.learner.optimizer.param_groups[1]["lr"] == pytest.approx(0.8e-3)
    warm = make(total_episodes=96, learning_rate=1e-3, lr_floor=0.2, warmup_updates=2)
    rates = []
    for update in range(6):
        warm.learner.set_learning_rates(update)
        rates.append(warm.learner.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 0.8e-3, 0.6e-3, 0.4e-3])


def test_the_value_learns_before_the_policy_moves(make: Make) -> None:
    trainer = make(total_episodes=64, value_only_updates=2, weight_decay=0.1, entropy_coef=0.1)
    for update in range(3):
        policy, value = ([p.detach().clone() for p in model.parameters()] for model in (trainer.policy, trainer.value))
        metrics = trainer.step()
        assert distance(value, [*trainer.value.parameters()]) > 1e-3
        assert (distance(policy, [*trainer.policy.parameters()]) > 1e-3) == (update == 2)
        assert (metrics["grad_norm/policy"] > 0) == (update == 2)
        assert metrics["val/first_ratio_error"] < 2e-5
        assert metrics["policy/entropy_avg"] > 0


def test_a_prompt_may_be_answered_several_times(make: Make) -> None:
    rollout = (trainer := make(samples_per_prompt=4)).rollout()
    assert trainer.prompt_order.position == 4
    prompts = [list(prompt) for prompt in rollout.prompts]
    assert prompts == [list(prompt) for prompt in make().prompt_order.take(4) for _ in range(4)]
    assert len({tuple(response) for response in rollout.responses[:4]}) > 1, "each with random numbers of its own"


def test_texts_end_responses_and_stay_in_them(make: Make, tokenizer: Any) -> None:
    """What is sampled is what would be without them, up to where one is complete."""
    seen: list[str] = []

    def length(prompts: list[str], responses: list[str]) -> list[float]:
        seen[:] = responses
        return [float(len(text)) for text in responses]

    changes: Any = {"reward": length, "prompts": ["abc", "d"], "tokenizer": tokenizer, "stop_token_ids": ()}
    changes |= {"batch_size": 64, "total_episodes": 64, "response_length": 12, "missing_eos_penalty": 100.0}
    free = make(**changes).rollout()
    texts = list(seen)
    pairs = {text[i : i + 2] for text in texts for i in range(8)}
    letters = [pair for pair in pairs if pair.isalpha() and pair not in "<eos><pad>"]
    pair = max(letters, key=lambda pair: sum(pair in text for text in texts))
    trainer = make(**changes, stop_strings=pair)
    rollout = trainer.rollout()
    cut = [text[: text.index(pair) + 2] if pair in text else text for text in texts]
    assert seen == cut
    assert [len(ids) for ids in rollout.responses] != [len(ids) for ids in free.responses]
    stopped = [pair in text for text in texts]
    assert True in stopped
    assert False in stopped
    assert [score > 0 for score in rollout.scores] == stopped
    assert rollout.metrics["objective/stopped"] == pytest.approx(sum(stopped) / 64)
    assert [sample["stopped"] for sample in trainer.samples] == stopped[:4]


def test_scores_are_measured_by_the_references_replies(make: Make, causal_lm: Build, tokenizer: Any) -> None:
    def length(prompts: list[str], responses: list[str]) -> list[float]:
        return [float(len(text)) for text in responses]

    def written(ids: list[int]) -> int:
        return len(trainer.reward.policy.response_text(ids))

    calls: list[int] = []
    reference = causal_lm("qwen3", seed=7)
    changes: Any = {"reward": length, "prompts": ["abc", "d"], "tokenizer": tokenizer, "missing_eos_penalty": 0.0}
    trainer: Any = make(**changes, reference=reference, score_transform="sigmoid", reference_replies=3)
    measured = trainer.experience.reference_scores
    assert measured is not None
    reply = measured.reply

    def counted(prompts: Any, noise: torch.Tensor) -> list[list[int]]:
        calls.append(len(prompts))
        return reply(prompts, noise)

    measured.reply = counted
    rollout = trainer.rollout()
    assert calls == [6], "three for each of the two prompts"
    means = {}
    for prompt in trainer.prompt_order.prompts:
        replies = trainer.experience.sample(trainer.reference, [prompt] * 3, measured._noise(prompt))
        means[prompt.text] = sum(map(written, replies)) / 3
    raw = [written(ids) for ids in rollout.responses]
    differences = [score - means[prompt.text] for prompt, score in zip(rollout.prompts, raw, strict=True)]
    expected = [1 / (1 + math.exp(-difference)) for difference in differences]
    assert rollout.scores.tolist() == pytest.approx(expected, rel=1e-5)
    assert rollout.metrics["objective/reward_scores"] == pytest.approx(sum(raw) / 16)
    before = dict(measured.means)
    trainer.learner.update(rollout)
    trainer.rollout()
    assert calls == [6], "once per prompt"
    assert measured.means == before
    plain = make(**changes, reference=reference).rollout()
    assert plain.responses == rollout.responses, "the reference draws no numbers of the policy's"


def test_the_adaptive_coefficient_answers_from_the_next_rollout_on(make: Make) -> None:
    trainer = make(kl_coef=0.1, kl_target=1e3, kl_horizon=160, total_episodes=48)
    coefficients = [metrics["objective/kl_coef"] for metrics in trainer.train()]
    # far below its target: an error of -1, clipped to -.2, on 16 of 160 episodes
    assert coefficients == pytest.approx([0.1, 0.098, 0.098 * 0.98])


def test_a_ratio_that_is_not_one_stops_the_run(make: Make) -> None:
    trainer = make()
    rollout = trainer.rollout()
    with torch.no_grad():
        for parameter in trainer.policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    with pytest.raises(UserError, match="first minibatch's probability ratio is off by"):
        trainer.learner.update(rollout)


def test_a_loss_that_is_no_number_keeps_the_last_good_weights(make: Make) -> None:
    trainer = make()
    trainer.step()
    rollout = trainer.rollout()
    rollout.returns[0, 0] = float("nan")
    before = weights(trainer)
    with pytest.raises(UserError, match="PPO diverged"):
        trainer.learner.update(rollout)
    # Minibatches before the bad one may have been learned from; nothing learned is spoilt.
    assert all(w.isfinite().all() for w in weights(trainer))
    trainer = make(num_mini_batches=1)
    rollout = trainer.rollout()
    rollout.returns[0, 0] = float("inf")
    before = weights(trainer)
    with pytest.raises(UserError, match="PPO diverged"):
        trainer.learner.update(rollout)
    assert distance(before, weights(trainer)) == 0


def test_a_run_that_explodes_leaves_the_last_good_model(make: Make, tmp_path: Path) -> None:
    """A value model whose every step is a leap: finite losses, but a million times too large."""
    trainer = make(total_episodes=160, value_learning_rate=1e4, output_dir=tmp_path, save_every=1, cliprange_value=1e9)
    with pytest.raises(UserError, match=r"PPO diverged .* value loss .*; saved in .*last_good$") as caught:
        trainer.train()
    assert "\n" not in str(caught.value)
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "last_good")
    for ours, theirs in zip(trainer.policy.lm.parameters(), kept.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": lambda p, r: [float("nan")] * len(p)}, "return finite numbers"),
        ({"reward": lambda p, r: [1.0]}, "return one number for each"),
    ],
)
def test_a_bad_reward_is_said(make: Make, tokenizer: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(tokenizer=tokenizer, **changes).step()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_mini_batches": 5}, "does not divide"),
        ({"total_episodes": 8}, "less than one batch"),
        ({"temperature": 0.0}, "responses are sampled"),
        ({"response_length": 60}, "more than the 64"),
        ({"missing_eos_rule": "forgive"}, "subtract or replace"),
        ({"save_every": 1}, "output_dir"),
        ({"prompts": []}, "no prompts"),
        ({"prompts": [[]]}, "prompt 0 is empty"),
        ({"prompts": [[1], [24]]}, "prompt 1 holds a token"),
        ({"prompts": ["abc"]}, "needs a tokenizer"),
        ({"prompts": Dataset.from_dict({"text": ["abc"]})}, 'a column "prompt"'),
        ({"reward": lambda p, r: [0.0]}, "pass the tokenizer"),
        ({"reward": "no/such/folder"}, "cannot load the reward model"),
        ({"stop_token_ids": None}, None),
    ],
)
def test_what_cannot_work_is_said_in_one_line(make: Make, changes: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert make(**changes).tokens.stop_ids == {EOS}, "the model's own end-of-text token"
        return
    with pytest.raises(UserError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def test_models_of_two_vocabularies_are_refused(make: Make, reward_model: Build) -> None:
    small = reward_model("qwen3", vocab_size=20, pad_token_id=19, eos_token_id=18)
    with pytest.raises(UserError, match="knows 20 tokens and the policy 24"):
        make(reward=small)


def test_hooks_see_every_update(make: Make) -> None:
    seen: list[float] = []
    trainer = make(
        total_episodes=80,
        eval_every=2,
        eval_hook=lambda t: {"eval/updates": float(t.updates_done)},
        callbacks=[lambda t, metrics: seen.append(metrics["episode"])],
    )
    history = trainer.train()
    assert seen == [16, 32, 48, 64, 80]
    assert [metrics.get("eval/updates") for metrics in history] == [None, 2, None, 4, 5]
    assert len(trainer.samples) == 4
    assert all(sample["response"] for sample in trainer.samples)


@pytest.mark.parametrize(("kind", "stop"), [("gpt2", 1), ("qwen3", 2), ("gpt2", 3)])
def test_resuming_is_not_having_stopped(make: Make, tmp_path: Path, kind: str, stop: int) -> None:
    """Bit for bit, wherever it stopped: weights, figures, the adaptive coefficient, what hook and callback saw."""

    def build() -> PPOTrainer:
        looked: list[float] = []
        changes = {"total_episodes": 64, "kl_target": 2.0, "output_dir": tmp_path, "save_every": 1, "eval_every": 3}
        trainer = make(
            kind,
            prompts=PROMPTS[:5],
            eval_hook=lambda t: {"eval/updates": float(t.updates_done)},
            callbacks=[lambda _, metrics: looked.append(metrics["objective/kl"])],
            **changes,
        )
        trainer.looked = looked  # type: ignore[attr-defined]
        return trainer

    whole: Any = build()
    history = untimed(whole.train())
    interrupted = build()
    for _ in range(stop):
        interrupted.step()
    (tmp_path / "resume").rename(tmp_path / "kept")
    interrupted.step()  # what is done after the save is lost
    torch.manual_seed(99)
    resumed: Any = build()
    resumed.step()  # whatever it did before is forgotten
    resumed.looked.clear()
    resumed.load_state(tmp_path / "kept")
    assert resumed.updates_done == stop
    resumed.train()
    assert distance(weights(whole), weights(resumed)) == 0
    assert untimed(resumed.log_history) == history
    assert [metrics.get("eval/updates") for metrics in history] == [None, None, 3, 4]
    assert resumed.looked == whole.looked[stop:]
    assert resumed.prompt_order.position == whole.prompt_order.position
    assert resumed.kl_controller.coef == whole.kl_controller.coef != 0.05
    again = build()
    assert untimed(again.train(resume_from=tmp_path / "kept")) == history


def test_a_state_is_replaced_whole_or_not_at_all(make: Make, tmp_path: Path, monkeypatch: Any) -> None:
    trainer = make(total_episodes=48)
    trainer.step()
    trainer.save_state(tmp_path / "state")
    good = (tmp_path / "state" / "state.pt").read_bytes()

    def no_space(*_: Any) -> None:
        raise OSError("no space")

    trainer.step()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", no_space)
        with pytest.raises(UserError, match=r"cannot save into .* \(no space\): free some space"):
            trainer.save_state(tmp_path / "state")
    assert (tmp_path / "state" / "state.pt").read_bytes() == good
    trainer.save_state(tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    # Killed between the two renames: the older state is still found.
    (tmp_path / "state").rename(tmp_path / ".state.old")
    fresh = make(total_episodes=48)
    fresh.load_state(tmp_path / "state")
    assert fresh.updates_done == 2


def test_a_state_of_another_run_is_refused(make: Make, tmp_path: Path) -> None:
    make().save_state(tmp_path / "state")
    with pytest.raises(UserError, match="no training state"):
        make().load_state(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="run with seed=1, this one has 2"):
        make(seed=2).load_state(tmp_path / "state")
    with pytest.raises(UserError, match="other prompts"):
        make(prompts=PROMPTS[:3]).load_state(tmp_path / "state")
    (tmp_path / "state" / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="damaged"):
        make().load_state(tmp_path / "state")


@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_policy_is_a_plain_checkpoint(make: Make, tokenizer: Any, tmp_path: Path, kind: str) -> None:
    trainer = make(kind, tokenizer=tokenizer)
    trainer.train()
    trainer.save(tmp_path / "aligned")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "aligned")
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(loaded(ids).logits, trainer.policy.lm(ids).logits, atol=1e-5, rtol=0)
    assert loaded.config._attn_implementation == "sdpa", "our choice of attention is not the user's"
    assert (tmp_path / "aligned" / "tokenizer.json").exists()


def test_the_value_model_learns_what_to_expect(causal_lm: Build, tokenizer: Any) -> None:
    """A frozen policy and a score that the prompt decides: the value comes to explain nearly all of it."""

    def by_prompt(prompts: list[str], responses: list[str]) -> list[float]:
        return [1.0 if p == "c" else -1.0 for p in prompts]

    config = settings(total_episodes=32 * 14, batch_size=32, learning_rate=0.0, missing_eos_penalty=0.0)
    trainer = PPOTrainer(causal_lm("qwen3", std=0.05), by_prompt, ["c", "d"], config, tokenizer=tokenizer)
    explained = [metrics["val/explained_variance"] for metrics in trainer.train()]
    assert explained[0] == pytest.approx(0, abs=0.05)
    assert explained[-1] > 0.9, explained
