"""The labelling page in a real browser: ranked by keys, by clicks and by keyboard alone; reloaded, killed."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import Visitor, inaccessible, needs_chromium, too_wide, wait_until
from tests.reward.ui.pages import Serve, judgements, prompt

pytestmark = [pytest.mark.slow, needs_chromium]
expect.set_options(timeout=30_000)


def shown(page: Page) -> list[int]:
    """The letters A to D of the replies as they are shown, as indices of the stored completions."""
    texts = page.locator("#replies .text").all_inner_texts()
    return ["ABCD".index(text.strip()[-2]) for text in texts]


def places(page: Page) -> list[str]:
    return page.locator("#replies .place").all_inner_texts()


def test_ranked_by_keys(served: Serve, visitor: Callable[..., Visitor]) -> None:
    run, _, address = served(12)
    page = visitor().open(address)
    prompt(page, 0)
    order = shown(page)
    assert sorted(order) == [0, 1, 2, 3]
    expect(page.locator("#hint")).to_have_text("Which reply is best?")
    for key in "31t4":
        page.keyboard.press(key)
    assert places(page) == ["2nd =", "", "1st", "2nd ="]
    expect(page.locator("#hint")).to_have_text("Which reply is 3rd?")
    page.keyboard.press("3")  # again: it loses its place
    assert places(page) == ["1st =", "", "", "1st ="]
    page.keyboard.press("3")
    page.keyboard.press("2")
    assert places(page) == ["1st =", "3rd", "2nd", "1st ="]
    page.keyboard.press("Enter")
    prompt(page, 1)
    expect(page.locator("#count")).to_have_text("1 of 12")
    [row] = judgements(run)
    assert row["ranking"] == [[order[0], order[3]], [order[2]], [order[1]]]
    assert row["shown"] == order
    assert 0 < row["seconds"] < 60
    # A partial ranking: two of four. One alone says nothing, and is not sent.
    order = shown(page)
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.keyboard.press("4")
    page.keyboard.press("Enter")
    prompt(page, 2)
    assert judgements(run)[1]["ranking"] == [[order[1]], [order[3]]]


def test_all_bad_skip_and_undo(served: Serve, visitor: Callable[..., Visitor]) -> None:
    run, _, address = served(12)
    page = visitor().open(address)
    prompt(page, 0)
    assert page.locator("[data-key=u]").is_disabled()
    page.keyboard.press("b")
    prompt(page, 1)
    page.keyboard.press("s")
    prompt(page, 2)
    assert [(row["ranking"], row.get("all_bad", False)) for row in judgements(run)] == [
        ([[0, 1, 2, 3]], True),
        ([], False),
    ]
    order = shown(page)
    for key in ("4", "2", "Enter"):
        page.keyboard.press(key)
    prompt(page, 3)
    page.keyboard.press("u")
    prompt(page, 2)
    assert shown(page) == order
    assert places(page) == ["", "2nd", "", "1st"]
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    prompt(page, 3)
    assert judgements(run)[2]["ranking"] == [[order[3]], [order[1]], [order[0]]]
    for number in (2, 1, 0):
        page.keyboard.press("u")
        prompt(page, number)
    assert not judgements(run)


def test_ranked_by_clicks(served: Serve, visitor: Callable[..., Visitor]) -> None:
    run, _, address = served(12)
    page = visitor().open(address)
    prompt(page, 0)
    order, replies = shown(page), page.locator(".reply")
    replies.nth(1).click()
    page.get_by_role("button", name="Tie").click()
    expect(page.locator("#hint")).to_have_text("Which reply shares the 1st place?")
    replies.nth(0).click()
    replies.nth(2).click()
    assert replies.nth(2).get_attribute("aria-pressed") == "true"
    assert replies.nth(3).get_attribute("aria-pressed") == "false"
    page.keyboard.press("Enter")  # after a click a reply has the focus: Enter submits all the same
    prompt(page, 1)
    assert judgements(run)[0]["ranking"] == [[order[1], order[0]], [order[2]]]
    page.get_by_role("button", name="All bad").click()
    prompt(page, 2)
    page.get_by_role("button", name="Skip").click()
    prompt(page, 3)
    page.get_by_role("button", name="Undo").click()
    prompt(page, 2)
    replies.nth(0).click()
    replies.nth(3).click()
    page.get_by_role("button", name="Submit").click()
    prompt(page, 3)
    assert len(judgements(run)) == 3


def test_keyboard_alone_and_nothing_is_hidden_from_it(served: Serve, visitor: Callable[..., Visitor]) -> None:
    run, _, address = served(12)
    page = visitor().open(address)
    prompt(page, 0)
    assert page.evaluate("document.activeElement.id") == "prompt"  # where a screen reader begins
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.dataset.key || document.activeElement.className"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
        if len(reached) in (2, 3):
            page.keyboard.press("Space")
    assert reached[:4] == ["reply"] * 4
    assert reached[4:8] == ["enter", "t", "b", "s"]  # undo has nothing to take back
    assert places(page) == ["", "1st", "2nd", ""]
    page.locator("[data-key=enter]").focus()
    page.keyboard.press("Enter")
    prompt(page, 1)
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.locator("[data-key=s]").focus()
    page.keyboard.press("Enter")  # of what has the focus, not of the page
    prompt(page, 2)
    assert [bool(row["ranking"]) for row in judgements(run)] == [True, False]
    # What is typed into a field is no ranking.
    page.get_by_label("Annotator").fill("")
    page.get_by_label("Annotator").press_sequentially("bus1")
    page.keyboard.press("Enter")
    page.wait_for_url("**annotator=bus1")
    prompt(page, 0)
    assert len(judgements(run)) == 2


def test_reloaded_in_the_middle(served: Serve, visitor: Callable[..., Visitor]) -> None:
    run, _, address = served(12)
    page = visitor().open(address)
    for number in range(3):
        prompt(page, number)
        page.keyboard.press("b")
    prompt(page, 3)
    order = shown(page)
    page.keyboard.press("1")
    page.reload()
    prompt(page, 3)
    assert shown(page) == order
    assert places(page) == [""] * 4
    assert len(judgements(run)) == 3


def test_nothing_is_lost_while_the_server_is_away(served: Serve, visitor: Callable[..., Visitor]) -> None:
    run, serving, address = served(12)
    someone = visitor()
    someone.allowed = "ERR_CONNECTION_REFUSED"
    page = someone.open(address)
    prompt(page, 0)
    order = shown(page)
    serving.end(signal.SIGKILL)
    for key in ("2", "1", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_role("alert")).to_contain_text("nothing is lost, trying again")
    page.keyboard.press("b")  # nothing more is taken until that is saved
    serving.start()
    prompt(page, 1)
    expect(page.get_by_role("alert")).to_be_empty()
    assert [row["ranking"] for row in judgements(run)] == [[[order[1]], [order[0]]]]
    # The page is closed before the server is back: what was not confirmed is sent by the next one.
    serving.end(signal.SIGKILL)
    page.keyboard.press("b")
    expect(page.get_by_role("alert")).to_contain_text("nothing is lost")
    page.close()
    serving.start()
    page = someone.open(address)
    prompt(page, 2)
    assert [row.get("all_bad") for row in judgements(run)] == [None, True]


def test_two_annotators_at_once_see_how_far_they_agree(served: Serve, visitor: Callable[..., Visitor]) -> None:
    run, _, address = served(12)
    pages = {name: visitor().open(f"{address}/?annotator={name}") for name in ("anna", "Zoë 2")}
    for number in range(2):
        for page in pages.values():
            prompt(page, number)
            for letter in [0, 1, 2, 3] if number else [0, 1, 3, 2]:
                page.keyboard.press(str(shown(page).index(letter) + 1))
            page.keyboard.press("Enter")
            prompt(page, number + 1)
    expect(pages["Zoë 2"].locator("#agreement")).to_have_text("agreement on pairs: with others 100 % (n = 12)")
    pages["anna"].reload()
    expect(pages["anna"].locator("#agreement")).to_have_text("agreement on pairs: with others 100 % (n = 12)")
    assert [len(judgements(run, name)) for name in pages] == [2, 2]


def test_two_tabs_of_one_annotator_do_not_judge_a_screen_twice(served: Serve, visitor: Callable[..., Visitor]) -> None:
    run, _, address = served(12)
    someone = visitor()
    someone.allowed = "400"
    first, second = someone.open(address), someone.open(address)
    prompt(first, 0)
    prompt(second, 0)
    first.keyboard.press("b")
    prompt(first, 1)
    second.keyboard.press("s")
    expect(second.get_by_role("alert")).to_contain_text("judged elsewhere")
    prompt(second, 1)
    second.keyboard.press("s")
    prompt(second, 2)
    expect(second.get_by_role("alert")).to_be_empty()
    assert len(judgements(run)) == 2


def test_the_tenth_screen_is_an_earlier_one_and_the_last_says_so(
    served: Serve, visitor: Callable[..., Visitor]
) -> None:
    run, _, address = served(10)
    page = visitor().open(address)
    prompt(page, 0)
    for count in range(1, 12):
        before = page.locator("#prompt").inner_text()
        for key in ("1", "2", "3", "4", "Enter"):
            page.keyboard.press(key)
        if count < 11:
            expect(page.locator("#prompt")).not_to_have_text(before)
    expect(page.locator("#prompt")).to_contain_text("Thank you")
    expect(page.locator("#count")).to_have_text("10 of 10")
    expect(page.locator("#agreement")).to_contain_text("% (n = 6)")
    assert page.locator(".reply").count() == 0
    assert [row["repeat"] for row in judgements(run)] == [False] * 9 + [True, False]
    page.keyboard.press("u")
    expect(page.locator("#count")).to_have_text("9 of 10")


def test_exported_and_deleted(served: Serve, visitor: Callable[..., Visitor], tmp_path: Path) -> None:
    run, _, address = served(12)
    page = visitor().open(address)
    for number in range(2):
        prompt(page, number)
        page.keyboard.press("b")
    prompt(page, 2)
    with page.expect_download() as download:
        page.get_by_role("link", name="Export").click()
    assert download.value.suggested_filename == "me.jsonl"
    download.value.save_as(tmp_path / "exported")
    assert (tmp_path / "exported").read_bytes() == (run / "labels/rankings/me.jsonl").read_bytes()
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Delete").click()
    assert len(judgements(run)) == 2
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    prompt(page, 0)
    assert not judgements(run)


def test_replies_are_drawn_while_one_looks(served: Serve, visitor: Callable[..., Visitor]) -> None:
    run, _, address = served(0)
    page = visitor().open(address)
    for count in range(1, 4):
        expect(page.locator(".reply").nth(1)).to_be_visible()
        page.keyboard.press("s")
        expect(page.locator("#count")).to_have_text(f"{count} of 3")
    expect(page.locator("#prompt")).to_contain_text("Thank you")
    assert len(judgements(run)) == 3


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 1200])
def test_it_fits_and_is_accessible(width: int, dark: bool, served: Serve, visitor: Callable[..., Visitor]) -> None:
    _, _, address = served(12)
    page = visitor(width, dark).open(address)
    prompt(page, 0)
    for key in "21t4":
        page.keyboard.press(key)
    assert not too_wide(page)
    assert not inaccessible(page)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor").removeprefix("rgb(").partition(",")[0]
    assert (int(paper) < 128) == dark
    page.evaluate("document.getElementById('error').textContent = 'Something is wrong.'")
    for _ in range(3):
        page.keyboard.press("s")
    assert not inaccessible(page)
    wait_until(lambda: not too_wide(page))
