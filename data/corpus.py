"""The text to learn from: tinyshakespeare, the embedded pastiche, or any UTF-8 file."""

import hashlib
import os
import threading
import urllib.request
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.panel import Panel

from data.console import UserError, console, is_main_process
from data.jsonl import write_whole

TINYSHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
PATIENCE = {"auto": 4.0, "tinyshakespeare": 30.0}
"""Seconds to wait for the download: `auto` has something to fall back on, who asks by name may wait."""


@dataclass(frozen=True)
class Corpus:
    """A text and where it comes from.

    name: tinyshakespeare, pastiche or the file's name. sha256: of the text as UTF-8 (after `\\r\\n` → `\\n`).
    notice: what a reader of the results must know of the text's origin. entropy_bits_per_char: the floor that
    a model may reach, where the generating distribution is known.
    """

    name: str
    text: str
    sha256: str
    notice: str | None = None
    entropy_bits_per_char: float | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """All but the text: what a stage's record keeps of it."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "text"}

    @property
    def train(self) -> str:
        """The first 90 % of the characters, as nanoGPT and the lecture split tinyshakespeare."""
        return self.text[: int(len(self.text) * 0.9)]

    @property
    def validation(self) -> str:
        """The last 10 % of the characters."""
        return self.text[int(len(self.text) * 0.9) :]


def load_corpus(spec: str = "auto") -> Corpus:
    """Load `auto`, `tinyshakespeare`, `pastiche` or the UTF-8 file at a path.

    `auto` is tinyshakespeare where that can be had within seconds and otherwise the pastiche, with a notice
    that is printed and kept in `Corpus.notice`. Raises UserError for a file that is missing, unreadable,
    empty or not UTF-8, for a TINYSHAKESPEARE_PATH that is not tinyshakespeare, and, where `tinyshakespeare`
    was asked for by name, for a download that fails or does not match its SHA-256.
    """
    if spec == "pastiche":
        return _pastiche_corpus()
    if spec not in PATIENCE:
        path = Path(spec).expanduser()
        return _corpus(path.name, decode_text(_read(path), path))
    try:
        return _corpus("tinyshakespeare", _tinyshakespeare(PATIENCE[spec]).decode("utf-8"))
    except DownloadError as error:
        if spec == "tinyshakespeare":
            raise UserError(
                f"tinyshakespeare cannot be had: {error}; set TINYSHAKESPEARE_PATH to a copy of it, "
                "or use --corpus pastiche"
            ) from error
        notice = (
            "This is not Shakespeare: tinyshakespeare could not be had "
            f"({error}), so the text is the project's own pastiche, made by a grammar. "
            "With a network, or TINYSHAKESPEARE_PATH set to a copy, the same command uses the real text."
        )
        if is_main_process():
            console.print(Panel(notice, title="NOTICE: PASTICHE INSTEAD OF SHAKESPEARE", style="bold yellow"))
        return _pastiche_corpus(notice)


def decode_text(content: bytes, path: Path) -> str:
    """Strict UTF-8 without byte order mark, with `\\n` for `\\r\\n`; UserError if it is none or blank."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; convert it, e.g. with iconv") from error
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text.strip():
        raise UserError(f"{path}: is empty; a corpus needs text")
    return text


class DownloadError(Exception):
    """tinyshakespeare cannot be fetched, or what was fetched is something else."""


def _corpus(name: str, text: str, notice: str | None = None, entropy: float | None = None) -> Corpus:
    return Corpus(name, text, hashlib.sha256(text.encode("utf-8")).hexdigest(), notice, entropy)


def _pastiche_corpus(notice: str | None = None) -> Corpus:
    from data.pastiche import pastiche  # its lexicon is read only by who needs it

    made = pastiche()
    return _corpus("pastiche", made.text, notice, made.entropy_bits_per_char)


def _tinyshakespeare(seconds: float) -> bytes:
    """From TINYSHAKESPEARE_PATH, else the cache, else the network."""
    if given := os.environ.get("TINYSHAKESPEARE_PATH"):
        content = _read(Path(given))
        if not _is_tinyshakespeare(content):
            raise UserError(
                f"TINYSHAKESPEARE_PATH: {given} is not tinyshakespeare: its SHA-256 differs; "
                "unset it, or give the file itself as --corpus"
            )
        return content
    cached = _cache_folder() / "tinyshakespeare.txt"
    if cached.is_file() and _is_tinyshakespeare(content := cached.read_bytes()):
        return content
    content = _download(TINYSHAKESPEARE_URL, seconds)
    if not _is_tinyshakespeare(content):
        raise DownloadError(f"what {TINYSHAKESPEARE_URL} sent does not match its SHA-256")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cached, content)
    except OSError as error:  # a home that cannot be written costs the next run a download, no more
        if is_main_process():
            console.print(f"[dim]tinyshakespeare is not cached: {error}[/dim]")
    return content


def _download(url: str, seconds: float) -> bytes:
    """The bytes at `url`, or DownloadError once `seconds` are over."""
    outcome: list[bytes | Exception] = []

    def fetch() -> None:
        try:
            with urllib.request.urlopen(url, timeout=seconds) as response:
                outcome.append(response.read())
        except Exception as error:
            outcome.append(error)

    # urlopen's timeout covers neither the name lookup nor a server that trickles: a thread bounds it all.
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise DownloadError(f"no answer from {url} within {seconds:.0f} s")
    if isinstance(outcome[0], Exception):
        raise DownloadError(f"{url}: {outcome[0]}") from outcome[0]
    return outcome[0]


def _is_tinyshakespeare(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == TINYSHAKESPEARE_SHA256


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "shakespeare-rlhf"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"corpus {path}: {error.strerror}; give auto, tinyshakespeare, pastiche or a UTF-8 file"
        ) from error
