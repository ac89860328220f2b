"""The arithmetic of memory is that of the models: within 15 % of the peaks that are measured."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rlhf.ppo.placement.memory import Shape, peak

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PAGE = SCRIPTS.parent / "docs" / "ppo-trainer.md"
pytestmark = pytest.mark.usefixtures("one_thread")


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, SCRIPTS / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("row", ["full", "full, bf16 frozen, checkpointing, bf16 weights", "LoRA"])
def test_the_arithmetic_is_near_what_is_measured(row: str) -> None:
    bench = script("bench/bench_memory.py")
    size, settings = bench.SIZES["cpu"], bench.ROWS[row]
    trainer: Any = None

    def make() -> Any:
        nonlocal trainer
        trainer = bench.trainer_of(size, settings, "cpu")
        return trainer

    measured = bench.measured(make)
    shape = Shape.of(bench.config_of(size))
    if not settings.get("adapter_rank"):
        # A layer of Qwen3 has gains for the heads of queries and keys, too.
        extra = 2 * shape.layers * size["heads"]["head_dim"]
        assert sum(weight.numel() for weight in trainer.policy.parameters()) == shape.parameters + extra
    predicted = sum(peak(shape, bench.setup_of(size, settings, cuda=False)).values())
    assert predicted == pytest.approx(measured, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("row", script("bench/bench_memory.py").SHARDED)
def test_the_arithmetic_of_two_processes_is_near_what_is_measured(row: str) -> None:
    done = script("bench/bench_memory.py").run_row(row, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert sum(found["parts"].values()) == pytest.approx(found["measured"], rel=0.15), found["parts"]


def test_the_page_has_the_tables_that_its_command_prints() -> None:
    made, page = script("docs/memory_table.py"), PAGE.read_text("utf-8")
    assert made.table(made.ONE) in page
    assert made.table(made.DIVIDED) in page
