"""What a run can be resumed from, what is refused, and where nothing can be saved. (That it equals never having stopped
is in test_ppo.py.)"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from data.console import UserError
from data.jsonl import write_jsonl
from rlhf.ppo.trainer import PPOConfig, PPOTrainer

pytestmark = pytest.mark.usefixtures("one_thread")

Build = Callable[..., PreTrainedModel]
Make = Callable[..., PPOTrainer]


@pytest.fixture
def make(causal_lm: Build, reward_model: Build, tokenizer: Any) -> Make:
    def build(
        policy: int = 0,
        callbacks: Any = (),
        reference: Any = None,
        reward: Any = None,
        prompts: Any = ((1, 2), (3,)),
        **changes: Any,
    ) -> PPOTrainer:
        """policy: the seed of its weights."""
        base: dict[str, Any] = {"total_episodes": 8, "batch_size": 4, "response_length": 4, "cpu": True}
        models = causal_lm("gpt2", seed=policy), reward or reward_model("gpt2")
        config = PPOConfig(**base | changes)
        return PPOTrainer(*models, prompts, config, tokenizer=tokenizer, reference=reference, callbacks=callbacks)

    return build


@pytest.mark.parametrize("figure", [np.float64(2), np.float32(2), torch.tensor(2.0), np.mean([1, 3]), True])
def test_figures_of_callbacks_come_back_as_numbers(make: Make, tmp_path: Path, figure: Any) -> None:
    def add(trainer: PPOTrainer, metrics: dict[str, Any]) -> None:
        metrics["mine"] = figure

    trainer = make(callbacks=[add])
    trainer.step()
    trainer.save_state(tmp_path / "state")
    resumed = make()
    resumed.load_state(tmp_path / "state")
    assert resumed.log_history == trainer.log_history
    assert type(resumed.log_history[0]["mine"]) is float


def test_another_policy_or_reference_is_refused(make: Make, causal_lm: Build, tmp_path: Path) -> None:
    """Their shapes fit, but the KL would be measured from elsewhere."""
    trainer = make()
    trainer.step()
    trainer.save_state(tmp_path / "state")
    for other in (make(policy=1), make(reference=causal_lm("gpt2", seed=1))):
        with pytest.raises(UserError, match="from another policy or reference: give the models that it began with"):
            other.load_state(tmp_path / "state")
    make(policy=1, reference=causal_lm("gpt2")).load_state(tmp_path / "state")


def test_a_folder_that_holds_no_whole_state_changes_nothing(make: Make, tmp_path: Path) -> None:
    trainer = make(output_dir=tmp_path, save_every=1)
    trainer.step()
    trainer = make()
    before = [weight.clone() for weight in trainer.policy.parameters()]
    state = tmp_path / "resume"
    (state / "random_0.pt").unlink()
    for folder in (state, tmp_path, state / "state.pt"):
        with pytest.raises(UserError, match=r"no training state at .*give the folder that save_state wrote"):
            trainer.train(resume_from=folder)
    assert trainer.updates_done == 0
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.policy.parameters(), strict=True))


def test_where_nothing_can_be_saved_is_said_before_anything_is_lost(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    for folder in (file, file / "below"):
        with pytest.raises(UserError, match=r"cannot save into .*choose another folder"):
            make(output_dir=folder)
        trainer = make()
        for save in (trainer.save, trainer.save_state):
            with pytest.raises(UserError, match=r"cannot save into .*choose another folder"):
                save(folder)
    assert file.read_text() == "kept"


@pytest.mark.parametrize(
    "draw",
    [random.random, np.random.rand, lambda: torch.rand(()).item()],
    ids=["python", "numpy", "torch"],
)
def test_a_reward_that_draws_lots_goes_on_with_the_same(make: Make, tmp_path: Path, draw: Callable[[], float]) -> None:
    def lots(prompts: list[str], responses: list[str]) -> list[float]:
        return [draw() for _ in responses]

    whole = make(reward=lots)
    whole.step()
    whole.save_state(tmp_path / "state")
    after = whole.step()["objective/reward_scores"]
    resumed = make(reward=lots)
    resumed.load_state(tmp_path / "state")
    assert resumed.step()["objective/reward_scores"] == after


def test_each_process_has_random_numbers_of_its_own(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make()
    trainer.save_state(tmp_path / "first")
    monkeypatch.setattr(Accelerator, "process_index", property(lambda _: 1))
    with pytest.raises(UserError, match=r"no training state at .*first/random_1\.pt"):
        trainer.load_state(tmp_path / "first")
    trainer.save_state(tmp_path / "second")
    assert {path.name for path in (tmp_path / "second").iterdir()} == {"state.pt", "random_1.pt"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"processes": 2}, "of a run on 2 processes, this one has 1: launch as many"),
        ({"version": 0}, "written by another version"),
    ],
)
def test_what_another_launch_wrote_is_refused(make: Make, tmp_path: Path, entry: dict[str, int], message: str) -> None:
    trainer = make()
    trainer.save_state(tmp_path / "state")
    path = tmp_path / "state" / "state.pt"
    torch.save(torch.load(path) | entry, path)
    with pytest.raises(UserError, match=message):
        trainer.load_state(tmp_path / "state")


def test_prompts_in_another_order_are_other_prompts(make: Make, tmp_path: Path) -> None:
    make().save_state(tmp_path / "state")
    with pytest.raises(UserError, match="of a run on other prompts"):
        make(prompts=[[3], [1, 2]]).load_state(tmp_path / "state")


@pytest.mark.parametrize("changes", [{"learning_rate": 1e-4}, {"kl_coef": 0.3}, {"total_episodes": 12}])
def test_settings_that_alter_what_is_learned_must_be_the_same(
    make: Make, tmp_path: Path, changes: dict[str, float]
) -> None:
    make().save_state(tmp_path / "state")
    make(micro_batch_size=2, log_samples=1).load_state(tmp_path / "state")
    with pytest.raises(UserError, match=f"of a run with {next(iter(changes))}="):
        make(**changes).load_state(tmp_path / "state")


def test_home_is_home_wherever_the_trainer_takes_a_path(
    causal_lm: Build, reward_model: Build, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, model in (("policy", causal_lm("gpt2")), ("reward", reward_model("gpt2"))):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    write_jsonl("~/prompts.jsonl", [{"prompt": "abc"}, {"prompt": "d"}])
    config = PPOConfig(
        total_episodes=8, batch_size=4, response_length=4, output_dir=Path("~/run"), save_every=1, cpu=True
    )
    roles: Any = {"reference": "~/policy", "value": "~/reward"}
    trainer = PPOTrainer("~/policy", [("~/reward", 1.0)], "~/prompts.jsonl", config, **roles)
    trainer.step()
    trainer.save("~/aligned")
    trainer.save_state("~/state")
    for folder in ("~/state", "~/run/resume"):
        trainer.load_state(folder)
    assert trainer.updates_done == 1
    made = {"policy", "reward", "prompts.jsonl", "run", "aligned", "state"}
    assert {path.name for path in tmp_path.iterdir()} == made
    with pytest.raises(UserError, match="resume_from is True: give the folder that save_state wrote"):
        trainer.train(resume_from=True)  # type: ignore[arg-type]
