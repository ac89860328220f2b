"""The stage in a real browser: played on, voted on, taught to the end, stopped, killed."""

import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from rlhf.judging.votes import read_votes
from tests.browser import Server, Visitor, inaccessible, needs_chromium, too_wide, wait_until

pytestmark = [pytest.mark.slow, needs_chromium]
expect.set_options(timeout=60_000)
Visit = Callable[..., Visitor]
SCORE = r"[+\u2212]\d+\.\d\d"
EVIL = "<img src=x onerror=alert(1)><b>bold</b> \u202e"


class Stage:
    """A server of the stage on a run of tiny models."""

    def __init__(self, run: Path, server: Server) -> None:
        self.run, self.server = run, server
        self.address = server.start()

    def stages(self) -> dict[str, str]:
        """The hash of every file of the run's own stages."""
        files = [path for stage in ("pretrain", "sft", "reward", "rlhf") for path in (self.run / stage).rglob("*")]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}

    def taste(self, name: str, file: str = "rlhf/stage.json") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / "tastes" / name / file).read_text("utf-8"))
        return found


@pytest.fixture
def stage(own_run: Path, server: Callable[..., Server]) -> Stage:
    return Stage(own_run, server("rlhf.play", "--run", own_run, "--screens", 40))


@pytest.fixture
def told(directed_maker: Any, tmp_path: Path, server: Callable[..., Server]) -> Stage:
    """The stage of a run with directions."""
    run = shutil.copytree(directed_maker.run, tmp_path / "told")
    return Stage(run, server("rlhf.play", "--run", run, "--screens", 4))


def replies(page: Page) -> list[str]:
    """What all have answered."""
    expect(page.locator("#said")).to_have_text("All have answered.")
    return page.locator("[data-who] .text").all_inner_texts()


def asked(page: Page, button: str) -> list[str]:
    """The replies after a button was pressed."""
    page.evaluate("document.getElementById('said').textContent = ''")
    page.get_by_role("button", name=button, exact=True).click()
    return replies(page)


def rank(page: Page, screens: int, keys: str = "21") -> None:
    """Rank the next screens, each by these keys."""
    expect(page.locator("#count")).to_contain_text("of")
    done = int((page.locator("#count").text_content() or "").split()[0])
    for number in range(screens):
        expect(page.locator("#replies button").first).to_be_enabled()
        for key in [*keys, *(["Enter"] if keys != "b" else [])]:
            page.keyboard.press(key)
        expect(page.locator("#count")).to_contain_text(f"{done + number + 1} of")


def test_everybody_answers_with_the_same_numbers(stage: Stage, visitor: Visit) -> None:
    page = visitor().open(stage.address)
    titles = page.locator("[data-who] h2").all_inner_texts()
    assert [title.split()[0] for title in titles] == ["pretrained", "SFT", "aligned", "mine"]
    page.fill("#text", "The lantern keeps the river.")
    first = asked(page, "Ask")
    assert asked(page, "Ask") == first
    assert first[2] == first[3], "the taste is a copy of the aligned model"
    assert asked(page, "Again, with another seed") != first
    assert page.input_value("#seed") == "2"
    page.locator("summary").click()
    for setting, value in (("#seed", "1"), ("#temperature", "0"), ("#top_k", "3"), ("#top_p", "0.9"), ("#length", "4")):
        page.fill(setting, value)
    greedy = asked(page, "Ask")
    assert asked(page, "Again, with another seed") == greedy
    line = page.input_value("#text")
    asked(page, "Another line")
    assert page.input_value("#text") != line


def test_a_conversation_goes_on_with_a_chosen_reply(stage: Stage, visitor: Visit) -> None:
    page = visitor().open(stage.address)
    page.fill("#speaker", "ANNA")
    page.fill("#answerer", "BEN")
    page.fill("#text", EVIL)
    said = asked(page, "Ask")
    page.locator("[data-who=sft] button").click()
    talk = page.locator("#talk").inner_text()
    assert talk.startswith(f"ANNA:\n{EVIL.strip()}") or EVIL.split()[0] in talk
    assert said[1].strip()[:10] in talk
    assert page.locator("#talk img, #talk b").count() == 0, "what was typed is text"
    assert page.input_value("#text") == ""
    assert page.evaluate("document.activeElement.id") == "text"
    page.fill("#text", "And then?")
    asked(page, "Ask")
    page.locator("[data-who=rlhf] button").click()
    assert page.locator("#talk p").count() == 4
    page.fill("#text", "Once more.")
    asked(page, "Start over")
    assert page.locator("#talk p").count() == 0


