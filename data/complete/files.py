"""The 42 files of the complete works: from a folder of the user's, the cache, or the network; verified each."""

import os
import time
from pathlib import Path

from rich.progress import track

from data.console import UserError, console, is_main_process
from data.download import DownloadError, cache_folder, fetch, matches
from data.jsonl import with_home

COMMIT = "25946cd6486e8a8f96d84edb200a8b8b6e961c27"
URL = f"https://raw.githubusercontent.com/martin-gorner/tensorflow-rnn-shakespeare/{COMMIT}/shakespeare/"
"""The text is in the public domain, the repository under the Apache License 2.0."""
SHA256 = {
    name: sha256 for sha256, name in map(str.split, Path(__file__).with_name("SHA256SUMS").read_text().splitlines())
}
"""By the file's name, in alphabetical order; `sha256sum --check` reads the same table."""
PATIENCE, ALTOGETHER = 30.0, 300.0
"""Seconds to wait for one file, and for all."""


def read_files() -> dict[str, str]:
    """The text of each file by its name, in alphabetical order.

    From the folder COMPLETE_SHAKESPEARE_PATH where that is set, else the cache, else the network. UserError where a
    file is missing, does not match its SHA-256 or cannot be fetched; those fetched before it stay in the cache.
    """
    given = os.environ.get("COMPLETE_SHAKESPEARE_PATH")
    contents = _given(with_home(given)) if given else _fetched()
    return {name: content.decode("utf-8") for name, content in contents.items()}


def _given(folder: Path) -> dict[str, bytes]:
    contents = {}
    for name, sha256 in SHA256.items():
        try:
            contents[name] = (folder / name).read_bytes()
        except OSError as error:
            raise UserError(
                f"COMPLETE_SHAKESPEARE_PATH: {folder / name}: {error.strerror}; the folder must hold the {len(SHA256)} "
                f"files of {URL}; unset the variable to download them"
            ) from error
        if not matches(contents[name], sha256):
            raise UserError(
                f"COMPLETE_SHAKESPEARE_PATH: {folder / name} does not match its SHA-256; replace it by {URL}{name}, or "
                "unset the variable to download all files"
            )
    return contents


def _fetched() -> dict[str, bytes]:
    folder, deadline = cache_folder() / "complete", time.monotonic() + ALTOGETHER
    contents: dict[str, bytes] = {}
    quiet = not is_main_process() or all((folder / name).is_file() for name in SHA256)
    try:
        for name in track(SHA256, "the complete works", console=console, transient=True, disable=quiet):
            if (left := deadline - time.monotonic()) <= 0:
                raise DownloadError(f"{ALTOGETHER:.0f} s are over")
            contents[name] = fetch(URL + name, SHA256[name], folder / name, min(PATIENCE, left))
    except DownloadError as error:
        raise UserError(
            f"the complete works cannot be downloaded: {error}; run the same command again to continue after "
            f"{len(contents)} of {len(SHA256)} files, set COMPLETE_SHAKESPEARE_PATH to a folder with all of them, or "
            "use another --corpus, such as tinyshakespeare or pastiche"
        ) from error
    return contents
