"""The benchmark of PPO's start compares two whole processes; no test looks at a clock."""

import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "bench_start.py"


@pytest.mark.slow
def test_a_pair_is_two_processes_and_the_seconds_of_the_update(capsys: Any) -> None:
    (ratio,) = runpy.run_path(str(SCRIPT))["ratios"](1)
    assert ratio > 0
    assert "pair 1: " in capsys.readouterr().out
