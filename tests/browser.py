"""What tests of served pages share: a server that can be killed, and Chromium to look at its pages with."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

REPOSITORY = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome in PATH")
"""For modules whose tests drive a browser."""


class Server:
    """`python -m ARGUMENTS` that serves a page; started again, it has the same address."""

    def __init__(self, *arguments: object) -> None:
        self.arguments, self.port = arguments, "0"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Returns the address, without its last slash."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", *map(str, self.arguments), "--no-browser", "--port", self.port],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        address = self.process.stdout.readline().strip()
        assert address, "the server did not start"
        self.port = re.findall(r":(\d+)", address)[-1]
        return address.rstrip("/")

    def end(self, sent: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal and wait; returns the exit code."""
        assert self.process
        self.process.send_signal(sent)
        code = self.process.wait(60)
        assert self.process.stdout
        self.process.stdout.close()
        self.process = None
        return code


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    """`server("reward.label", "--run", RUN)`: a `Server` that is not started yet, and is ended with the test."""
    made: list[Server] = []

    def make(*arguments: object) -> Server:
        made.append(Server(*arguments))
        return made[-1]

    yield make
    for each in made:
        if each.process:
            each.end()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's Chromium. One per module: playwright can be started once at a time in a process."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # whose Chromium has no sandbox
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if root else [])
        with contextlib.closing(browser):
            yield browser


class Visitor:
    """Somebody with a browser of their own; `errors` are what their pages wrote to the console, or threw."""

    def __init__(self, context: BrowserContext) -> None:
        self.context, self.errors = context, list[str]()
        self.allowed = "nothing"
        """Pattern of errors that are expected."""

    def open(self, address: str) -> Page:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: self.errors.extend([said.text] if said.type in ("error", "warning") else []))
        page.goto(address)
        return page

    def unexpected(self) -> list[str]:
        return [error for error in self.errors if not re.search(self.allowed, error)]


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Callable[..., Visitor]]:
    """`visitor(width=1200, dark=False)`: a `Visitor`, whose console must be empty at the end."""
    made: list[Visitor] = []

    def make(width: int = 1200, dark: bool = False, **settings: Any) -> Visitor:
        settings |= {"viewport": {"width": width, "height": 800}, "color_scheme": "dark" if dark else "light"}
        made.append(Visitor(chromium.new_context(**settings)))
        made[-1].context.set_default_timeout(20_000)
        return made[-1]

    yield make
    unexpected = [error for each in made for error in each.unexpected()]
    for each in made:
        each.context.close()
    assert not unexpected, set(unexpected)


def inaccessible(page: Page) -> list[str]:
    """What axe finds serious or critical on a page, with the first element concerned."""
    found = Axe().run(page).response["violations"]
    bad = [each for each in found if each["impact"] in ("serious", "critical")]
    return [f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}" for each in bad]


def too_wide(page: Page) -> bool:
    """Whether a page scrolls sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Raise AssertionError where `condition` does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
