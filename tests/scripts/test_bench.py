"""The benchmark's measurements do what their names say, on a few tokens and steps; no test looks at a clock."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "bench.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("bench", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_way_of_sampling_draws_as_many_tokens(bench: ModuleType) -> None:
    for name, loop in bench.sampling_loops(5).items():
        texts = loop(3)
        shape = texts.shape if isinstance(texts, torch.Tensor) else (len(texts), 1 + len(texts[0]))
        assert tuple(shape) == (3, 6), name
    rates = bench.median_rates({"a": lambda batch: None, "b": lambda batch: None}, 2, 5, 3)
    assert rates.keys() == {"a", "b"}
    assert min(rates.values()) > 0


def test_training_is_measured_without_what_is_around_it(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(clock)))
    trained = bench.train("smoke", steps=4, corpus="pastiche", precision="fp32")
    assert (trained.seconds, trained.compiling) == (4.0, 0.0)  # a tick for each step
    assert 2 < trained.sliding < trained.nats < 6


def test_a_ratio_below_its_aim_is_called_missed(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    bench.print_ratio("what", 19.94, 20)
    bench.print_ratio("what", 20.0, 20)
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("aim ≥ 20: MISSED")
    assert second.endswith("aim ≥ 20: reached")
