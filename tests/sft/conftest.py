"""A run with a finished pretrain stage, for tests of the sft stage."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def run(smoke_base: Path, tmp_path: Path) -> Path:
    """A run of one's own with a finished pretrain stage."""
    return Path(shutil.copytree(smoke_base, tmp_path / "run"))
