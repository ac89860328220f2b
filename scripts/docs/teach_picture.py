"""Take the picture of the page Teach, docs/figures/teach.png: python scripts/docs/teach_picture.py runs/demo

A copy of the run is taught a taste, on the page and in Chromium, by a rule in the place of a person: replies that end
with a question mark are better than those that do not. The picture is taken while PPO is under way. The lines that are
answered again and again are written here, so that no text of a play is in the picture.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "bench"))

from bench_ui import browsing, serving  # noqa: E402

SCREENS, RANKINGS = 200, 20
"""Screens at hand, and rankings that prefer one reply to another, which are enough to begin."""
LINES = (
    "MILLER:\nThe river has taken the bridge again.\n\nWIDOW:",
    "WIDOW:\nI have a letter, and I will not open it.\n\nPEDLAR:",
    "PEDLAR:\nGood people, buy a ribbon or a bell.\n\nMILLER:",
)
WIDTH = 1000
TEXTS = "[...document.querySelectorAll('.reply .text')].map((each) => each.textContent)"
SHARE = 0.6
"""How much of PPO is over when the picture is taken."""


def keys_for(replies: Sequence[str]) -> list[str]:
    """What is pressed: replies that ask share the first place, the others the second; all alike are all bad."""
    asks = [reply.strip().endswith("?") for reply in replies]
    if len(set(asks)) == 1:
        return ["b"]
    keys = []
    for asking in (True, False):
        first, *tied = (str(at + 1) for at, each in enumerate(asks) if each is asking)
        keys += [first, *(key for place in tied for key in ("t", place))]
    return [*keys, "Enter"]


def rank(page: Page) -> None:
    """Rank screens until enough of them say something."""
    useful, before = 0, [""]
    for _ in range(SCREENS):
        page.wait_for_function(f"before => {TEXTS}.length && {TEXTS}.join() !== before", arg=",".join(before))
        before = page.locator(".reply .text").all_text_contents()
        keys = keys_for(before)
        for key in keys:
            page.keyboard.press(key)
        useful += keys != ["b"]
        if useful == RANKINGS:
            return
    raise SystemExit(f"error: only {useful} of {SCREENS} screens had replies of both kinds")


def teach(page: Page, path: Path) -> None:
    """Press the button, wait, and take the picture."""
    page.locator("#teaching summary").click()
    for area, line in zip(page.locator("#teaching textarea").all(), LINES, strict=True):
        area.fill(line)
    page.locator("#teaching summary").click()
    page.fill("#taste", "questions")
    page.get_by_role("button", name="Teach", exact=True).click()
    page.wait_for_function(
        "share => document.getElementById('taught').value >= share || document.getElementById('error').textContent",
        arg=SHARE,
        timeout=900_000,
    )
    said = page.locator("#error").text_content() or page.locator("#stage").text_content() or ""
    if "learns from the reward model" not in said:
        raise SystemExit(f"error: it is not being taught: {said}")
    page.locator("section.card").screenshot(path=path)
    print(said)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("error: usage: python scripts/docs/teach_picture.py RUN")
    with serving(Path(sys.argv[1]), "rlhf.play", "--screens", str(SCREENS)) as address, browsing(address) as page:
        page.set_viewport_size({"width": WIDTH, "height": 800})
        page.set_default_timeout(180_000)  # replies are being sampled
        page.goto(address.rstrip("/") + "/teach")
        rank(page)
        teach(page, ROOT / "docs/figures/teach.png")


if __name__ == "__main__":
    main()
