"""What callbacks may do, and that every metric arrives where `report_to` says."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import tracking
from transformers import PreTrainedModel, TrainerCallback

from data.console import UserError
from data.jsonl import read_jsonl
from rlhf.ppo.trainer import PPOConfig, PPOTrainer

pytestmark = pytest.mark.usefixtures("one_thread")

Build = Callable[..., PreTrainedModel]
Make = Callable[..., PPOTrainer]


@pytest.fixture
def make(causal_lm: Build, reward_model: Build) -> Make:
    def build(callbacks: Any = (), eval_hook: Any = None, **changes: Any) -> PPOTrainer:
        base: dict[str, Any] = {"total_episodes": 24, "batch_size": 4, "response_length": 4, "cpu": True}
        models = causal_lm("qwen3"), reward_model("qwen3")
        return PPOTrainer(*models, [[1, 2], [3]], PPOConfig(**base | changes), callbacks=callbacks, eval_hook=eval_hook)

    return build


def untimed(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if not k.startswith("time/") and k != "eps"} for line in history]


# ---- callbacks ----


def test_callbacks_come_in_order_and_may_add_figures(make: Make) -> None:
    seen: list[tuple[int, float]] = []

    def add(trainer: PPOTrainer, metrics: dict[str, float]) -> None:
        metrics["mine/updates"] = float(trainer.updates_done)

    def look(trainer: PPOTrainer, metrics: dict[str, float]) -> None:
        seen.append((trainer.updates_done, metrics["mine/updates"]))

    history = make([add, look]).train()
    assert seen == [(i, float(i)) for i in range(1, 7)]
    assert [line["mine/updates"] for line in history] == [1, 2, 3, 4, 5, 6]


def test_what_is_no_list_of_functions_is_refused_before_the_run(make: Make) -> None:
    for callbacks in (print, ["print"], [TrainerCallback()], [lambda trainer: None]):
        with pytest.raises(UserError, match=r"callbacks are a list of functions \(trainer, metrics\), not"):
            make(callbacks=callbacks)
    hooks: list[Any] = ["eval", lambda trainer, metrics: None]
    for hook in hooks:
        with pytest.raises(UserError, match=r"eval_hook is a function \(trainer\) that returns a dict of numbers, not"):
            make(eval_hook=hook)


def test_settings_of_another_trainer_are_refused(causal_lm: Build, reward_model: Build) -> None:
    with pytest.raises(UserError, match=r"config is a dict: give an rlhf\.PPOConfig"):
        PPOTrainer(causal_lm("gpt2"), reward_model("gpt2"), [[1]], {"batch_size": 4})  # type: ignore[arg-type]


def test_a_callback_stops_the_run_and_another_goes_on(make: Make, tmp_path: Path) -> None:
    whole = make().train()

    def stop_after_four(trainer: PPOTrainer, metrics: dict[str, float]) -> None:
        if trainer.updates_done == 4:
            trainer.stop()

    stopped = make([stop_after_four], save_every=3, output_dir=tmp_path)
    assert untimed(stopped.train()) == untimed(whole[:4])
    resumed = make(save_every=3, output_dir=tmp_path)
    resumed.load_state(tmp_path / "resume")
    assert resumed.updates_done == 4, "where it is saved at all, it is saved when it stops"
    assert untimed(resumed.train()) == untimed(whole)
    assert untimed(stopped.train()) == untimed(whole), "train() once more goes on where it stopped"


@pytest.mark.parametrize("added", [None, {}, {"mine": np.float32(0.5)}, {"mine": torch.tensor([0.5]), "yes": True}])
def test_hooks_give_numbers_of_any_library_or_nothing(make: Make, added: Any) -> None:
    def add(trainer: PPOTrainer, metrics: dict[str, Any]) -> Any:
        metrics.update(added or {})
        return trainer  # as callbacks of other trainers return what they got

    expected = {name: float(value) for name, value in (added or {}).items()}
    for trainer in (make([add], total_episodes=4), make(total_episodes=4, eval_hook=lambda _: added)):
        (line,) = trainer.train()
        assert {name: line[name] for name in expected} == expected
        assert all(type(value) is float for value in line.values())


@pytest.mark.parametrize(
    "added", [{"mine": "high"}, {"mine": None}, {"mine": [1.0]}, {"mine": np.ones(2)}, {1: 2.0}, 0.5, np.ones(2)]
)
def test_what_is_no_number_is_one_line_and_loses_nothing(make: Make, tmp_path: Path, added: Any) -> None:
    """After the first update the policy is saved, and so may be the state: nothing that is no number is in the log."""

    def hook(trainer: PPOTrainer) -> Any:
        return added if trainer.updates_done == 2 else None

    trainer = make(eval_hook=hook, eval_every=1, output_dir=tmp_path)
    with pytest.raises(UserError, match=r"^eval_hook (gave|returned) .*give numbers only|return a dict") as caught:
        trainer.train()
    assert str(caught.value).endswith(f"; saved in {tmp_path}/last_good")
    assert (tmp_path / "last_good" / "model.safetensors").exists()
    trainer.save_state(tmp_path / "state")
    assert len(trainer.log_history) == 2
    assert all(type(value) is float for line in trainer.log_history for value in line.values())


def test_an_error_of_the_users_own_leaves_the_policy_too(make: Make, tmp_path: Path) -> None:
    def fail(trainer: PPOTrainer, metrics: dict[str, float]) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        make([fail], output_dir=tmp_path).train()
    assert caught.value.__notes__ == [f"The policy is saved in {tmp_path}/last_good."]
    assert (tmp_path / "last_good" / "config.json").exists()


# ---- trackers ----


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """tag -> (update, value), of all event files of a run."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def tensorboard_texts(folder: Path, tag: str) -> list[str]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return [event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)]


