"""A taste: from rankings to an aligned model next to the run's own, never over what is finished."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.console import UserError
from data.jsonl import write_jsonl
from data.run.record import read_metrics, read_stage
from rlhf.taste.config import TasteOptions
from rlhf.taste.train import TasteRun, make_taste
from sft.models.loading import load_causal_lm

Command = Callable[..., subprocess.CompletedProcess[str]]


def number_of_the(prompt: str, reply: str) -> float:
    """A taste of one's own, for `--taste module:function`."""
    return float(reply.count("the"))


OWN = f"{__name__}:number_of_the"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, run_maker: type[Any]) -> Path:
    """A run with a pretrained, an SFT and a reward model. Read only: copy it to change it."""
    maker = run_maker(tmp_path_factory.mktemp("taste"))
    maker.language_model("pretrain", None, 1)
    maker.language_model("sft", "pretrain", 2)
    maker.reward_model()
    return Path(maker.run)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return copied(made, tmp_path / "run")


@pytest.fixture(scope="module")
def rankings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rankings") / "mine.jsonl"
    best_first = [[0], [1]]
    rows = (
        {
            "prompt": f"MASON:\nSay {i}.\n\nPILOT:\n",
            "completions": ["The lantern?", "and winter"],
            "ranking": best_first,
        }
        for i in range(12)
    )
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="module")
def tasted(made: Path, rankings: Path, tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    """The run with a taste, made as a user would. Read only: copy it to change it."""
    folder = tmp_path_factory.mktemp("tasted")
    run, watch = copied(made, folder / "run"), folder / "watch.jsonl"
    write_jsonl(watch, [{"prompt": "MASON:\nWhat now?\n\nPILOT:\n"}, {"prompt": "PILOT:\nGo.\n\nMASON:\n"}])
    command("rlhf.taste", "--run", run, "--name", "mine", "--rankings", rankings, "--watch", watch)
    return run


def copied(run: Path, to: Path) -> Path:
    subprocess.run(["cp", "-r", run, to], check=True)
    return to


def options(run: Path, **given: Any) -> TasteOptions:
    return TasteOptions(run=run, name="mine", compare=False, episodes=32, **given)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_causal_lm(folder, "cpu").state_dict())


def test_rankings_become_an_aligned_model_next_to_the_runs_own(made: Path, tasted: Path) -> None:
    folder = tasted / "tastes" / "mine"
    assert {path.name for path in folder.iterdir()} == {"taste.json", "rankings-1", "reward", "rlhf", "compare"}
    sft, reward, rlhf = read_stage(tasted / "sft"), read_stage(folder / "reward"), read_stage(folder / "rlhf")
    assert reward.parent == rlhf.parent == {"stage": "sft", "sha256": sft.weights_sha256}
    assert rlhf.config["taste_sha256"] == reward.weights_sha256
    assert rlhf.config["reward_sha256"] == read_stage(tasted / "reward").weights_sha256
    assert (folder / "compare" / "report.html").exists()
    before, after = contents(made), contents(tasted)
    assert {name: after[name] for name in before} == before  # nothing of the run itself was touched


def test_watched_prompts_are_answered_anew(tasted: Path) -> None:
    lines = read_metrics(tasted / "tastes" / "mine" / "rlhf")
    assert [len(line["watched"]) for line in lines] == [2, 2, 2, 2]
    assert len(lines[0]["watched_before"]) == 2
    assert {"objective/rewards/taste", "objective/rewards/craft"} < lines[0].keys()


def test_without_craft_the_taste_is_alone(made: Path, tmp_path: Path, rankings: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for stage in ("pretrain", "sft"):
        copied(made / stage, run / stage)
    (run / "corpus.txt").write_bytes((made / "corpus.txt").read_bytes())
    with pytest.raises(UserError, match=r"reward does not exist.*--craft 0"):
        make_taste(options(run, rankings=(rankings,)))
    assert not (run / "tastes").exists()
    folder = make_taste(options(run, rankings=(rankings,), craft=0.0))
    maximised = [name for name in read_metrics(folder / "rlhf")[0] if name.startswith("objective/rewards/")]
    assert maximised == ["objective/rewards/taste"]


def test_a_function_ranks_by_itself_and_only_rankings_that_say_something_count(run: Path) -> None:
    folder = make_taste(options(run, taste=OWN, n_rankings=10))
    [path] = (folder / "rankings-1").iterdir()
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len(rows) == 10
    for row in rows:
        scores = [[number_of_the("", row["completions"][i]) for i in group] for group in row["ranking"]]
        assert len(scores) > 1
        assert all(len(set(group)) == 1 for group in scores)
        assert [group[0] for group in scores] == sorted((group[0] for group in scores), reverse=True)


def test_files_keep_their_order_and_with_it_their_weights(run: Path, rankings: Path, tmp_path: Path) -> None:
    files = []
    for number in range(12):
        files.append(tmp_path / f"{'zyxwvutsrqpo'[number]}.jsonl")
        files[-1].write_text(rankings.read_text().replace("Say ", f"Say {number} "))
    begun = TasteRun(options(run, rankings=tuple(files), weights=tuple(range(1, 13))))
    laid = sorted(begun._inputs(1).iterdir())
    assert [path.name.partition("-")[2] for path in laid] == [path.name for path in files]


def test_a_taste_that_likes_everything_alike_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match="prefers no reply to another"):
        make_taste(options(run, taste=f"{__name__}:the_same"))
    assert not any((run / "tastes").glob("*"))


