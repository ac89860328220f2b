"""The text to learn from: tinyshakespeare, the complete plays, the embedded pastiche, or any UTF-8 file."""

import hashlib
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.panel import Panel

from data.complete import complete_texts
from data.console import UserError, console, is_main_process
from data.download import DownloadError, cache_folder, fetch, matches
from data.jsonl import with_home

TINYSHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
PATIENCE = {"auto": 4.0, "tinyshakespeare": 30.0}
"""Seconds to wait for the download: `auto` has a fallback, so it waits less."""


@dataclass(frozen=True)
class Corpus:
    """A text and where it comes from.

    name: tinyshakespeare, complete, pastiche or the file's name. sha256: of the text as UTF-8 (after `\\r\\n` → `\\n`).
    notice: what a reader of the results must know of the text's origin. entropy_bits_per_char: the floor that
    a model may reach, where the generating distribution is known. split: how many characters of the text are for
    training, where the corpus says so itself; the rest is for validation.
    """

    name: str
    text: str
    sha256: str
    notice: str | None = None
    entropy_bits_per_char: float | None = None
    split: int | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """All but the text: what a stage's record keeps of it."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "text"}

    @property
    def train(self) -> str:
        """What stands before the split: where the corpus has none, the first 90 %, as nanoGPT and the lecture do it."""
        return self.text[: self._split]

    @property
    def validation(self) -> str:
        """What stands after the split."""
        return self.text[self._split :]

    @property
    def _split(self) -> int:
        return int(len(self.text) * 0.9) if self.split is None else self.split


def load_corpus(spec: str = "auto") -> Corpus:
    """Load `auto`, `tinyshakespeare`, `complete`, `pastiche` or the UTF-8 file at a path.

    `auto` is tinyshakespeare where it can be downloaded within seconds and otherwise the pastiche, with a notice
    that is printed and kept in `Corpus.notice`. Raises UserError for a file that is missing, unreadable,
    empty or not UTF-8, for a TINYSHAKESPEARE_PATH that is not tinyshakespeare, and, where `tinyshakespeare`
    or `complete` was asked for by name, for a download that fails or does not match its SHA-256.
    """
    if spec == "pastiche":
        return _pastiche_corpus()
    if spec == "complete":
        training, validation = complete_texts()
        return _corpus("complete", training + validation, split=len(training))
    if spec not in PATIENCE:
        path = with_home(spec)
        return _corpus(path.name, decode_text(_read(path), path))
    try:
        return _corpus("tinyshakespeare", _tinyshakespeare(PATIENCE[spec]).decode("utf-8"))
    except DownloadError as error:
        if spec == "tinyshakespeare":
            raise UserError(
                f"tinyshakespeare could not be downloaded: {error}; set TINYSHAKESPEARE_PATH to a copy of it, "
                "or use --corpus pastiche"
            ) from error
        notice = (
            "This is not Shakespeare: tinyshakespeare could not be downloaded "
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


def _corpus(name: str, text: str, **further: Any) -> Corpus:
    return Corpus(name, text, hashlib.sha256(text.encode("utf-8")).hexdigest(), **further)


def _pastiche_corpus(notice: str | None = None) -> Corpus:
    from data.pastiche import pastiche  # its lexicon is read only where it is needed

    made = pastiche()
    return _corpus("pastiche", made.text, notice=notice, entropy_bits_per_char=made.entropy_bits_per_char)


def _tinyshakespeare(seconds: float) -> bytes:
    """From TINYSHAKESPEARE_PATH, else the cache, else the network."""
    if given := os.environ.get("TINYSHAKESPEARE_PATH"):
        content = _read(with_home(given))
        if not matches(content, TINYSHAKESPEARE_SHA256):
            raise UserError(
                f"TINYSHAKESPEARE_PATH: {with_home(given)} is not tinyshakespeare: its SHA-256 differs; "
                "unset it, or give the file itself as --corpus"
            )
        return content
    return fetch(TINYSHAKESPEARE_URL, TINYSHAKESPEARE_SHA256, cache_folder() / "tinyshakespeare.txt", seconds)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"corpus {path}: {error.strerror}; give auto, tinyshakespeare, complete, pastiche or a UTF-8 file"
        ) from error
