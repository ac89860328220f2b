"""What tests of the sft stage share: a text, settings, and a trainer of an unfinished stage."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from data.run.folder import StageFolder, open_stage
from sft.config import PRESETS, FineTuneConfig
from sft.train import FineTuning

TEXT = "Good morrow, cousin. What news abroad? None, sir; the road is empty and the inn is shut.\n\n" * 30


def config(run: Path, **changes: object) -> FineTuneConfig:
    few = {
        "max_pairs": 88,
        "batch_size": 8,
        "micro_batch_size": 4,
        "save_every": 3,
        "eval_every": 4,
        "log_every": 1,
        "precision": "fp32",
    }
    return replace(PRESETS["smoke"][1], run=run, **(few | changes))  # type: ignore[arg-type]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unfinished(options: FineTuneConfig) -> StageFolder:
    """The folder of a stage that was opened and not finished."""
    with pytest.raises(KeyboardInterrupt), open_stage("sft", options, preset="smoke") as stage:
        raise KeyboardInterrupt
    return stage


def opened_trainer(options: FineTuneConfig):
    fine_tuning = FineTuning(options)
    return fine_tuning, fine_tuning.trainer(unfinished(options))
