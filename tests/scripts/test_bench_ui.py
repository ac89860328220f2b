"""The benchmark of the pages measures what its lines say; no test looks at a clock."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.browser import needs_chromium
from tests.tiny import RunMaker

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.fixture
def bench_ui(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location("bench_ui", SCRIPTS / "bench_ui.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("bench", None)


def test_waits_are_described_by_their_median_and_tail(bench_ui: ModuleType) -> None:
    line = bench_ui.describe("key", [float(wait) for wait in range(1, 101)], 100)
    assert line == "key: median 50 ms, 95 % within 96 ms, at most 100 ms (n = 100; aim 100 ms)"


@pytest.mark.slow
@needs_chromium
def test_a_wait_per_screen_and_the_run_is_left_alone(bench_ui: ModuleType, tmp_path: Path) -> None:
    maker = RunMaker(tmp_path)
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    waits = bench_ui.key_to_next_screen(maker.run, screens=4, pause=0)
    assert len(waits) == 3
    assert min(waits) > 0
    assert not (maker.run / "labels").exists()
