"""A run with an SFT stage, for tests of the reward stage."""

import shutil
from pathlib import Path

import pytest

from tests.reward.made_up import make_sft


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an SFT stage; copy it before writing."""
    run = tmp_path_factory.mktemp("base") / "run"
    make_sft(run)
    return run


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "run"))
