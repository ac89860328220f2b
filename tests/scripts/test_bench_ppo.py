"""The PPO benchmark measures what its table says, on a few tokens and without TRL; no test looks at a clock."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("transformers")
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "bench"
TINY = {"layers": 1, "width": 8, "batch_size": 4, "num_mini_batches": 2, "num_ppo_epochs": 2, "response_length": 5}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location("bench_ppo", SCRIPTS / "bench_ppo.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_ppo", module)
    spec.loader.exec_module(module)
    return module


def test_our_side_is_measured_in_a_process_of_its_own(bench: ModuleType, tmp_path: Path) -> None:
    work = bench.fixed_work(tmp_path, updates=2, threads=1, prompts=8, **TINY)
    measured = bench.measure("ours", work)
    for part in ("seconds", "rollout", "scoring", "update"):
        assert len(getattr(measured, part)) == 2
        assert min(getattr(measured, part)) > 0
    assert measured.tokens == [4 * 5, 4 * 5], "no response may stop early"
    assert 0.05 < measured.peak_gib < 4
    line = bench.table_line("ours", measured, episodes=4)
    assert len(line) == len(bench.HEAD)
    assert float(line.split()[-2]) == 5.0


def test_a_side_that_fails_says_why(bench: ModuleType, tmp_path: Path) -> None:
    work = bench.fixed_work(tmp_path, updates=1, threads=1, prompts=8, **TINY)
    work.policy = str(tmp_path / "nowhere")
    with pytest.raises(bench.UserError, match="nowhere"):
        bench.measure("ours", work)


def test_the_parts_of_an_update_are_told_from_its_moments(bench: ModuleType) -> None:
    first = [("rollout", 0.0), ("scoring", 5.0), ("update", 7.0), ("end", 9.0)]
    second = [("rollout", 10.0), ("scoring", 12.0), ("update", 15.0), ("end", 19.0)]
    third = [("rollout", 20.0), ("scoring", 23.0), ("update", 24.0), ("end", 29.0)]
    measured = sys.modules["bench_ppo_worker"].parts_between(first + second + third)
    assert measured.seconds == [10.0, 10.0], "the first update is not counted"
    assert (measured.rollout, measured.scoring, measured.update) == ([2.0, 3.0], [3.0, 1.0], [4.0, 5.0])


def test_ratios_come_from_medians_and_a_missed_aim_is_said(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sides: list[tuple[str, Any]] = []

    def canned(side: str, work: Any, python: Any = None) -> Any:
        sides.append((side, work.config["bf16"]))
        slow = side == "trl"
        seconds = [9.0, 8.0, 100.0] if slow else [4.0, 3.0, 2.0]
        parts = {name: [1.0, 1.0, 1.0] for name in ("rollout", "scoring", "update")}
        return bench.Measured(seconds, **parts, tokens=[64] * 3, peak_gib=1.0 if slow else 2.0, versions={side: "1"})

    monkeypatch.setattr(bench, "measure", canned)
    work = bench.fixed_work(tmp_path, updates=3, threads=1, prompts=8, **TINY, bf16=True)
    options = bench.BenchOptions(repeats=2)
    bench.compare("Title", work, 3.0, options, Path())
    assert sides == [("trl", True), ("ours", True), ("ours", False)] * 2
    printed = capsys.readouterr().out
    assert "TRL 1.12.0                        0.4     9.00     1.00     1.00     1.00     6.00" in printed
    ratios = [line for line in printed.splitlines() if "times" in line]
    assert ratios[0].split("ours / TRL")[1].split() == ["3.0", "times", "aim", "≥", "3:", "reached"]
    assert ratios[-1].endswith("0.5 times   aim ≥ 1: MISSED")


def test_sampling_is_measured_beside_generate(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = bench.fixed_work(tmp_path, updates=1, threads=1, prompts=8, **TINY)
    bench.compare_sampling("Title", work)
    assert "tokens/s" in capsys.readouterr().out


def test_cost_curves_are_fitted_and_drawn(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "EPISODES", (16, 32, 48))
    monkeypatch.setattr(bench, "RESPONSE_LENGTHS", (2, 4, 6))
    monkeypatch.setattr(bench, "run_ours", lambda work: bench.Measured(seconds=[cost(work), cost(work), 99.0]))

    def cost(work: Any) -> float:
        episodes, tokens = work.config["batch_size"], work.config["response_length"]
        return 1.0 + 0.5 * episodes if tokens == 64 else 1.0 + tokens**2

    options = bench.BenchOptions(updates=1, out=tmp_path / "out")
    bench.cost_curves(options, tmp_path, threads=1)
    printed = capsys.readouterr().out
    assert "= 1.00 + 0.5000 · episodes; R² 1.0000, bend 1.00" in printed
    assert "bend 1.67" in printed, "what grows with the square is seen"
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_the_task_is_that_of_the_run(bench: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(bench.UserError, match="sft"):
        bench.task_work(tmp_path, updates=1, threads=1)


def test_trl_that_cannot_be_installed_is_one_line(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "many lines\nERROR: no matching distribution\n")
    monkeypatch.setattr(bench.subprocess, "run", lambda *args, **kwargs: failed)
    monkeypatch.setattr(bench.venv, "create", lambda root, **kwargs: (root / site(bench, root)).mkdir(parents=True))
    with pytest.raises(bench.UserError, match=r"cannot install trl 1\.12\.0 .* no matching distribution"):
        bench.trl_python(tmp_path)


def test_trl_is_installed_once_next_to_what_runs_here(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **kwargs: Any) -> Any:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(bench.subprocess, "run", run)
    monkeypatch.setattr(bench.venv, "create", lambda root, **kwargs: (root / site(bench, root)).mkdir(parents=True))
    python = bench.trl_python(tmp_path)
    assert bench.trl_python(tmp_path) == python
    assert len(commands) == 1
    assert f"torch=={bench.torch.__version__}" in commands[0]
    assert "trl==1.12.0" in commands[0]
    paths = next(tmp_path.rglob("outer.pth")).read_text().split()
    assert any((Path(path) / "torch").is_dir() for path in paths)


def site(bench: ModuleType, root: Path) -> Path:
    return Path(bench.sysconfig.get_path("purelib", vars={"base": str(root), "platbase": str(root)}))


def test_a_work_survives_its_file(bench: ModuleType, tmp_path: Path) -> None:
    work = bench.fixed_work(tmp_path, updates=1, threads=1, prompts=8, **TINY)
    again = bench.Work(**json.loads(json.dumps(bench.asdict(work))))
    assert again.config | {"stop_token_ids": ()} == work.config
    assert (again.prompts, again.updates) == (work.prompts, work.updates)
