"""Evaluation on prompts of its own, and the best policy."""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from data.console import UserError
from rlhf.ppo.evaluation import evaluate
from rlhf.ppo.trainer import PPOConfig, PPOTrainer

pytestmark = pytest.mark.usefixtures("one_thread")

Build = Callable[..., PreTrainedModel]
Make = Callable[..., PPOTrainer]
HELD_OUT = ["abc", "hg", "d", "ee", "fabcd"]


@pytest.fixture
def make(causal_lm: Build, reward_model: Build, tokenizer: Any) -> Make:
    def build(eval_prompts: Any = HELD_OUT, **changes: Any) -> PPOTrainer:
        base: dict[str, Any] = {"total_episodes": 20, "batch_size": 4, "response_length": 6, "eval_every": 2}
        base |= {"learning_rate": 3e-3, "missing_eos_penalty": 0.5, "temperature": 1.0, "cpu": True}
        models = causal_lm("qwen3"), reward_model("qwen3")
        options: Any = {"tokenizer": tokenizer, "reference": causal_lm("qwen3", seed=7), "eval_prompts": eval_prompts}
        return PPOTrainer(*models, ["ab", "c"], PPOConfig(**base | changes), **options)

    return build


def untimed(history: list[dict[str, float]]) -> list[dict[str, float]]:
    unequal = ("time/", "eval/", "eps")
    return [{k: v for k, v in line.items() if not k.startswith(unequal)} for line in history]


def test_reward_and_kl_on_held_out_prompts(make: Make) -> None:
    trainer = make(kl_coef=0.3)
    metrics = evaluate(trainer, trainer.eval_prompts)
    assert metrics == evaluate(trainer, trainer.eval_prompts), "the same random numbers each time"
    noise = torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(trainer.config.seed + 2))
    responses = trainer.experience.sample(trainer.policy, trainer.eval_prompts, noise)
    kls, scores = [], trainer.scorer(trainer.eval_prompts, responses)
    for prompt, response in zip(trainer.eval_prompts, responses, strict=True):
        ids = torch.tensor([[*prompt, *response]])
        with torch.no_grad():
            models = (trainer.policy.lm, trainer.reference.lm)
            ours, theirs = (model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for model in models)
        chosen = torch.tensor(response)[:, None]
        kls.append((ours - theirs).gather(1, chosen).sum().item())
    expected = {
        "eval/reward": scores.raw.mean().item(),
        "eval/kl": fmean(kls),
        "eval/rlhf_reward": scores.scores.mean().item() - 0.3 * fmean(kls),
        "eval/stopped": scores.stopped.float().mean().item(),
        "eval/response_length": fmean(map(len, responses)),
    }
    assert metrics == pytest.approx(expected, abs=1e-4)


def test_it_is_logged_when_it_is_due_and_disturbs_nothing(make: Make) -> None:
    history = make().train()
    assert [update for update, line in enumerate(history, start=1) if "eval/kl" in line] == [2, 4, 5]
    assert len({line["eval/reward"] for line in history if "eval/reward" in line}) == 3, "the policy as it is"
    assert untimed(history) == untimed(make(eval_prompts=None).train())


def test_the_best_policy_is_kept_and_the_bar_survives_a_resume(make: Make, tmp_path: Path) -> None:
    """A policy that learns too fast is at its best before the end."""
    weights: dict[int, list[torch.Tensor]] = {}

    def keep(trainer: PPOTrainer, metrics: dict[str, float]) -> None:
        weights[trainer.updates_done] = [p.detach().clone() for p in trainer.policy.lm.parameters()]

    trainer = make(save_best=True, output_dir=tmp_path, save_every=1, eval_every=1, learning_rate=3e-2, lr_floor=1.0)
    trainer.callbacks.append(keep)
    rewards = [line["eval/rlhf_reward"] for line in trainer.train()]
    best = max(range(5), key=rewards.__getitem__) + 1
    assert trainer.best == max(rewards)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "best")
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), weights[best], strict=True))
    assert not list(tmp_path.glob(".*")), "no half of a folder"
    resumed = make(save_best=True, output_dir=tmp_path, save_every=1, eval_every=1, learning_rate=3e-2, lr_floor=1.0)
    resumed.load_state(tmp_path / "resume")
    assert resumed.best == trainer.best


def test_the_best_needs_prompts(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="save_best needs eval_prompts, on which a policy is the best: give"):
        make(eval_prompts=None, save_best=True, output_dir=tmp_path)
    with pytest.raises(UserError, match="there are no prompts"):
        make(eval_prompts=[])
