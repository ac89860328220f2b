"""The labelling page and what is hostile to it: texts, names, pages of another origin, visitors without the token."""

import contextlib
from collections.abc import Callable

import pytest
from playwright.sync_api import Error, expect

from tests.browser import Visitor, needs_chromium, too_wide
from tests.reward.ui.pages import Serve, judgements, prompt

pytestmark = [pytest.mark.slow, needs_chromium]
expect.set_options(timeout=30_000)

HOSTILE = (
    "</div><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>&lt;b&gt;{{ 7 * 7 }}"
    "\u202edesrever\u2066\u200f\x1b[31m\x07\u2028"
)


def test_hostile_text_is_shown_as_text(served: Serve, visitor: Callable[..., Visitor]) -> None:
    name = "x<b>"  # is no name
    run, _, address = served(3, prompt=HOSTILE + "Prompt", reply=HOSTILE + "x" * 250_000)
    someone = visitor(width=320)
    page = someone.open(address)
    prompt(page, 0)
    assert HOSTILE in page.locator("#prompt").evaluate("element => element.textContent")
    assert all(
        HOSTILE in text for text in page.locator("#replies .text").evaluate_all("all => all.map(e => e.textContent)")
    )
    assert page.locator("main img, main b, main div div").count() == 0
    assert page.evaluate("window.hacked") is None
    assert {"isolate"} == set(
        page.locator(".text").evaluate_all("all => all.map(e => getComputedStyle(e).unicodeBidi)")
    )
    assert not too_wide(page)
    # What follows a text that turns the direction around stands where it always does.
    box = page.locator(".place").first.bounding_box()
    assert box
    assert box["x"] > 160
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    prompt(page, 1)
    assert HOSTILE in judgements(run)[0]["prompt"]
    someone.allowed = "400"
    page.goto(f"{address}/?annotator={name}")
    expect(page.get_by_role("alert")).to_contain_text("annotator")
    page.keyboard.press("b")
    assert len(list((run / "labels/rankings").iterdir())) == 1


def test_a_page_of_another_origin_cannot_do_anything(served: Serve, visitor: Callable[..., Visitor]) -> None:
    run, _, address = served(3)
    someone = visitor()
    page = someone.open(address)
    prompt(page, 0)
    page.keyboard.press("b")
    prompt(page, 1)
    someone.allowed = "evil.example|Failed to load|ERR_|403|415|frame"
    someone.context.route(
        "http://evil.example/**", lambda route: route.fulfill(body="<p>evil", content_type="text/html")
    )
    evil = someone.open("http://evil.example/")
    attack = """async ([address, type, mode]) => {
        const body = JSON.stringify({ annotator: "me" });
        await fetch(address + "/label/delete", { method: "POST", mode, body, headers: { "Content-Type": type } });
    }"""
    for kind, mode in (("application/json", "cors"), ("text/plain", "no-cors")):
        with contextlib.suppress(Error):  # "Failed to fetch", where the browser asks first
            evil.evaluate(attack, [address, kind, mode])
    evil.evaluate(
        "address => document.body.append(Object.assign(document.createElement('iframe'), { src: address }))", address
    )
    evil.wait_for_timeout(300)
    assert not evil.frames[-1].locator("#prompt").count()
    assert len(judgements(run)) == 1


def test_a_token_is_taken_from_the_address_once(served: Serve, visitor: Callable[..., Visitor]) -> None:
    _, _, address = served(3, "--token", "a-long-token")
    someone = visitor()
    page = someone.open(address)
    prompt(page, 0)
    assert "token" not in page.url
    page.keyboard.press("b")
    prompt(page, 1)
    page.reload()
    prompt(page, 1)
    other = visitor()
    other.allowed = "401"
    assert "token" in other.open(page.url).inner_text("body")