def test_directions_are_chosen_typed_and_refused(told: Stage, visitor: Visit) -> None:
    guest = visitor()
    guest.allowed = "400"
    page = guest.open(told.address)
    freely = replies(page)
    sent: list[dict[str, Any]] = []
    page.on("request", lambda request: sent.append(json.loads(request.post_data)) if request.post_data else None)
    page.locator("label", has_text="mood").locator("select").select_option("asking")
    page.get_by_label("beginning with …").fill(" Now ")
    assert asked(page, "Ask") != freely
    assert sent[-1]["asked"] == "asking, beginning with Now"
    page.get_by_label("beginning with …").fill("Now then")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#error")).to_contain_text("knows no direction 'beginning with Now then'")
    page.get_by_label("beginning with …").fill("")
    page.locator("label", has_text="mood").locator("select").select_option("")
    assert asked(page, "Ask") == freely
    assert not inaccessible(page)
    assert not too_wide(page)


def test_what_the_judges_say_is_shown_on_request(stage: Stage, visitor: Visit) -> None:
    page = visitor().open(stage.address)
    replies(page)
    assert page.locator(".judged b").count() == 0
    page.get_by_label("Show what the judges say").check()
    expect(page.locator(".judged b")).to_have_count(4)
    for box in page.locator(".judged").all_inner_texts():
        assert re.match(rf"reward {SCORE} · reward, mine {SCORE} · gold [01][.][0-9][0-9]\s", box)
        assert "verse" in box
    marks = page.locator("[data-who=rlhf] mark")
    assert re.fullmatch(rf"{SCORE} nats", marks.first.get_attribute("title") or "")
    colours = marks.evaluate_all("marks => marks.map((each) => getComputedStyle(each).backgroundColor)")
    assert len(set(colours)) > 1
    expect(page.locator("#legend")).to_be_visible()
    assert not inaccessible(page)


def test_blind_votes_by_keys_and_clicks(stage: Stage, visitor: Visit) -> None:
    page = visitor().open(f"{stage.address}/blind")
    expect(page.locator("[data-choice='0']")).to_be_enabled()
    shown = page.locator("#replyA").text_content()
    page.keyboard.press("a")
    expect(page.locator("#whose")).to_contain_text("A was ")
    expect(page.locator("#rates tbody tr")).to_have_count(1)
    expect(page.locator("[data-choice='0']")).to_be_enabled()
    assert page.locator("#replyA").text_content() != shown
    page.get_by_role("button", name="Tie").click()
    expect(page.locator("#rates tbody td").nth(3)).to_have_text("2")
    page.select_option("#pair", label="pretrained and mine")
    page.select_option("#heldout", label="the training text, to learn from")
    page.fill("#annotator", "abt")  # keys in a field are no votes
    page.locator("#annotator").press("b")
    page.locator("h1").click()
    expect(page.locator("[data-choice='1']")).to_be_enabled()
    page.keyboard.press("b")
    expect(page.locator("#rates tbody tr")).to_have_count(2)
    votes = read_votes(stage.run / "votes.jsonl")
    assert [vote["choice"] for vote in votes] == [0, None, 1]
    assert votes[0]["completions"][0] == shown
    assert [vote["annotator"] for vote in votes] == ["me", "me", "abtb"]
    assert [vote["heldout"] for vote in votes] == [True, True, False]
    assert sorted(votes[2]["policies"]) == ["pretrain", "tastes/mine"]
    page.reload()
    expect(page.locator("#rates tbody tr")).to_have_count(2)
    assert not inaccessible(page)


