"""What a run can be resumed from, what is refused, and where nothing can be saved. (That it equals never having stopped
is in test_ppo.py.)"""

import errno
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator
from safetensors import SafetensorError
from transformers import GPT2LMHeadModel, PretrainedConfig, PreTrainedModel

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


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken(*_: Any, **__: Any) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("failure", [no_space, broken])
@pytest.mark.parametrize("what", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_that_cannot_be_written_leaves_the_older_one_and_is_somewhere_else(
    make: Make, causal_lm: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Any, what: str
) -> None:
    """Whatever part of it fails, and however the library says so."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    folder = tmp_path / "mine"
    trainer = make()
    trainer.save(folder)
    (folder / "notes.txt").write_text("kept")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    parts: dict[str, tuple[Any, str]] = {
        "config.json": (PretrainedConfig, "save_pretrained"),
        "model.safetensors": (transformers.modeling_utils, "safe_save_file"),
        "tokenizer.json": (type(trainer.tokenizer), "save_pretrained"),
    }
    failed: list[Any] = []
    owner, name = parts[what]
    working = getattr(owner, name)

    def once(*args: Any, **kwargs: Any) -> Any:
        failed.append(args)
        return failure() if len(failed) == 1 else working(*args, **kwargs)

    monkeypatch.setattr(owner, name, once)
    trainer.step()
    with pytest.raises(
        UserError, match=rf"cannot save into {folder} \(.*No space left on device.*\), so it is in"
    ) as caught:
        trainer.save(folder)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (rescued,) = (tmp_path / "temporary").iterdir()
    assert str(rescued) in str(caught.value)
    saved = GPT2LMHeadModel.from_pretrained(rescued)
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), trainer.policy.lm.parameters(), strict=True))
    # Where there is no room for it either, the trainer still has it.
    monkeypatch.setattr(owner, name, failure)
    with pytest.raises(UserError, match=r"No space left on device.*: free some space or choose another folder"):
        trainer.save(folder)
    assert list((tmp_path / "temporary").iterdir()) == [rescued]
    monkeypatch.setattr(owner, name, working)
    trainer.save(folder)
    again = GPT2LMHeadModel.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), trainer.policy.lm.parameters(), strict=True))
    assert (folder / "notes.txt").read_text() == "kept"


def test_weights_of_a_larger_model_that_was_there_are_not_read_again(
    make: Make, causal_lm: Build, tmp_path: Path
) -> None:
    causal_lm("gpt2", seed=9).save_pretrained(tmp_path, max_shard_size="50KB")
    (tmp_path / "pytorch_model.bin").write_bytes(b"older")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    trainer = make()
    trainer.save(tmp_path)
    assert [path.name for path in tmp_path.glob("*model*")] == ["model.safetensors"]
    saved = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), trainer.policy.lm.parameters(), strict=True))


def test_a_state_that_cannot_be_written_does_not_end_the_run(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make(output_dir=tmp_path, save_every=1)
    trainer.step()
    good = (tmp_path / "resume" / "state.pt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", no_space)
        trainer.train()
    assert trainer.updates_done == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"update 2: cannot save into {tmp_path}/resume (No space left on device)" in said
    assert said.endswith("training continues")
    assert (tmp_path / "resume" / "state.pt").read_bytes() == good
    assert [path.name for path in tmp_path.iterdir()] == ["resume"], "what was begun takes no room"


def test_a_folder_that_is_gone_is_made_again_and_one_that_cannot_be_written_is_refused_at_once(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(output_dir=tmp_path / "run", save_every=1)
    shutil.rmtree(tmp_path / "run")
    trainer.train()
    assert (tmp_path / "run" / "resume" / "state.pt").exists()

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(UserError, match=r"cannot save into .* \(Read-only file system\): choose another folder"):
        make(output_dir=tmp_path / "run")


def test_a_run_that_fails_says_so_though_its_model_cannot_be_saved(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(trainer: PPOTrainer, metrics: dict[str, float]) -> None:
        raise UserError("enough")

    monkeypatch.setattr(transformers.modeling_utils, "safe_save_file", no_space)
    with pytest.raises(UserError, match=r"^enough; cannot save into .*last_good \(No space left on device\): free"):
        make(output_dir=tmp_path, callbacks=[fail]).train()


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
