"""Time to aligned: its stopping rule, its table and pieces on recorded trainings, and the real thing at smoke size."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("transformers")
from tests.tiny import RunMaker

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("bench_aligned")


@pytest.fixture
def worker(bench: ModuleType) -> ModuleType:
    return importlib.import_module("bench_aligned_worker")


def aligned_work(worker: ModuleType, **changes: Any) -> Any:
    fields: dict[str, Any] = {"policy": "p", "reward": "r", "prompts": [[1]], "config": {"batch_size": 8}}
    goal = {"run": "run", "gain": 0.1, "kl": 10.0, "cap": 100.0, "every": 2}
    return worker.AlignedWork(**fields | {"updates": 7, "threads": 1} | goal | changes)


@pytest.mark.parametrize(
    ("judged", "changes", "ended", "reached"),
    [
        ([(0.59, 1.0), (0.61, 2.0), (0.7, 3.0)], {}, 4, 4),
        ([(0.65, 10.5), (0.55, 9.0), (0.61, 9.9)], {}, 6, 6),
        ([(0.55, 1.0)] * 4, {}, 7, None),
        ([(0.55, 1.0), (0.9, 1.0)], {"cap": 39.0}, 4, None),
        ([(0.9, 99.0)] * 4, {"every": 5}, 7, None),
    ],
    ids=["gain", "too far from SFT, then not enough, then both", "end of schedule", "too late", "always too far"],
)
def test_a_training_ends_at_the_first_evaluation_that_meets_both_conditions(
    worker: ModuleType, judged: list[tuple[float, float]], changes: dict[str, Any], ended: int, reached: int | None
) -> None:
    """Updates take 10 seconds, evaluations 1,000: those are not counted."""
    now = 0.0
    replies: Iterator[Any] = iter([worker.Judged(0.5, 0.0, 1.0), *(worker.Judged(*each, 1.0) for each in judged)])

    def judge(policy: Any) -> Any:
        nonlocal now
        now += 1000
        return next(replies)

    work = aligned_work(worker, **changes)
    stopwatch = worker.Stopwatch(work, judge, clock=lambda: now)
    now += 500  # loading the trainer
    stopwatch.start()

    def train() -> None:
        nonlocal now
        while True:
            now += 10
            stopwatch.after_update("policy")

    with pytest.raises(worker.Reached):
        train()
    assert stopwatch.updates == ended
    training = worker.Training.of(json.loads(json.dumps(worker.asdict(stopwatch.training))))
    assert training.evaluations[-1].seconds == 10 * ended
    first = worker.first_aligned(training, work.gain, work.kl, work.cap)
    assert (first.updates if first else None) == reached


@pytest.mark.parametrize("error", [RuntimeError("probability tensor contains nan"), ValueError("no\nnumber")])
def test_weights_that_blow_up_are_a_result_and_a_trainer_that_never_starts_an_error(
    worker: ModuleType, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(worker, "heldout_judge", lambda run: lambda policy: worker.Judged(0.5, 0.0, 1.0))

    def blow_up(work: Any, stopwatch: Any) -> None:
        for _ in range(work.every):
            stopwatch.after_update("policy")
        raise error

    work = aligned_work(worker)
    training = worker.run(work, blow_up)
    assert training.failed.startswith(f"{type(error).__name__} after 2 updates: ")
    assert "\n" not in training.failed
    assert len(training.evaluations) == 1
    work.every = 0
    with pytest.raises(type(error)):
        worker.run(work, blow_up)


class Recorded:
    """Stands for the worker: what each training comes to, by side, learning rate and seed; counts what it is asked."""

    def __init__(self, worker: ModuleType, reached: dict[tuple[str, float, int], float]) -> None:
        self.worker, self.reached = worker, reached
        self.asked: list[tuple[str, float, int]] = []

    def __call__(self, script: str, side: str, work: Any, python: Any) -> dict[str, Any]:
        asked = (side, work.config["learning_rate"], work.config["seed"])
        self.asked.append(asked)
        seconds = self.reached.get(asked)
        evaluations = [(2, 5.0, 0.5 + work.config["learning_rate"], 3.0, 1.0), (4, seconds or 70.0, 0.61, 4.0, 1.0)]
        failed = "RuntimeError after 4 updates: nan" if seconds == 0 else None
        training = self.worker.Training(0.5, evaluations if seconds else evaluations[:1], failed)
        return dict(json.loads(json.dumps(self.worker.asdict(training))))


def a_bench(bench: ModuleType, worker: ModuleType, tmp_path: Path, **options: Any) -> Any:
    settings = {"batch_size": 8, "learning_rate": 0.01, "seed": 1}
    asked = bench.AlignedOptions(run=Path("run"), out=tmp_path, threads=1, episodes=56, **options)
    goal = {name: getattr(asked, name) for name in ("gain", "kl", "cap", "every")}
    return bench.Bench(
        asked, aligned_work(worker, config=settings, **goal), {"sft": "a", "reward": "b"}, Path("python")
    )


@pytest.fixture
def small_grid(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"as it is": {}, "slow": {"learning_rate": 0.001}, "fast": {"learning_rate": 0.02}}
    monkeypatch.setattr(bench, "GRID", grid)


@pytest.mark.usefixtures("small_grid")
def test_trls_best_settings_run_on_every_seed_and_a_table_continues_where_it_was_left(
    bench: ModuleType,
    worker: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = {("ours", 0.01, seed): 10.0 for seed in (1, 2)}
    theirs = {("trl", 0.01, 1): 80.0, ("trl", 0.02, 1): 60.0, ("trl", 0.001, 1): 0.0, ("trl", 0.02, 2): 90.0}
    recorded = Recorded(worker, ours | theirs)
    monkeypatch.setattr(bench, "run_worker", recorded)
    a_bench(bench, worker, tmp_path, seeds=[1, 2], only="ours").report()
    assert recorded.asked == list(ours), "only that side"
    assert "TRL" not in capsys.readouterr().out
    a_bench(bench, worker, tmp_path, seeds=[1]).report()
    assert recorded.asked[2:] == [("trl", 0.01, 1), ("trl", 0.001, 1), ("trl", 0.02, 1)], "the best is not run again"
    assert "6.0 times   aim ≥ 5: reached" in capsys.readouterr().out
    a_bench(bench, worker, tmp_path, seeds=[1, 2]).report()
    assert recorded.asked[5:] == [("trl", 0.02, 2)]
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows[3].startswith(
        "| TRL 1.12.0 | grid: slow | 1 | failed: RuntimeError after 4 updates: nan | 16 | +0.001 |"
    )
    assert rows[5] == "| TRL 1.12.0 | best: fast | 1, 2 | 60 s; 90 s | 32; 32 | +0.110; +0.110 | 4.0; 4.0 |"
    assert rows[6] == "| ours | preset laptop, nothing asked | 1, 2 | 10 s; 10 s | 32; 32 | +0.110; +0.110 | 4.0; 4.0 |"
    a_bench(bench, worker, tmp_path, seeds=[1, 2], gain=0.05).report()
    assert len(recorded.asked) > 6, "another goal is another measurement"


@pytest.mark.usefixtures("small_grid")
def test_a_goal_that_is_not_reached_is_said(
    bench: ModuleType,
    worker: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recorded = Recorded(worker, {("ours", 0.01, 1): 10.0})
    monkeypatch.setattr(bench, "run_worker", recorded)
    a_bench(bench, worker, tmp_path, seeds=[1]).report()
    printed = capsys.readouterr().out
    assert "| best: fast | 1 | not within 56 episodes (5 s) | 16 | +0.020 | 3.0 |" in printed, "nearest to the gain"
    assert "TRL did not reach the goal on most seeds: no ratio" in printed
    recorded.reached = {}
    a_bench(bench, worker, tmp_path / "other", seeds=[1], cap=4.0).report()
    printed = capsys.readouterr().out
    assert "not within 4 s" in printed
    assert "aim ≥ 5: MISSED" in printed


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"every": 0}, "every"),
        ({"seeds": [1, 1]}, "different"),
        ({"seeds": []}, "at least one"),
        ({"episodes": 9}, "128"),
    ],
)
def test_options_that_cannot_be_measured(bench: ModuleType, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(bench.UserError, match=said):
        bench.AlignedOptions(run=Path("run"), **wrong).check()


def test_a_damaged_file_of_trainings_is_one_line(bench: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trainings.json"
    path.write_text("[{")
    with pytest.raises(bench.UserError, match=r"trainings\.json is damaged: delete it"):
        bench.Trainings(path)


def test_trls_grid_changes_settings_that_both_trainers_have(bench: ModuleType) -> None:
    known = set(importlib.import_module("bench_ppo_worker").SAME_NAMES)
    translated = {"adam_beta2", "adam_eps", "gae_lambda", "missing_eos_penalty"}
    assert len(bench.GRID) <= 4
    assert {name for changes in bench.GRID.values() for name in changes} <= known | translated


@pytest.mark.slow
def test_our_side_of_a_real_run(
    bench: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = RunMaker(tmp_path)
    made.language_model("pretrain", None, 1)
    made.language_model("sft", "pretrain", 2)
    made.reward_model()
    smoke = ["--only", "ours", "--seeds", "1", "--episodes", "256", "--every", "1", "--threads", "1"]
    for gain, out, updates in (("-1", "reached", 1), ("1", "not-reached", 2)):
        arguments = ["bench", "--run", str(made.run), *smoke, "--gain", gain, "--out", str(tmp_path / out)]
        monkeypatch.setattr("sys.argv", arguments)
        bench.main()
        printed = capsys.readouterr().out
        assert ("not within 256 episodes" in printed) == (out == "not-reached")
        rows = json.loads((tmp_path / out / "trainings.json").read_text("utf-8"))
        training = bench.Training.of(rows[0]["training"])
        assert [each.updates for each in training.evaluations] == list(range(1, updates + 1))
        assert all(0 <= each.gold <= 1 and each.kl > 0 and each.seconds > 0 for each in training.evaluations)
        assert 0 < training.before < 1
