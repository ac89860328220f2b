"""The wheel holds what the commands need: installed away from the repository, they work."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.tiny import RunMaker

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("data", "pretrain", "sft", "reward", "rlhf")

pytestmark = pytest.mark.slow


def run(arguments: Sequence[object], folder: Path, **environment: str) -> str:
    words = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        words, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves its traces next to the sources, and packs what it finds in them."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PRODUCT:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    run(["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "./source"], folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def away(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run Python in an empty folder, where ours comes from the wheel and everything else from this environment."""
    site, empty = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    run(["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel], empty)

    def python(*arguments: object) -> str:
        return run(arguments, empty, PYTHONPATH=str(site), COLUMNS="100")

    assert python("-c", "import rlhf; print(rlhf.__file__)").startswith(str(site))
    return python


def test_the_wheel_is_the_product_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path for name in PRODUCT for path in (ROOT / name).rglob("*") if path.is_file()]
    assert packed == {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}


@pytest.mark.parametrize("command", PRODUCT)
def test_commands_start(away: Callable[..., str], command: str) -> None:
    assert f"python -m {command}" in away("-m", command, "--help")


def test_the_console_script_lists_the_commands(away: Callable[..., str]) -> None:
    site = Path(away("-c", "import rlhf; print(rlhf.__file__)")).parents[1]
    assert "attention-map" in away(site / "bin" / "shakespeare-rlhf")


def test_the_comparison_writes_its_report(away: Callable[..., str], tmp_path: Path) -> None:
    maker = RunMaker(tmp_path)
    for number, (stage, parent) in enumerate([("pretrain", None), ("sft", "pretrain"), ("rlhf", "sft")]):
        maker.language_model(stage, parent, seed=number)
        if stage == "sft":
            maker.reward_model()
    away("-m", "rlhf.compare", "--run", maker.run, "--prompts", 4)
    assert "</html>" in (maker.run / "compare" / "report.html").read_text("utf-8")
