"""What the trainers of trl share: a training that ends where its loss does, and says nothing to anyone."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import GRPOTrainer, RewardTrainer, RLOOTrainer, SFTTrainer

from data.console import UserError
from data.run.folder import open_stage
from data.run.options import StageOptions
from data.run.progress import progress_bar
from data.run.record import read_metrics
from reward.training.trainer import RankingTrainer
from rlhf.algorithms.trl_trainers import LoggedGRPO, LoggedRLOO
from sft.config import FineTuneConfig
from sft.train import CompletionTrainer
from sft.trl import StageCallback, trainer_arguments


class Plain(StageCallback):
    def metrics(self, logs: dict[str, float]) -> dict[str, float]:
        return {"loss": logs["loss"]}


def test_a_line_is_written_until_a_loss_or_gradient_is_not_finite(tmp_path: Path) -> None:
    with open_stage("sft", StageOptions(run=tmp_path), preset="smoke") as stage, progress_bar("sft", 3) as bar:
        callback = Plain(stage, bar)

        def log(step: int, **logs: float) -> None:
            callback.on_log(None, SimpleNamespace(global_step=step), None, logs=logs, model=None)

        log(1, loss=2.0, grad_norm=1.0, learning_rate=0.5)
        log(1, train_runtime=3.0)  # the summary at the end
        for loss, norm in ((math.nan, 1.0), (1.0, math.inf)):
            with pytest.raises(UserError, match="no longer a number at step 2: lower --learning-rate"):
                log(2, loss=loss, grad_norm=norm, learning_rate=0.5)
    [line] = read_metrics(tmp_path / "sft")
    assert [line[name] for name in ("step", "loss", "gradient_norm", "learning_rate")] == [1, 2.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (CompletionTrainer, SFTTrainer),
        (RankingTrainer, RewardTrainer),
        (LoggedRLOO, RLOOTrainer),
        (LoggedGRPO, GRPOTrainer),
    ],
)
def test_no_trainer_tells_anyone_what_is_trained(ours: Any, theirs: Any) -> None:
    for name in ("create_model_card", "_send_telemetry"):
        assert callable(getattr(theirs, name)), "trl calls it otherwise now"
        assert getattr(ours, name) is not getattr(theirs, name)


def test_arguments_follow_the_device(tmp_path: Path) -> None:
    cpu = trainer_arguments(FineTuneConfig(seed=3), tmp_path, (4, 2), torch.device("cpu"), bf16=False)
    assert (cpu["per_device_train_batch_size"], cpu["gradient_accumulation_steps"], cpu["seed"]) == (4, 2, 3)
    assert (cpu["use_cpu"], cpu["dataloader_pin_memory"]) == (True, False)
    cuda = trainer_arguments(FineTuneConfig(), tmp_path, (4, 2), torch.device("cuda"), bf16=True)
    assert (cuda["use_cpu"], cuda["dataloader_pin_memory"], cuda["bf16"]) == (False, True, True)
