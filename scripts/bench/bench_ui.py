"""How long a person waits for the pages, in real Chromium: for the next screen, and for the first token of a reply.

    python scripts/bench/bench_ui.py --run runs/demo        # two minutes on two cores

The server gets a copy of the run, and draws the screens that it shows meanwhile. Timings mean something on a machine
that does nothing else; the line printed first says how busy it is.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro
from bench import machine
from playwright.sync_api import Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WATCH = """([event, selector, waiting]) => {
    window.waits = [];
    let since = 0;
    const begin = ({ key, timeStamp }) => { since = key === undefined || key === "Enter" ? timeStamp : since; };
    addEventListener(event, begin, true);
    // Two frames later the change is on the screen.
    const painted = (then) => requestAnimationFrame(() => requestAnimationFrame(then));
    const texts = [...document.querySelectorAll(selector)];
    const observer = new MutationObserver(() => {
        const start = since;
        if (!start || texts.every((each) => each.textContent === waiting)) return;
        since = 0;
        painted((now) => waits.push(now - start));
    });
    for (const each of texts) observer.observe(each, { childList: true, characterData: true, subtree: true });
}"""
"""Notes how long it takes from an event (of keys: Enter) until one of some texts changes to another than `waiting`."""


@dataclass
class BenchOptions:
    """Measure, and print what is aimed at next to it."""

    run: Path = Path("runs/demo")
    """A finished run."""
    screens: int = 200
    """Screens that are ranked, one second after the other at most."""
    replies: int = 100
    """Requests to the playground, each with another seed."""
    pause: float = 0.2
    """Seconds between two screens or requests; people take more."""


def describe(name: str, milliseconds: Sequence[float], aim: float) -> str:
    """Median, 95th percentile and maximum of some waits, in one line."""
    percentile = statistics.quantiles(milliseconds, n=20)[-1]
    return (
        f"{name}: median {statistics.median(milliseconds):.0f} ms, 95 % within {percentile:.0f} ms, "
        f"at most {max(milliseconds):.0f} ms (n = {len(milliseconds)}; aim {aim:.0f} ms)"
    )


@contextmanager
def serving(run: Path, *command: str) -> Iterator[str]:
    """The address of a page that `python -m COMMAND` serves, for a copy of a run that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("labels", "tastes", "votes.jsonl"))
        arguments = [sys.executable, "-m", *command, "--run", str(copy), "--port", "0", "--no-browser"]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.wait(60)
            process.stdout.close()


@contextmanager
def browsing(address: str) -> Iterator[Page]:
    """A page in the system's Chromium."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # whose Chromium has no sandbox
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"] if root else [])
        page = browser.new_page()
        page.goto(address)
        yield page
        browser.close()


def key_to_next_screen(run: Path, screens: int, pause: float) -> list[float]:
    """Milliseconds from Enter, with a ranking of all replies, until the next screen is painted."""
    command = ("reward.label", "--screens", str(screens))
    with serving(run, *command) as address, browsing(address) as page:
        page.locator(".reply").first.wait_for()
        page.evaluate(WATCH, ["keydown", "#prompt", ""])
        for done in range(1, screens):
            page.locator(".reply").first.wait_for()
            for key in ("1", "2", "3", "4", "Enter"):
                page.keyboard.press(key)
            page.wait_for_function("count => waits.length === count", arg=done)
            page.wait_for_timeout(1000 * pause)
        waits: list[float] = page.evaluate("waits")
    return waits


def request_to_first_token(run: Path, replies: int, pause: float) -> list[float]:
    """Milliseconds from "Ask" until the first token of the first reply is painted; all models of the run are loaded."""
    with serving(run, "rlhf.play") as address, browsing(address) as page:
        page.get_by_text("All have answered.").wait_for()
        page.evaluate(WATCH, ["submit", "[data-who] .text", "…"])
        page.locator("summary").click()
        for done in range(1, replies + 1):
            page.fill("#seed", str(done))
            page.get_by_role("button", name="Ask").click()
            page.wait_for_function("count => waits.length === count", arg=done)
            page.wait_for_timeout(1000 * pause)
        waits: list[float] = page.evaluate("waits")
    return waits


def main(options: BenchOptions) -> None:
    print(machine())
    waits = key_to_next_screen(options.run, options.screens, options.pause)
    print(describe("key to next screen", waits, aim=100))
    waits = request_to_first_token(options.run, options.replies, options.pause)
    print(describe("request to first token", waits, aim=300))


if __name__ == "__main__":
    main(tyro.cli(BenchOptions, description=__doc__))
