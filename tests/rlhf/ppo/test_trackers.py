"""What callbacks may do, and that every metric arrives where `report_to` says."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import tracking
from transformers import PreTrainedModel, TrainerCallback

from data.console import UserError
from rlhf.ppo.trainer import PPOConfig, PPOTrainer

pytestmark = pytest.mark.usefixtures("one_thread")

Build = Callable[..., PreTrainedModel]
Make = Callable[..., PPOTrainer]


@pytest.fixture
def make(causal_lm: Build, reward_model: Build) -> Make:
    def build(callbacks: Any = (), **changes: Any) -> PPOTrainer:
        base: dict[str, Any] = {"total_episodes": 24, "batch_size": 4, "response_length": 4, "cpu": True}
        models = causal_lm("qwen3"), reward_model("qwen3")
        return PPOTrainer(*models, [[1, 2], [3]], PPOConfig(**base | changes), callbacks=callbacks)

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
    for callbacks in (print, ["print"], [TrainerCallback()]):
        with pytest.raises(UserError, match=r"callbacks are a list of functions \(trainer, metrics\), not"):
            make(callbacks=callbacks)


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


# ---- trackers ----


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """tag -> (update, value), of all event files of a run."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_gets_every_metric_of_every_update(make: Make, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    options = {"output_dir": tmp_path, "report_to": "tensorboard", "project": "mine", "save_every": 4}
    history = make(**options).train()
    written = scalars(tmp_path / "mine")
    assert written.keys() == history[0].keys()
    for tag, values in written.items():
        assert [update for update, _ in values] == [1, 2, 3, 4, 5, 6]
        assert [value for _, value in values] == pytest.approx([line[tag] for line in history], rel=1e-6), tag
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
            log=lambda values, step=None, told=told, **_: told.append((step, values["episode"])),
            finish=lambda told=told: told.append("finish"),
        )
        package = SimpleNamespace(
            init=lambda run=run, told=told, **options: (told.append(options), run)[1],
            config=SimpleNamespace(update=lambda values, told=told, **_: told.append(values["kl_coef"])),
            finish=run.finish,
        )
        monkeypatch.setitem(sys.modules, name, package)
        available = [tracking.LoggerType(name)]
        for module in (tracking, sys.modules["rlhf.ppo.trackers"]):
            monkeypatch.setattr(module, "get_available_trackers", lambda available=available: available)
        make(report_to=(name,), run_name="first", total_episodes=8).train()
        assert told == [{"project": "ppo", "name": "first"}, 0.05, (1, 4.0), (2, 8.0), "finish"]


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
