"""The rule that stands in for a person in the picture of the page Teach."""

import runpy
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "docs" / "teach_picture.py"


@pytest.fixture
def keys_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], list[str]]:
    monkeypatch.syspath_prepend(SCRIPT.parents[1] / "bench")  # and take it away again, with what the script adds
    function: Callable[[Sequence[str]], list[str]] = runpy.run_path(str(SCRIPT))["keys_for"]
    return function


def test_replies_that_ask_share_the_first_place(keys_for: Callable[[Sequence[str]], list[str]]) -> None:
    assert keys_for(["No.", "Who? ", "Nay.", "What?"]) == ["2", "t", "4", "1", "t", "3", "Enter"]
    assert keys_for(["No.", "Nay.", "Aye?"]) == ["3", "1", "t", "2", "Enter"]
    assert keys_for(["No.", "Nay."]) == keys_for(["Who?", "What?"]) == ["b"]
