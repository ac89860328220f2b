"""Distillation: the target by hand, the runs that come first, and stopping in the midst of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pretrain.train
from data.console import UserError
from pretrain.config import PretrainConfig
from pretrain.model import GPT, GPTConfig
from pretrain.presets import PRESETS
from pretrain.train import Pretraining
from pretrain.train import pretrain as train
from pretrain.training.teachers import mean_prediction, teacher_configs


def test_the_loss_against_what_teachers_expect_by_hand() -> None:
    shape = GPTConfig(vocab_size=7, context_length=4, width=8, layers=1, heads=1, feed_forward=8)
    torch.manual_seed(0)
    pupil, *teachers = (GPT(shape).eval() for _ in range(3))
    for model in (pupil, *teachers):
        torch.nn.init.normal_(model.embedding.weight)
    ids = torch.tensor([[1, 2, 3, 4]])
    expected = mean_prediction(teachers, ids)
    with torch.no_grad():
        own = pupil(ids).log_softmax(-1)
        first, second = (teacher(ids).softmax(-1) for teacher in teachers)
        loss = pupil(ids, expected)
    assert torch.allclose(expected, (first + second) / 2)
    by_hand = -sum(
        (first[0, t, v] + second[0, t, v]).item() / 2 * own[0, t, v].item() for t in range(4) for v in range(7)
    )
    assert loss.item() == pytest.approx(by_hand / 4, rel=1e-5)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretrainConfig:
    text = tmp_path / "text.txt"
    text.write_text("the king gives the queen a sword and takes a crown from the queen.\n" * 120, "utf-8")
    tiny = PretrainConfig(
        width=16,
        layers=1,
        heads=1,
        feed_forward=16,
        context_length=16,
        steps=8,
        batch_size=4,
        eval_every=4,
        save_every=3,
        sample_tokens=4,
        precision="fp32",
    )
    monkeypatch.setitem(PRESETS, "tiny", ("for this test", tiny))
    changes: dict[str, Any] = {"corpus": str(text), "vocab_size": 280, "width": 32, "heads": 2, "steps": 12}
    return replace(tiny, **changes, teachers=2, teacher_preset="tiny", run=tmp_path / "run")


def weights(run: Path) -> bytes:
    return (run / "pretrain" / "model.safetensors").read_bytes()


def test_teachers_come_first_and_a_stop_in_one_of_them_changes_nothing(
    config: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config, "test")
    first, second = (weights(config.run / "teachers" / name) for name in ("1", "2"))
    assert first != second
    lines = (config.run / "pretrain" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["train_nats_per_token"] < json.loads(lines[0])["train_nats_per_token"]

    stopped = replace(config, run=tmp_path / "stopped")
    learn, runs = pretrain.train.Pretraining.step, []

    def stop_in_the_second(self: Pretraining) -> None:
        if self.progress.step == 5 and "2" in self.config.run.name:
            runs.append(self)
            raise KeyboardInterrupt
        learn(self)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain.train.Pretraining, "step", stop_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            train(stopped, "test")
    assert runs
    train(replace(stopped, resume=True), "test")
    assert weights(stopped.run) == weights(config.run)
    assert weights(stopped.run / "teachers" / "2") == second


def test_teachers_of_another_kind_are_not_taken(config: PretrainConfig) -> None:
    train(config, "test")
    changed = replace(config, seed=5)
    with pytest.raises(UserError, match="teachers/1/pretrain was made with other settings: add --overwrite"):
        train(changed, "test")
    before = weights(config.run / "teachers" / "1")
    train(replace(changed, overwrite=True), "test")
    assert weights(config.run / "teachers" / "1") != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": -1}, "teachers must not be negative"),
        ({"teacher_preset": "socrates"}, "no preset is called socrates"),
        ({"context_length": 24}, "preset tiny cannot teach"),
    ],
)
def test_who_cannot_teach_is_refused(config: PretrainConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(replace(config, **changes), "test")
    assert not config.run.exists()
    with pytest.raises(UserError, match="learns without teachers"):
        teacher_configs(replace(config, family="one-head"))
