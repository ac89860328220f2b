"""The complete plays: their files from a server that may fail, their layout, and the split whose losses compare."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

import data.complete
from data.complete import HELD_OUT, POEMS, files
from data.complete.plays import Play, as_tinyshakespeare, layout, read_play
from data.console import UserError, console
from data.corpus import Corpus, load_corpus
from data.dialogue import Speech, speeches

ROOT = Path(__file__).resolve().parents[2]
VALIDATION_SHA256 = "c54f3753a4e6e3c3d1759212815a7caf826e68a33021b25312984400bed40a1f"

SOURCE = """\tTHE MILL


\tDRAMATIS PERSONAE


MILLER\ta man of flour. (MILLER:)

BAKER\t|
\t|  friends.
PORTER\t|


SCENE\tA village.


\tTHE MILL

\tPROLOGUE


\tWhat nobody speaks is nobody's.


\tTHE MILL


ACT I



SCENE I\tBefore the mill;
\ta stream.


\t[Enter MILLER and the
\tBAKER]

MILLER\tThe wheel stands  still.
\t  It stood all day.

\t[A bell]

\tAnd now it rings.

BAKER\t[Aside]  Then bread must wait.

\tSONG.
OLD
PORTER\tWith sacks and carts [He sings]
\tthe year goes round.

MILLER\t|
\t|  Amen!
BAKER\t|

First Porter: Who knocks?

