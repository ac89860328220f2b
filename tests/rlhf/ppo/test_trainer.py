"""The trainer: its bookkeeping against recomputation, its invariances, its state, and that it learns."""

import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from data.console import UserError
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.trainer import PPOConfig, PPOTrainer

pytestmark = pytest.mark.usefixtures("one_thread")

EOS, PAD = 22, 23
PROMPTS = [[3, 7], [1, 2, 3, 4, 5, 6, 7], [9], [4, 4, 4, 8], [10, 11], [2, 9, 1], [12], [5, 5]]
KINDS = ["gpt2", "qwen3"]
Build = Callable[..., Any]


def settings(**changes: Any) -> PPOConfig:
    base: dict[str, Any] = {
        "total_episodes": 32,
        "batch_size": 16,
        "num_mini_batches": 2,
        "num_ppo_epochs": 2,
        "prompt_length": 8,
        "response_length": 10,
        "learning_rate": 1e-2,
        "value_learning_rate": 1e-2,
        "stop_token_ids": (EOS, 0, 1),
        "temperature": 1.0,
        "missing_eos_penalty": 1.0,
        "lr_floor": 0.1,
        "cpu": True,
    }
    return PPOConfig(**(base | changes))


@pytest.fixture
def make(causal_lm: Build, reward_model: Build) -> Callable[..., PPOTrainer]:
    def build(kind: str = "qwen3", reward: Any = None, prompts: Any = PROMPTS, **changes: Any) -> PPOTrainer:
        extra = {
            key: changes.pop(key)
            for key in ("tokenizer", "value", "reference", "eval_hook", "callbacks")
            if key in changes
        }
        reward = reward_model(kind) if reward is None else reward
        return PPOTrainer(causal_lm(kind), reward, prompts, settings(**changes), **extra)

    return build


Make = Callable[..., PPOTrainer]


def weights_of(trainer: PPOTrainer) -> list[torch.nn.Parameter]:
    return [*trainer.policy.parameters(), *trainer.value.parameters()]


def weights(trainer: PPOTrainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in weights_of(trainer)]


def distance(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True))


def untimed(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in metrics.items() if not k.startswith("time/") and k != "eps"} for metrics in history]


# ---- what a rollout holds ----


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


# ---- invariances ----


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


PROCESSES = """
import os, sys
import torch
from rlhf import PPOConfig, PPOTrainer
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
folder, prompts = sys.argv[1], PROMPTS
config = PPOConfig(batch_size=16, num_mini_batches=2, micro_batch_size=3, num_ppo_epochs=2, total_episodes=64,
    response_length=10, temperature=1.0, learning_rate=1e-3, stop_token_ids=(22, 0, 1), missing_eos_penalty=1.0,
    cpu=True)
policy = AutoModelForCausalLM.from_pretrained(folder + "/policy")
trainer = PPOTrainer(policy, folder + "/reward", prompts, config)
count = trainer.accelerator.num_processes
trainer.step()
trainer.step()
trainer.save_state(f"{folder}/state{count}")
trainer.step()
trainer.load_state(f"{folder}/state{count}")
responses = trainer.rollout().responses
trainer.load_state(f"{folder}/state{count}")
history = trainer.train()
if trainer.accelerator.is_main_process:
    models = {"policy": trainer.policy.state_dict(), "value": trainer.value.state_dict()}
    torch.save({**models, "responses": responses, "history": history}, f"{folder}/{count}.pt")
trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
os._exit(0)  # all is written; gloo's threads now and then abort a process that ends in the ordinary way
"""


def launched(count: int, script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The script in so many processes, on one thread each."""
    launch = [] if count == 1 else ["-m", "torch.distributed.run", f"--nproc-per-node={count}", "--standalone"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, str(script), *map(str, arguments)]
    return subprocess.run(
        command, env=environment, cwd=script.parent, capture_output=True, text=True, check=False, timeout=120
    )


def test_two_processes_do_what_one_does(causal_lm: Build, reward_model: Build, tmp_path: Path) -> None:
    """The same responses, minibatches, figures and weights, but for the order in which numbers are added up."""
    causal_lm("gpt2").save_pretrained(tmp_path / "policy")
    reward_model("gpt2").save_pretrained(tmp_path / "reward")
    script = tmp_path / "script.py"
    script.write_text(PROCESSES.replace("PROMPTS", str(PROMPTS)))
    for count in (1, 2):
        done = launched(count, script, tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{count}.pt") for count in (1, 2))
    assert two["responses"] == one["responses"]
    assert len(one["history"]) == len(two["history"]) == 4
    for first, second in zip(untimed(one["history"]), untimed(two["history"]), strict=True):
        assert second == pytest.approx(first, abs=1e-4, rel=1e-3)
    for model in ("policy", "value"):
        for name, weight in one[model].items():
            torch.testing.assert_close(two[model][name], weight, atol=2e-5, rtol=1e-4)


FAILING = """
import os, sys
from data.console import run_command
from rlhf import PPOConfig, PPOTrainer
folder, where = sys.argv[1:]
rank = int(os.environ["RANK"])

def fails(place, update):
    if place == where and rank == 1 and update == 2:
        raise ValueError("out of luck")

def reward(prompts, responses):
    fails("reward", trainer.updates_done + 1)
    return [float(len(response)) for response in responses]

def train():
    trainer.train()

config = PPOConfig(batch_size=4, total_episodes=16, response_length=4, cpu=True, output_dir=f"{folder}/{where}")
hook = lambda trainer, metrics: fails("callback", trainer.updates_done)
trainer = PPOTrainer(f"{folder}/policy", reward, ["ab", "c"], config, callbacks=[hook])
run_command(train)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["reward", "callback"])
def test_what_fails_in_one_process_ends_all(causal_lm: Build, tokenizer: Any, tmp_path: Path, where: str) -> None:
    """At once, in one line and the traceback of what failed, and with what was learned."""
    causal_lm("gpt2").save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    script = tmp_path / "script.py"
    script.write_text(FAILING)
    done = launched(2, script, tmp_path, where)
    assert done.returncode != 0
    saved = f"saved in {tmp_path / where}/last_good"
    line = f"error: process 1 failed (ValueError: out of luck): see its traceback; {saved}"
    assert line in done.stderr.splitlines()
    assert "\nValueError: out of luck\n" in done.stderr
    assert (tmp_path / where / "last_good" / "model.safetensors").is_file()


# ---- control, errors ----


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


# ---- saving ----


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


# ---- learning ----


def test_the_value_model_learns_what_to_expect(causal_lm: Build, tokenizer: Any) -> None:
    """A frozen policy and a score that the prompt decides: the value comes to explain nearly all of it."""

    def by_prompt(prompts: list[str], responses: list[str]) -> list[float]:
        return [1.0 if p == "c" else -1.0 for p in prompts]

    config = settings(total_episodes=32 * 14, batch_size=32, learning_rate=0.0, missing_eos_penalty=0.0)
    trainer = PPOTrainer(causal_lm("qwen3", std=0.05), by_prompt, ["c", "d"], config, tokenizer=tokenizer)
    explained = [metrics["val/explained_variance"] for metrics in trainer.train()]
    assert explained[0] == pytest.approx(0, abs=0.05)
    assert explained[-1] > 0.9, explained
