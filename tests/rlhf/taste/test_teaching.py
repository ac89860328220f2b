"""Teaching as the page sees it: one process at a time, seen through its files, and gone when the server is."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data.console import UserError
from data.jsonl import read_appended
from rlhf.taste.teaching import Teaching

FAKE = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
PROGRAM = (sys.executable, "-c", FAKE + "from rlhf.taste.teaching import be_taught; be_taught('fake_taste')")
WATCH = ["A:\nOne?\n\nB:\n", "A:\nTwo?\n\nB:\n"]


def until(happened: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < end, "it never happens"
        time.sleep(0.01)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rankings = tmp_path / "run/labels/rankings"
    rankings.mkdir(parents=True)
    for who, count in (("anna", 3), ("me", 2), ("nobody", 0)):
        (rankings / f"{who}.jsonl").write_text('{"ranking": [[0], [1]]}\n' * count + '{"ranking": []}\n')
    return tmp_path / "run"


@pytest.fixture
def teaching(run: Path) -> Iterator[Teaching]:
    teaching = Teaching(run, PROGRAM)
    yield teaching
    teaching.close()


def start(teaching: Teaching, name: str, mode: str = "new", **settings: Any) -> None:
    teaching.start(**{"name": name, "mode": mode, "annotators": [], "craft": None, "watch": WATCH} | settings)


def taught(teaching: Teaching) -> dict[str, Any]:
    until(lambda: not teaching.running)
    return teaching.state()


def test_a_taste_is_taught_with_the_judgements_of_all_and_seen_at_every_moment(teaching: Teaching, run: Path) -> None:
    idle = teaching.state()
    assert idle == {"name": "", "running": False, "annotators": {"anna": 3, "me": 2, "nobody": 0}, "tastes": {}}
    start(teaching, "slow one", craft=0.5, watch=[WATCH[0], f"\n{WATCH[1]}\n "])
    until(lambda: teaching.state()["watched"] and teaching.state()["rlhf"][-1:] == [[32, 1.0, 0.5]])
    state = teaching.state()
    assert (state["name"], state["running"], state["error"], state["stage"]) == ("slow one", True, "", "rlhf")
    assert state["reward"] == [[1, 0.5, 0.7], [2, 0.75, 0.2]]
    assert state["rlhf"] == [[16, 0.5, 0.25], [32, 1.0, 0.5]]
    assert state["episodes"] == 64
    assert state["watched"] == [[WATCH[0], "old one", "new one"], [WATCH[1], "old two", "new two"]]
    assert state["tastes"] == {"slow one": False}
    with pytest.raises(UserError, match="slow one is being taught"):
        start(teaching, "other")
    teaching.stop()
    done = taught(teaching)
    assert (done["running"], done["error"], done["stage"], done["tastes"]) == (False, "", "compare", {"slow one": True})
    assert done["rlhf"] == state["rlhf"]
    files = [str(run / "labels/rankings" / name) for name in ("anna.jsonl", "me.jsonl")]
    arguments = json.loads((run / "tastes/slow one/arguments.json").read_text())
    watch = run / "tastes/.slow one.watch.jsonl"
    assert arguments == [
        *("--run", str(run), "--name", "slow one", "--rankings", *files, "--craft", "0.5", "--watch", str(watch))
    ]
    assert read_appended(watch) == [{"prompt": prompt} for prompt in WATCH]


def test_chosen_annotators_and_the_ways_to_go_on(teaching: Teaching, run: Path) -> None:
    arguments = run / "tastes/mine/arguments.json"
    start(teaching, "mine", annotators=["me", "nobody", "unknown"])
    assert taught(teaching)["tastes"] == {"mine": True}
    assert json.loads(arguments.read_text())[4:6] == ["--rankings", str(run / "labels/rankings/me.jsonl")]
    assert "anna" not in arguments.read_text()
    with pytest.raises(UserError, match="the taste mine exists: continue it, or choose another name"):
        start(teaching, "mine")
    for mode in ("again", "overwrite", "resume"):
        start(teaching, "mine", mode, watch=[])
        taught(teaching)
        given = json.loads(arguments.read_text())
        assert given[4] == f"--{mode}"
        assert ("--rankings" in given) == (mode != "resume")
        assert "--watch" not in given


def test_an_earlier_round_is_not_shown_as_the_present_one(teaching: Teaching, run: Path) -> None:
    start(teaching, "slow")
    until(lambda: teaching.state()["stage"] == "rlhf")
    teaching.stop()
    taught(teaching)
    teaching._started = time.time() + 5
    state = teaching.state()
    assert (state["stage"], state["reward"], state["rlhf"], state["watched"]) == ("", [], [], [])
    teaching.mode = "resume"
    assert [line[0] for line in teaching.state()["reward"]] == [1, 2], "its reward model is what is resumed from"
    assert teaching.state()["rlhf"] == []


def test_the_last_line_of_a_command_that_fails_is_shown(teaching: Teaching, run: Path) -> None:
    start(teaching, "refused")
    assert taught(teaching)["error"] == "no ranking says anything: rank replies without ties"
    assert not (run / "tastes/refused").exists()
    start(teaching, "silent")
    assert taught(teaching)["error"] == "it ended with code 3"
    start(teaching, "mine")
    assert taught(teaching)["error"] == ""


def test_nothing_ranked_yet_and_bad_names_are_refused_before_anything_is_written(run: Path) -> None:
    for path in (run / "labels/rankings").iterdir():
        path.write_text("")
    teaching = Teaching(run, PROGRAM)
    with pytest.raises(UserError, match="nothing has been ranked yet"):
        start(teaching, "mine")
    for name in ("../mine", "", "a/b", ".hidden", "x" * 65):
        with pytest.raises(UserError, match="taste"):
            start(teaching, name)
    with pytest.raises(UserError, match="mode"):
        start(teaching, "mine", "otherwise")
    assert not (run / "tastes").exists()
    assert teaching.state()["name"] == ""


@pytest.mark.slow
def test_close_ends_the_process_and_leaves_what_can_be_resumed(teaching: Teaching, run: Path) -> None:
    start(teaching, "slow")
    until(lambda: teaching.state()["rlhf"])
    assert teaching._process is not None
    teaching.close()
    assert not teaching.running
    assert Teaching(run).tastes == {"slow": False}
    assert (run / "tastes/slow/.rlhf.partial").is_dir()
    teaching.close()


SERVER = """
import sys, time
from pathlib import Path
from rlhf.taste.teaching import Teaching
teaching = Teaching(Path(sys.argv[1]), sys.argv[2:])
teaching.start("slow", "new", [], None, [])
print(teaching._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_server_that_is_killed_takes_the_taste_with_it(run: Path) -> None:
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(run), *PROGRAM], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with server.stdout:
        pid = int(server.stdout.readline())
        until(lambda: (run / "tastes/slow/.rlhf.partial").is_dir())
        os.kill(pid, 0)
        server.kill()
        server.wait()
        until(lambda: not alive(pid))
    assert Teaching(run).tastes == {"slow": False}


def alive(pid: int) -> bool:
    """Whether a process runs still; one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False
