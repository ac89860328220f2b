"""Files from the network: fetched in bounded time, verified by SHA-256, cached whole."""

import functools
import hashlib
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

from data.console import console, is_main_process
from data.jsonl import with_home, write_whole


class DownloadError(Exception):
    """A file cannot be fetched, or what was fetched is something else."""


def cache_folder() -> Path:
    """Where downloads are kept: `shakespeare-rlhf` in XDG_CACHE_HOME, or in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (with_home(home) if home else Path.home() / ".cache") / "shakespeare-rlhf"


def matches(content: bytes, sha256: str) -> bool:
    """Whether these are the bytes with that SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest() == sha256


def fetch(url: str, sha256: str, cached: Path, seconds: float) -> bytes:
    """The bytes with that SHA-256 from the file `cached`, or from `url`, which are then kept in that file.

    Raises DownloadError where the download fails or takes more than `seconds`. A file that is damaged is fetched
    again; nothing but the whole, verified content is ever written.
    """
    if cached.is_file() and matches(content := cached.read_bytes(), sha256):
        return content
    content = _download(url, seconds)
    if not matches(content, sha256):
        raise DownloadError(f"what {url} sent does not match its SHA-256")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cached, content)
    except OSError as error:  # a home that cannot be written costs the next run a download, no more
        _say_uncached(cached.parent, str(error))
    return content


@functools.cache
def _say_uncached(folder: Path, reason: str) -> None:
    """Once, however many files it is true of."""
    if is_main_process():
        console.print(f"[dim]downloads are not kept in {folder}: {reason}[/dim]", soft_wrap=True)


def _download(url: str, seconds: float) -> bytes:
    """The bytes at `url`, or DownloadError once `seconds` are over."""
    outcome: list[bytes | Exception] = []

    def receive() -> None:
        try:
            with urllib.request.urlopen(url, timeout=seconds) as response:
                outcome.append(response.read())
        except Exception as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it is a response as well, with a connection
            outcome.append(error)

    # urlopen's timeout covers neither the name lookup nor a server that trickles: a thread bounds it all.
    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise DownloadError(f"no answer from {url} within {seconds:.0f} s")
    if isinstance(outcome[0], Exception):
        raise DownloadError(f"{url}: {outcome[0]}") from outcome[0]
    return outcome[0]
