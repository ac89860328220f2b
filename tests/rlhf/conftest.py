"""Tiny models and runs for the tests of this folder."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import causal_lm, letters, reward_model, run_maker, tokenizer

__all__ = ["causal_lm", "letters", "reward_model", "run_maker", "tokenizer"]


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory, run_maker: type[Any]) -> Path:
    """A run of tiny models with all stages but the comparison, and a taste. Read only: see `own_run`."""
    maker = run_maker(tmp_path_factory.mktemp("whole"))
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    maker.reward_model()
    maker.language_model("rlhf", "sft", seed=4)
    for stage in ("reward", "rlhf"):
        shutil.copytree(maker.run / stage, maker.run / "tastes" / "mine" / stage)
    run: Path = maker.run
    return run


@pytest.fixture(scope="session")
def directed_maker(tmp_path_factory: pytest.TempPathFactory, run_maker: type[Any]) -> Any:
    """The maker of a run of tiny models with directions, all stages but the comparison. Read only."""
    maker = run_maker(tmp_path_factory.mktemp("directed"), directed=True)
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    maker.reward_model()
    maker.reward_model("following", seed=5, follow_scale=2.0, follow_bias=-0.5)
    balance = {"combine": "sum", "following_weight": 4.0, "craft_weight": 1.0, "craft_cap": 0.5, "short_coef": 1.0}
    maker.language_model("rlhf", "sft", seed=4, reward_following="model", short_below=0.6, **balance)
    return maker


@pytest.fixture
def own_run(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of the run for one test."""
    return shutil.copytree(whole_run, tmp_path / "run")