def test_taught_to_the_end_then_further_and_stopped(stage: Stage, visitor: Visit) -> None:
    before = stage.stages()
    guest = visitor()
    page = guest.open(f"{stage.address}/teach")
    rank(page, 6)
    page.fill("#taste", "yours")
    expect(page.locator("#annotators")).to_contain_text("me (6)")
    page.locator("#teaching summary").click()
    for number, area in enumerate(page.locator("#teaching textarea").all()):
        area.fill(f"MASON:\nLine {number} {EVIL}\n\nWEAVER:")
        area.press("s")  # a letter there is no key of the labelling page
    page.get_by_role("button", name="Teach", exact=True).click()
    expect(page.get_by_role("button", name="Stop and keep")).to_be_visible()
    expect(page.locator("#watched .columns")).to_have_count(3)
    page.reload()
    expect(page.locator("#stage")).to_contain_text("yours: ")
    expect(page.locator("#stage")).to_contain_text("done", timeout=180_000)
    assert page.locator("#charts svg").count() == 3
    for chart in page.locator("#charts svg").all():
        assert re.search(r": -?\d", chart.get_attribute("aria-label") or "")
    for curve in page.locator("#charts polyline").all()[1:]:
        assert len((curve.get_attribute("points") or "").split(",")) > 4, "score and KL of several updates"
    assert "Line 0 <img src=x" in page.locator("#watched").inner_text()
    assert page.locator("#watched img").count() == 0
    assert stage.taste("yours")["stage"] == "rlhf"
    assert stage.taste("yours", "taste.json")["round"] == 1
    assert not inaccessible(page)

    page.fill("#taste", "yours")
    page.get_by_role("button", name="Teach it further").click()
    expect(page.locator("#watched .columns")).to_have_count(3, timeout=120_000)
    page.get_by_role("button", name="Stop and keep").click()
    expect(page.locator("#stage")).to_contain_text("done", timeout=180_000)
    assert stage.taste("yours", "taste.json")["round"] == 2
    assert stage.taste("yours")["config"]["round"] == 2
    assert stage.stages() == before
    expect(guest.open(stage.address).locator("[data-who='tastes/yours'] .text")).to_have_text(re.compile(r"\w"))


def test_what_keeps_a_taste_from_being_taught_is_said_in_the_page(stage: Stage, visitor: Visit) -> None:
    guest = visitor()
    guest.allowed = "400"
    page = guest.open(f"{stage.address}/teach")
    page.fill("#taste", "yours")
    page.get_by_role("button", name="Teach", exact=True).click()
    expect(page.locator("#error")).to_contain_text("nothing has been ranked yet")
    rank(page, 3, "b")
    page.get_by_role("button", name="Teach", exact=True).click()
    expect(page.locator("#stage")).to_contain_text("says anything", timeout=120_000)
    expect(page.locator("#error")).to_have_text("")
    page.fill("#taste", "../yours")
    page.get_by_role("button", name="Teach", exact=True).click()
    expect(page.locator("#error")).to_contain_text("taste '../yours'")
    assert not [path for path in stage.run.parent.iterdir() if path != stage.run]


def test_a_server_killed_while_it_teaches_leaves_a_taste_that_goes_on(stage: Stage, visitor: Visit) -> None:
    before = stage.stages()
    guest = visitor()
    guest.allowed = "does not answer|ERR_CONNECTION_REFUSED|Failed to load|ERR_"
    page = guest.open(f"{stage.address}/teach")
    rank(page, 6)
    page.fill("#taste", "yours")
    page.get_by_role("button", name="Teach", exact=True).click()
    partial = stage.run / "tastes/yours/.rlhf.partial/metrics.jsonl"
    wait_until(lambda: partial.exists() and partial.read_bytes().count(b"\n") > 0, 120)
    stage.server.end(signal.SIGKILL)
    wait_until(lambda: not teachers(stage.run), 30)
    assert stage.stages() == before
    expect(page.locator("#error")).to_contain_text("does not answer")
    stage.server.start()
    page.reload()
    page.fill("#taste", "yours")
    expect(page.get_by_role("button", name="Begin it again")).to_be_visible()
    page.get_by_role("button", name="Continue where it stopped").click()
    expect(page.locator("#stage")).to_contain_text("done", timeout=180_000)
    assert stage.taste("yours")["stage"] == "rlhf"
    assert stage.stages() == before
    stage.server.end(signal.SIGINT)


def teachers(run: Path) -> list[int]:
    """Processes that teach a taste of this run."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                command = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            found += [int(process.name)] if b"--name" in command and str(run).encode() in command else []
    return found


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 1200])
def test_every_page_fits_and_is_accessible(stage: Stage, visitor: Visit, width: int, dark: bool) -> None:
    guest = visitor(width, dark)
    pages = {"/": "[data-who=rlhf] button", "/blind": "[data-choice='0']", "/teach": "#replies button"}
    for path, ready in pages.items():
        page = guest.open(stage.address + path)
        expect(page.locator(ready).first).to_be_enabled()
        if path == "/":
            page.get_by_label("Show what the judges say").check()
            expect(page.locator(".judged b")).to_have_count(4)
        if path == "/blind":
            page.keyboard.press("a")
            expect(page.locator("#rates tbody tr")).to_have_count(1)
        assert not too_wide(page), path
        assert not inaccessible(page), path
