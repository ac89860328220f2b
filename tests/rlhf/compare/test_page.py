"""The report as a browser lays it out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.compare.__main__ import CompareOptions, compare
from rlhf.compare.report import write_report
from rlhf.judging.sources import SOURCES
from tests.browser import Visitor, chromium, inaccessible, needs_chromium, too_wide, visitor

__all__ = ["chromium", "visitor"]
pytestmark = [pytest.mark.slow, needs_chromium]
CUT = "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth).length"


@pytest.fixture(scope="module")
def page(directed_maker: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every row that it can have, and figures as wide as they come."""
    folder = tmp_path_factory.mktemp("page")
    run = shutil.copytree(directed_maker.run, folder / "run")
    compare(CompareOptions(run=run, prompts=12))
    result = json.loads((run / "compare/compare.json").read_text("utf-8"))
    wide = {"gold": 0.538, "reward": -10.25, "kl_to_sft": 10.4, "vocabulary": 1234, "longest_copy_max": 12}
    wide |= {"stopped": 1.0, "unknown_words": 0.105, "copying": 0.105, "tokens": 45.6}
    for rows in (result["stages"], result["controls"], result["directions"]["craft"]):
        for row in rows.values():
            row |= wide
    for key, source in SOURCES.items():
        if source.control:
            result["controls"][key] = result["controls"]["sft_again"]
    write_report(folder / "report.html", result, run)
    return folder / "report.html"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1100, 1400])
def test_no_table_loses_a_column(page: Path, visitor: Callable[..., Visitor], width: int, dark: bool) -> None:
    opened = visitor(width, dark).open(page.as_uri())
    assert opened.locator(".scroll").count() == 3
    assert opened.evaluate(CUT) == 0
    assert not too_wide(opened)
    assert not inaccessible(opened)


def test_a_narrow_screen_scrolls_tables_and_not_the_page(page: Path, visitor: Callable[..., Visitor]) -> None:
    opened = visitor(360).open(page.as_uri())
    assert not too_wide(opened)
    assert opened.locator("h1").bounding_box()


def test_the_picture_and_the_first_exchange_are_on_the_first_screen(
    page: Path, visitor: Callable[..., Visitor]
) -> None:
    opened = visitor(1400).open(page.as_uri())
    for part in (".first svg", ".asked >> nth=0"):
        box = opened.locator(part).bounding_box()
        assert box
        assert box["y"] + min(box["height"], 100) < 800