def the_same(prompt: str, reply: str) -> float:
    return 1.0


def test_a_finished_taste_is_not_replaced_unless_asked_for(tasted: Path, tmp_path: Path, rankings: Path) -> None:
    run = copied(tasted, tmp_path / "run")
    folder = run / "tastes" / "mine"
    before = contents(folder)
    with pytest.raises(UserError, match=r"exists.*--again"):
        make_taste(options(run, rankings=(rankings,)))
    with pytest.raises(UserError, match=r"none.jsonl: cannot be read"):
        make_taste(options(run, rankings=(run / "none.jsonl",), overwrite=True))
    ties = tmp_path / "ties.jsonl"
    ties.write_text(rankings.read_text().replace("[[0], [1]]", "[[0, 1]]"))
    for given in ({"overwrite": True}, {"again": True}, {"name": "new"}):
        with pytest.raises(UserError, match=r"ties\.jsonl: none of 12 rankings says anything"):
            make_taste(replace(options(run, rankings=(ties,)), **given))
    assert contents(folder) == before
    assert [path.name for path in (run / "tastes").iterdir()] == ["mine"]
    make_taste(options(run, rankings=(rankings,), overwrite=True, seed=2))
    assert read_stage(folder / "rlhf").seed == 2


def test_again_continues_from_the_present_policy_with_the_rankings_as_they_are(
    tasted: Path, made: Path, tmp_path: Path, rankings: Path
) -> None:
    with pytest.raises(UserError, match="mine/rlhf does not exist"):
        make_taste(options(made, rankings=(rankings,), again=True))
    run = copied(tasted, tmp_path / "run")
    folder = run / "tastes" / "mine"
    first, taste = weights(folder / "rlhf"), read_stage(folder / "reward").weights_sha256
    more = tmp_path / "more.jsonl"
    more.write_text(rankings.read_text().replace("lantern", "meadow"))
    again = TasteRun(options(run, rankings=(rankings, more), again=True))
    departure = again._departure(read_stage(folder / "reward"))
    assert departure.policy == folder / "rlhf"
    again.make()
    assert read_stage(folder / "rlhf").config["round"] == 2
    assert read_stage(folder / "reward").weights_sha256 != taste
    assert any(not torch.equal(tensor, first[name]) for name, tensor in weights(folder / "rlhf").items())
    # Where it began it was as far from SFT as round 1 had left it: the reference is still SFT.
    assert read_metrics(folder / "rlhf")[0]["objective/kl"] != 0.0


def test_a_file_named_stop_ends_it_and_keeps_what_is_there(tasted: Path, tmp_path: Path, rankings: Path) -> None:
    run = copied(tasted, tmp_path / "run")
    (run / "tastes" / "mine" / "stop").touch()  # of an earlier round: it does not end the next one
    begun = TasteRun(replace(options(run, rankings=(rankings,), again=True), episodes=640))
    assert not begun.stop.exists()
    begun.stop.touch()
    record = read_stage(begun.make() / "rlhf")
    assert len(read_metrics(begun.folder / "rlhf")) == 1
    assert record.config["total_episodes"] == 640
    assert "gold" in record.results


KILLED = """
import os, signal
from rlhf.ppo.trainer import PPOTrainer
from rlhf.taste.__main__ import main
step = PPOTrainer.step
def killed(self):
    metrics = step(self)
    if self.updates_done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return metrics
PPOTrainer.step = killed
main()
"""


@pytest.mark.slow
def test_a_killed_taste_continues_to_the_same_weights(run: Path, tasted: Path, rankings: Path) -> None:
    given = ["--run", run, "--name", "mine", "--rankings", rankings, "--no-compare"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, given)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = run / "tastes" / "mine"
    assert not (folder / "rlhf").exists()
    with pytest.raises(UserError, match="exists"):
        make_taste(options(run, rankings=(rankings,)))
    with pytest.raises(UserError, match=r"other settings \(craft\)"):
        make_taste(TasteOptions(run=run, name="mine", resume=True, craft=0.25))
    resumed = weights(make_taste(TasteOptions(run=run, name="mine", resume=True)) / "rlhf")
    for name, tensor in weights(tasted / "tastes" / "mine" / "rlhf").items():
        assert torch.equal(resumed[name], tensor), name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "../up", "taste": "questions"}, "--name"),
        ({"name": "x"}, "nothing to learn from"),
        ({"name": "x", "taste": "questions", "rankings": (Path("a"),)}, "exclude each other"),
        ({"name": "x", "taste": "questions", "craft": -1.0}, "craft must not be negative"),
        ({"name": "x", "taste": "questions", "overwrite": True, "again": True}, "--overwrite starts from nothing"),
        ({"name": "x", "taste": "sadness"}, "no taste 'sadness'"),
        ({"name": "x", "taste": "questions", "weights": (1.0,)}, "leave them out with --taste"),
        ({"name": "x", "resume": True}, "nothing to resume"),
    ],
)
def test_what_makes_no_sense_is_refused(made: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_taste(TasteOptions(run=made, **given))
    assert not (made / "tastes" / "x").exists()


def test_a_run_without_sft_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    line = refused("rlhf.taste", "--run", tmp_path, "--name", "mine", "--taste", "questions")
    assert "sft does not exist: run `python -m sft PRESET" in line
