"""What the tests share: the environment commands run in, and one smoke-sized base model."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

from tests import shapes

# Before the first import of ours: only what is imported after this has the shapes of its arguments and results checked.
MATHEMATICS = ["pretrain.model", "sft.models.batch", "rlhf.ppo.losses", "rlhf.ppo.kl"]
install_import_hook(MATHEMATICS, f"{shapes.__name__}.checked")

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"

Command = Callable[..., subprocess.CompletedProcess[str]]

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def command() -> Command:
    """Run `python -m …` as a user would; `check=False` to look at how it failed."""

    def run(*arguments: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=REPOSITORY,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if check and done.returncode:
            raise AssertionError(f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    return run


@pytest.fixture(scope="session")
def refused(command: Command) -> Callable[..., str]:
    """Run a command that must be refused: exit code 2 and one line on stderr, which is returned."""

    def run(*arguments: object, **environment: str) -> str:
        done = command(*arguments, check=False, **environment)
        assert done.returncode == 2, f"exit code {done.returncode}:\n{done.stdout}\n{done.stderr}"
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        assert len(lines) == 1, f"not one line:\n{done.stderr}"
        assert lines[0].startswith("error: "), lines[0]
        return lines[0]

    return run


@pytest.fixture(scope="session")
def smoke_base(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    """A run folder with a finished smoke-sized pretrain stage, on the pastiche. Read only: copy it to change it."""
    run = tmp_path_factory.mktemp("smoke")
    command("pretrain", "smoke", "--corpus", "pastiche", "--run", run)
    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tests of sums, which more threads take in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def the_process_is_left_alone() -> Iterator[None]:
    """Nothing that is imported sets threads or matmul precision for the whole process, or it puts them back."""
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before
