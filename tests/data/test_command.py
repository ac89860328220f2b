"""`python -m data` as a user runs it."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data import __main__ as command
from data import jsonl
from data.console import run_command
from data.dialogue import dialogue_pairs, heldout_pairs
from data.jsonl import read_jsonl

ROOT = Path(command.__file__).resolve().parents[1]
PLAY = "\n\n".join(f"{'AB'[i % 2]}:\nLine number {i}, and no other." for i in range(200)) + "\n"


def run(*arguments, cwd, **environment):
    refused = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    inherited = {k: v for k, v in os.environ.items() if k.lower() not in ("tinyshakespeare_path", "no_proxy")}
    return subprocess.run(
        [sys.executable, "-m", "data", *map(str, arguments)],
        cwd=cwd,
        env={
            **inherited,
            **refused,
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(cwd / "cache"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def play(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text(PLAY)
    return path


def test_a_corpus_is_described_and_written(play, tmp_path):
    done = run("--corpus", play, "--write", "out/text.txt", "--pairs", "out/pairs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert figures["corpus"].strip() == "play.txt"
    assert figures["characters"].strip().startswith(f"{len(PLAY):,} ")
    assert figures["speeches"].strip() == "200"
    cut = int(len(PLAY) * 0.9)
    train, dev = dialogue_pairs(PLAY[:cut]), heldout_pairs(PLAY[cut:]).dev
    assert figures["pairs"].strip().startswith(f"{len(train)} train, {len(dev)} dev, ")
    assert (tmp_path / "out/text.txt").read_text() == PLAY
    sft = read_jsonl(tmp_path / "out/pairs/sft.jsonl", {"prompt": str, "completion": str})
    assert [(row["prompt"], row["completion"]) for row in sft] == train
    prompts = read_jsonl(tmp_path / "out/pairs/prompts.jsonl", {"prompt": str})
    assert [row["prompt"] for row in prompts] == [pair.prompt for pair in dev]


def test_without_network_the_default_is_pastiche_said_aloud(tmp_path):
    done = run(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "PASTICHE INSTEAD OF SHAKESPEARE" in done.stderr
    assert "entropy of its grammar" in done.stdout
    assert "This is not Shakespeare" in done.stdout


BAD = {
    "missing file": (["--corpus", "absent.txt"], "No such file"),
    "folder": (["--corpus", "."], "directory"),
    "not UTF-8": (["--corpus", "latin1.txt"], "not UTF-8 at byte 3"),
    "empty": (["--corpus", "empty.txt"], "is empty"),
    "no download": (["--corpus", "tinyshakespeare"], "could not be downloaded"),
    "file in the way": (["--corpus", "play.txt", "--write", "play.txt"], "play.txt exists"),
    "no folder": (["--corpus", "play.txt", "--pairs", "play.txt/pairs"], "not a folder"),
    "no dialogue": (["--corpus", "prose.txt", "--pairs", "pairs"], "no dialogue"),
}


@pytest.mark.parametrize(("arguments", "complaint"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_exit_two_and_nothing_written(play, tmp_path, arguments, complaint):
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "prose.txt").write_text("It rained, and nobody spoke.\n" * 50)
    before = sorted(tmp_path.rglob("*"))
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert complaint in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert play.read_text() == PLAY


def test_a_file_named_by_the_environment_that_is_another_is_refused(play, tmp_path):
    done = run(cwd=tmp_path, TINYSHAKESPEARE_PATH=str(play))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "is not tinyshakespeare" in done.stderr


def test_a_full_disk_is_one_line_and_nothing_half_written(play, tmp_path, monkeypatch, capsys):
    def no_space(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(jsonl.os, "fsync", no_space)
    monkeypatch.setattr(sys, "argv", ["data", "--corpus", str(play), "--write", str(tmp_path / "copy.txt")])
    with pytest.raises(SystemExit) as caught:
        run_command(command.main)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["play.txt"]


def test_overwrite_replaces(play, tmp_path):
    (tmp_path / "copy.txt").write_text("old")
    assert run("--corpus", play, "--write", "copy.txt", "--overwrite", cwd=tmp_path).returncode == 0
    assert (tmp_path / "copy.txt").read_text() == PLAY


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_is_not_utf8_gets_escapes_and_no_traceback(encoding):
    code = "from data.console import run_command\nrun_command(lambda: print('±1 → ' + input()))"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
        input="Zoë\n".encode("utf-8" if encoding == "ascii" else encoding),
        capture_output=True,
    )
    assert said.returncode == 0, said.stderr
    shown = said.stdout.decode(encoding).strip()
    assert (
        shown
        == {"ascii": "\\xb11 \\u2192 Zo\\ufffd\\ufffd", "latin-1": "±1 \\u2192 Zoë", "utf-8": "±1 → Zoë"}[encoding]
    )


def test_home_is_home_in_every_path(play, tmp_path):
    done = run("--corpus=~/play.txt", "--write=~/copy.txt", cwd=tmp_path, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy.txt").read_text() == PLAY
    done = run(cwd=tmp_path, HOME=str(tmp_path), TINYSHAKESPEARE_PATH="~/play.txt")
    assert f"{tmp_path}/play.txt is not tinyshakespeare" in done.stderr
    done = run("--corpus", "~nobody-by-this-name/play.txt", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: corpus ~nobody-by-this-name/play.txt: No such file")