\t[Exeunt all

\tTHE MILL


ACT I



SCENE II\tThe same.


\t[Enter WIDOW]

WIDOW\tThe flour is gone.
\t\tAll of it.

\t[Burthen [within]  Ding-dong]

\tI hear a bell.

BAKER\tSo do\tI.

\t[Exeunt]
"""
SPOKEN = [
    ("MILLER", "The wheel stands  still.\nIt stood all day.\nAnd now it rings."),
    ("BAKER", "Then bread must wait."),
    ("OLD PORTER", "With sacks and carts\nthe year goes round."),
    ("MILLER", "Amen!"),
    ("First Porter", "Who knocks?"),
    ("WIDOW", "The flour is gone.\nAll of it.\nI hear a bell."),
    ("BAKER", "So do I."),
]


@pytest.fixture(scope="module")
def play() -> Play:
    return read_play(SOURCE)


def test_speeches_are_what_is_spoken(play: Play) -> None:
    assert play.speeches == [Speech(*spoken) for spoken in SPOKEN]


def test_stage_directions_are_kept_apart_and_in_order(play: Play) -> None:
    assert play.directions == [
        "Enter MILLER and the BAKER",
        "A bell",
        "Aside",
        "He sings",
        "Exeunt all",
        "Enter WIDOW",
        "Burthen [within] Ding-dong",
        "Exeunt",
    ]
    assert "[" not in layout(play.speeches)


def test_the_layout_is_that_of_every_other_corpus(play: Play) -> None:
    assert speeches(layout(play.speeches)) == play.speeches
    assert layout(play.speeches).startswith("MILLER:\nThe wheel")


def test_tinyshakespeare_loses_what_follows_some_directions() -> None:
    text = as_tinyshakespeare(SOURCE)
    assert "rings.\n\nBAKER:\n\nOLD PORTER:\nWith sacks" in text
    assert text.endswith("WIDOW:\nThe flour is gone.\nAll of it.\n\nBAKER:\nSo do I.\n")


# ---- the files, from a server that does as it is told ----


class Server(ThreadingHTTPServer):
    """Sends `contents` by name. asked: what was asked for. cut, lost, spoiled: names that it cannot send well."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents, self.asked = contents, list[str]()
        self.cut: set[str] = set()
        self.lost: set[str] = set()
        self.spoiled: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.removeprefix("/")
        self.server.asked.append(name)
        if name in self.server.lost:
            self.send_error(404)
            return
        content = self.server.contents[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if name in self.server.spoiled:
            content = content.swapcase()
        self.wfile.write(content[: len(content) // 2] if name in self.server.cut else content)

    def log_message(self, *arguments: object) -> None:
        """No line on the terminal for every request."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """42 small files under the real names, an empty cache, and no folder of the user's."""
    contents = {name: SOURCE.replace("Amen", name).encode() for name in files.SHA256}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COMPLETE_SHAKESPEARE_PATH", raising=False)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(files, "SHA256", sums)
    monkeypatch.setattr(data.complete, "VALIDATION", slice(10, 200))
    with Server(contents) as serving:
        monkeypatch.setattr(files, "URL", f"http://127.0.0.1:{serving.server_port}/")
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def kept(folder: Path) -> set[str]:
    """The names of all files in the cache."""
    return {path.name for path in (folder / "cache").rglob("*") if path.is_file()}


def test_the_files_are_fetched_once_and_verified(server: Server, tmp_path: Path) -> None:
    fetched = files.read_files()
    assert {name: text.encode() for name, text in fetched.items()} == server.contents
    assert kept(tmp_path) == set(server.contents)
    assert sorted(server.asked) == sorted(server.contents)
    server.shutdown()
    assert files.read_files() == fetched
    assert len(server.asked) == len(server.contents)


def test_the_corpus_has_a_split_of_its_own(server: Server) -> None:
    corpus = load_corpus("complete")
    training = [name for name in server.contents if name not in (*POEMS, *HELD_OUT)]
    assert len(training) == 35
    held_out = "\n".join(as_tinyshakespeare(server.contents[name].decode()) for name in HELD_OUT)
    plays, before = corpus.train[:-10], corpus.train[-10:]
    assert speeches(plays)[3 :: len(SPOKEN)] == [Speech("MILLER", f"{name}!") for name in training]
    assert len(speeches(plays)) == len(training) * len(SPOKEN)
    assert before + corpus.validation == held_out[:200]
    assert corpus.train + corpus.validation == corpus.text
    assert (corpus.name, corpus.split) == ("complete", len(corpus.train))
    assert corpus.sha256 == hashlib.sha256(corpus.text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("failure", "complaint"),
    [("cut", "IncompleteRead"), ("lost", "404"), ("spoiled", "does not match its SHA-256")],
)
def test_a_download_that_fails_says_what_to_do_and_is_continued(
    server: Server, tmp_path: Path, failure: str, complaint: str
) -> None:
    names = sorted(server.contents)
    bad: set[str] = getattr(server, failure)
    bad.add(names[5])
    with pytest.raises(UserError) as caught:
        load_corpus("complete")
    said = str(caught.value)
    assert complaint in said
    assert f"{files.URL}{names[5]}" in said
    assert "after 5 of 42 files" in said
    assert "COMPLETE_SHAKESPEARE_PATH" in said
    assert "\n" not in said
    assert kept(tmp_path) == set(names[:5])
    bad.clear()
    server.asked.clear()
    assert load_corpus("complete").name == "complete"
    assert sorted(server.asked) == names[5:]


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server, tmp_path: Path) -> None:
    files.read_files()
    damaged = tmp_path / "cache/shakespeare-rlhf/complete/hamlet.txt"
    damaged.write_text("To be")
    server.asked.clear()
    files.read_files()
    assert server.asked == ["hamlet.txt"]
    assert damaged.read_bytes() == server.contents["hamlet.txt"]


def test_a_server_that_is_too_slow_for_all_files_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 100))
    monkeypatch.setattr(files, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(UserError, match=r"300 s are over; .* after 2 of 42 files"):
        files.read_files()
    assert len(kept(tmp_path)) == 2


def test_a_cache_that_cannot_be_written_is_said_once(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with console.capture() as printed:
        assert len(files.read_files()) == 42
    assert printed.get().count("downloads are not kept") == 1


def test_a_folder_of_the_users_own_is_verified(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in server.contents.items():
        (folder / name).write_bytes(content)
    monkeypatch.setenv("COMPLETE_SHAKESPEARE_PATH", str(folder))
    assert files.read_files()["hamlet.txt"].encode() == server.contents["hamlet.txt"]
    (folder / "hamlet.txt").write_text("To be")
    with pytest.raises(UserError, match=r"COMPLETE_SHAKESPEARE_PATH: .*hamlet\.txt does not match its SHA-256"):
        files.read_files()
    (folder / "hamlet.txt").unlink()
    with pytest.raises(UserError, match=r"COMPLETE_SHAKESPEARE_PATH: .*hamlet\.txt: No such file.*42 files of"):
        files.read_files()
    assert server.asked == []
    assert kept(tmp_path) == set()


def test_a_command_without_the_files_fails_in_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "COMPLETE_SHAKESPEARE_PATH": str(tmp_path)}
    command = [sys.executable, "-m", "data", "--corpus", "complete"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: COMPLETE_SHAKESPEARE_PATH:")
    assert ended.stderr.count("\n") == 1


def test_the_demo_passes_its_corpus_on() -> None:
    command = ["make", "--no-print-directory", "--dry-run", "demo", "CORPUS=complete", "RUN=runs/complete"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1].endswith("scripts/run_pipeline.sh laptop runs/complete complete")


# ---- the real plays ----

needs_the_plays = pytest.mark.skipif(
    "COMPLETE_SHAKESPEARE_PATH" not in os.environ, reason="needs COMPLETE_SHAKESPEARE_PATH"
)


@pytest.fixture(scope="module")
def real() -> Corpus:
    return load_corpus("complete")


@needs_the_plays
def test_the_real_plays_have_the_sizes_that_the_documents_quote(real: Corpus) -> None:
    assert (len(real.train), len(real.validation)) == (4_493_771, 111_540)
    assert len(speeches(real.train)) == 29_726
    assert not set("[]|\t\0") & set(real.text)
    plays = [read_play(source) for name, source in files.read_files().items() if name not in POEMS]
    assert (len(plays), sum(len(play.speeches) for play in plays)) == (37, 31_023)
    assert sum(len(play.directions) for play in plays) == 6_253


@needs_the_plays
def test_the_real_validation_split_is_that_of_tinyshakespeare(real: Corpus) -> None:
    assert hashlib.sha256(real.validation.encode()).hexdigest() == VALIDATION_SHA256


@needs_the_plays
def test_nothing_of_the_two_plays_after_the_split_is_learned_from(real: Corpus) -> None:
    """Of their speeches, only a few words that are said in other plays too."""
    held_out = "\n".join(layout(read_play(files.read_files()[name]).speeches) for name in HELD_OUT)
    begin = held_out.index(real.validation[3:300])
    learned = {speech.lines for speech in speeches(real.train)}
    found = {speech.lines for speech in speeches(held_out[begin:])} & learned
    assert max(map(len, found)) < 40


@pytest.mark.skipif("TINYSHAKESPEARE_PATH" not in os.environ, reason="needs TINYSHAKESPEARE_PATH")
def test_the_hash_is_that_of_tinyshakespeares_validation_split() -> None:
    validation = load_corpus("tinyshakespeare").validation
    assert hashlib.sha256(validation.encode()).hexdigest() == VALIDATION_SHA256
