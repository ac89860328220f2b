import errno
import hashlib
import os
import socket
import time
from pathlib import Path

import pytest

from data import corpus
from data.console import UserError, console
from data.corpus import load_corpus

TEXT = "MILLER:\nThe wheel stands still.\n\nBAKER:\nThen bread must wait.\n"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No copy, an empty cache, and a download that fails: what a first user without network has."""
    monkeypatch.delenv("TINYSHAKESPEARE_PATH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(corpus, "TINYSHAKESPEARE_URL", (tmp_path / "absent").as_uri())
    return tmp_path


@pytest.fixture
def served(offline, monkeypatch):
    """A file at the download's address, with the hash that is expected of it."""
    (offline / "served").write_text(TEXT)
    monkeypatch.setattr(corpus, "TINYSHAKESPEARE_URL", (offline / "served").as_uri())
    monkeypatch.setattr(corpus, "TINYSHAKESPEARE_SHA256", hashlib.sha256(TEXT.encode()).hexdigest())
    return offline


def files_under(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_split_into_ninety_and_ten_percent(tmp_path):
    (tmp_path / "play.txt").write_bytes(("\ufeff" + "0123456789é\r\n" * 3).encode())
    loaded = load_corpus(str(tmp_path / "play.txt"))
    assert loaded.name == "play.txt"
    assert loaded.text == "0123456789é\n" * 3
    assert len(loaded.train) == int(36 * 0.9)
    assert loaded.train + loaded.validation == loaded.text
    assert loaded.sha256 == hashlib.sha256(loaded.text.encode()).hexdigest()
    assert loaded.notice is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"caf\xc3\xa9 \xff", "not UTF-8 at byte 6"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, content, complaint):
    path = tmp_path / "play.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as caught:
        load_corpus(str(path))
    assert str(path) in str(caught.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="directory"):
        load_corpus(str(tmp_path))


def test_an_unreadable_file_is_refused(tmp_path, monkeypatch):
    def deny(_path):  # not chmod: root reads everything
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "play.txt").write_text(TEXT)
    monkeypatch.setattr(Path, "read_bytes", deny)
    with pytest.raises(UserError, match=r"play\.txt: Permission denied"):
        load_corpus(str(tmp_path / "play.txt"))


def test_pastiche_needs_no_network_and_knows_its_entropy(offline):
    loaded = load_corpus("pastiche")
    assert loaded.name == "pastiche"
    assert loaded.notice is None
    assert loaded.entropy_bits_per_char is not None
    assert 0 < loaded.entropy_bits_per_char < 8
    assert loaded == load_corpus("pastiche")


def test_auto_without_network_is_pastiche_with_a_notice(offline):
    with console.capture() as printed:
        loaded = load_corpus("auto")
    assert (loaded.name, loaded.text) == ("pastiche", load_corpus("pastiche").text)
    assert "not Shakespeare" in str(loaded.notice)
    assert "PASTICHE INSTEAD OF SHAKESPEARE" in printed.get()
    assert files_under(offline) == []


def test_only_the_main_process_prints_the_notice(offline, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with console.capture() as printed:
        loaded = load_corpus("auto")
    assert loaded.notice
    assert printed.get() == ""


def test_tinyshakespeare_by_name_without_network_is_an_error(offline):
    with pytest.raises(UserError, match=r"tinyshakespeare could not be downloaded.*TINYSHAKESPEARE_PATH"):
        load_corpus("tinyshakespeare")
    assert files_under(offline) == []


def test_a_download_is_verified_and_cached(served):
    assert load_corpus("auto").text == TEXT
    (served / "served").unlink()
    loaded = load_corpus("tinyshakespeare")
    assert (loaded.name, loaded.text, loaded.notice) == ("tinyshakespeare", TEXT, None)
    assert files_under(served) == [served / "cache/shakespeare-rlhf/tinyshakespeare.txt"]


def test_a_damaged_cache_is_downloaded_again(served):
    cached = served / "cache/shakespeare-rlhf/tinyshakespeare.txt"
    cached.parent.mkdir(parents=True)
    cached.write_text(TEXT[:10])
    assert load_corpus("tinyshakespeare").text == TEXT
    assert cached.read_text() == TEXT


def test_a_cache_that_cannot_be_written_is_no_obstacle(served):
    (served / "cache").write_text("a file where the folder should be")
    assert load_corpus("tinyshakespeare").text == TEXT


def test_a_download_with_the_wrong_hash_is_never_used(served):
    (served / "served").write_text(TEXT + "tampered")
    with pytest.raises(UserError, match="does not match its SHA-256"):
        load_corpus("tinyshakespeare")
    loaded = load_corpus("auto")
    assert loaded.name == "pastiche"
    assert "does not match its SHA-256" in str(loaded.notice)
    assert files_under(served) == [served / "served"]


def test_a_server_that_never_answers_is_given_up(offline, monkeypatch):
    assert corpus.PATIENCE["auto"] <= 5
    monkeypatch.setitem(corpus.PATIENCE, "auto", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(corpus, "TINYSHAKESPEARE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        start = time.monotonic()
        assert load_corpus("auto").name == "pastiche"
        assert time.monotonic() - start < 4


def test_a_copy_named_by_the_environment_is_verified(served, monkeypatch):
    copy = served / "copy.txt"
    copy.write_text(TEXT)
    (served / "served").unlink()
    monkeypatch.setenv("TINYSHAKESPEARE_PATH", str(copy))
    assert load_corpus("auto").text == TEXT
    copy.write_text(TEXT + "more")
    for spec in ("auto", "tinyshakespeare"):
        with pytest.raises(UserError, match=r"TINYSHAKESPEARE_PATH.*is not tinyshakespeare"):
            load_corpus(spec)
    copy.unlink()
    with pytest.raises(UserError, match="No such file"):
        load_corpus("auto")


@pytest.mark.skipif("TINYSHAKESPEARE_PATH" not in os.environ, reason="needs TINYSHAKESPEARE_PATH")
def test_the_real_text_has_the_sizes_everyone_quotes():
    loaded = load_corpus("tinyshakespeare")
    assert (len(loaded.train), len(loaded.validation)) == (1_003_854, 111_540)
    assert loaded.sha256 == corpus.TINYSHAKESPEARE_SHA256