def test_tensorboard_gets_every_metric_of_every_update(make: Make, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    options = {"output_dir": tmp_path, "report_to": "tensorboard", "project": "mine", "save_every": 4}
    history = make(**options).train()
    written = scalars(tmp_path / "mine")
    assert written.keys() == history[0].keys()
    for tag, values in written.items():
        assert [update for update, _ in values] == [1, 2, 3, 4, 5, 6]
        assert [value for _, value in values] == pytest.approx([line[tag] for line in history], rel=1e-6), tag
    texts = tensorboard_texts(tmp_path / "mine", "samples/text_summary")
    assert len(texts) == 6
    assert texts[0].splitlines()[:2] == ["| prompt | response | score | stopped |", "| --- | --- | --- | --- |"]
    assert len(texts[0].splitlines()) == 6
    (hyperparameters,) = (tmp_path / "mine").glob("*/hparams.yml")
    assert "learning_rate: 3.0e-06" in hyperparameters.read_text()
    # A run that is resumed after four updates writes the fifth and the sixth anew, in the place of the old.
    resumed = make(**options)
    resumed.train(resume_from=tmp_path / "resume")
    assert [update for update, _ in scalars(tmp_path / "mine")["lr"]] == [1, 2, 3, 4, 5, 6]


def test_wandb_and_trackio_get_name_and_metrics(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """These two send their figures away: a stand-in for the package notes what it is told."""
    for name in ("wandb", "trackio"):
        told: list[Any] = []
        run = SimpleNamespace(
            log=lambda values, step=None, told=told, **_: told.append((step, values.get("episode", values))),
            finish=lambda told=told: told.append("finish"),
        )
        package = SimpleNamespace(
            Table=lambda columns=None, data=None, dataframe=None: len(data if dataframe is None else dataframe),
            init=lambda run=run, told=told, **options: (told.append(options), run)[1],
            config=SimpleNamespace(update=lambda values, told=told, **_: told.append(values["kl_coef"])),
            finish=run.finish,
        )
        monkeypatch.setitem(sys.modules, name, package)
        available = [tracking.LoggerType(name)]
        for module in (tracking, sys.modules["rlhf.ppo.trackers"]):
            monkeypatch.setattr(module, "get_available_trackers", lambda available=available: available)
        make(report_to=(name,), run_name="first", total_episodes=8).train()
        updates = [(step, logged) for step in (1, 2) for logged in (4.0 * step, {"samples": 4})]
        assert told == [{"project": "ppo", "name": "first"}, 0.05, *updates, "finish"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"report_to": "tensorbord"}, "report_to names 'tensorbord': choose from .*tensorboard"),
        ({"report_to": ["comet_ml"]}, "comet_ml, which is not installed: pip install comet-ml"),
        ({"report_to": ("tensorboard",)}, "writes to a folder: set output_dir"),
    ],
)
def test_trackers_that_cannot_be_used(make: Make, changes: dict[str, Any], message: str) -> None:
    if changes["report_to"] == ("tensorboard",):
        pytest.importorskip("tensorboard")
    with pytest.raises(UserError, match=message):
        make(**changes)


def test_none_is_none(make: Make) -> None:
    assert make(report_to="none").accelerator.log_with == []
    one_name: Any = "wandb"  # as other trainers write it
    assert PPOConfig(report_to=one_name).report_to == ("wandb",)


# ---- rollouts.jsonl ----


def test_episodes_that_cannot_be_written_do_not_end_the_run(make: Make, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "rollouts.jsonl").mkdir()
    assert len(make(output_dir=tmp_path, save_rollouts=True).train()) == 6
    said = "".join(capsys.readouterr().err.split())  # a long path is broken anywhere
    assert "rollouts.jsonl(Isadirectory):freesomespace;trainingcontinues" in said


def test_every_episode_is_written_once(make: Make, tmp_path: Path) -> None:
    """Also where a run is stopped in between and resumed, and where an older run left its own."""
    (tmp_path / "rollouts.jsonl").write_text('{"update": 1}\n')
    whole = make(output_dir=tmp_path, save_rollouts=True, save_every=3)
    history = whole.train()
    lines = read_jsonl(tmp_path / "rollouts.jsonl", {"update": int, "prompt": str, "response": str})
    assert [line["update"] for line in lines] == [update for update in range(1, 7) for _ in range(4)]
    for update, metrics in enumerate(history, start=1):
        rows = [line for line in lines if line["update"] == update]
        for name, metric in (("score", "reward_scores"), ("kl", "kl"), ("stopped", "stopped")):
            assert sum(row[name] for row in rows) / 4 == pytest.approx(metrics[f"objective/{metric}"], abs=1e-6)
    assert [row["prompt"] for row in lines[-4:]] == [sample["prompt"] for sample in whole.samples]
    assert [row["response"] for row in lines[-4:]] == [sample["response"] for sample in whole.samples]
    resumed = make(output_dir=tmp_path, save_rollouts=True, save_every=3)
    resumed.load_state(tmp_path / "resume")
    resumed.updates_done = 3
    resumed.step()
    written = read_jsonl(tmp_path / "rollouts.jsonl", {"update": int})
    assert written[:12] == lines[:12]
    assert [line["update"] for line in written[12:]] == [4] * 4
