"""Tables of one's own, and each fault of theirs as one line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.console import UserError
from data.directions.direction import Direction, Spec, inferred
from data.directions.specs import check_specs, load_specs
from data.directions.table import SPECS


def row(**changes: Any) -> Spec:
    usual = Spec("ask", "asking", lambda r: "?" in r, lambda r: float("?" in r), lambda r: "" if "?" in r else None)
    return replace(usual, **changes)


def says(reply: str, word: str) -> bool:
    return word in reply


def test_tables_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_specs("built-in") == SPECS
    assert load_specs("none") == ()
    (tmp_path / "tables_of_mine.py").write_text(
        "from data.directions.specs import Spec\n"
        "class Of:\n"
        "    COMEDY = [Spec('ask', 'asking', lambda r: '?' in r, lambda r: 1.0, lambda r: None)]\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    (own,) = load_specs("tables_of_mine:Of.COMEDY")
    assert own.text == "asking"


def test_a_module_that_cannot_be_imported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_a_table.py").write_text("SPECS = [\n", "utf-8")
    (tmp_path / "wrong_table.py").write_text("from data.directions.specs import Spec\nSPECS = [Spec('ask')]\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name, message in (
        ("half_a_table:SPECS", "half_a_table raised SyntaxError"),
        ("wrong_table:SPECS", "wrong_table raised TypeError"),
        ("nowhere_at_all:SPECS", "no module 'nowhere_at_all'; run in the folder that holds it"),
        ("tests:SPECS", "name something that tests defines"),
        ("asking", "write it as built-in, none or module:SPECS"),
        ("", "write it as built-in, none or module:SPECS"),
    ):
        with pytest.raises(UserError, match=message):
            load_specs(name)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "give a list of"),
        ("asking", "give a list of"),
        ([], "give a list of"),
        ({"asking": 1}, "give a list of"),
        (row(), "give a list of"),
        ([row(), "telling"], "give a list of"),
        ([row(text="asking, loudly")], "words without comma, colon or line break, not 'asking, loudly'"),
        ([row(text="asking:")], "without comma, colon"),
        ([row(text=" asking")], "without comma, colon"),
        ([row(text="")], "without comma, colon"),
        ([row(text=3)], "without comma, colon"),
        ([row(kind="a\nb")], "without comma, colon"),
        ([row(text="{}")], "words and at most one place"),
        ([row(text="{} or {}")], "words and at most one place"),
        ([row(check="asking")], "check of 'asking' is not a function"),
        ([row(score=None)], "score of 'asking' is not a function"),
        ([row(infer=1)], "infer of 'asking' is not a function"),
        ([row(), row(kind="other")], "has 'asking' twice: a heading could not say which is meant"),
        ([row(text="to {}"), row(text="to all")], "has 'to all' twice"),
        ([row(text="to all"), row(text="to {}")], "has 'to all' twice"),
    ],
)
def test_what_is_no_table(found: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_specs(found, "--directions x:SPECS")


def test_a_good_table_is_taken_as_it_is() -> None:
    rows = [row(), row(text="saying {}", check=says)]
    assert check_specs(rows, "x") == tuple(rows)
    assert check_specs(SPECS, "x") == SPECS


def raising(*_: Any) -> Any:
    raise ValueError("no idea")


@pytest.mark.parametrize(
    ("spec", "use", "message"),
    [
        (row(check=raising), lambda d: d.followed("So?"), "its check raised ValueError: no idea; correct it"),
        (row(check=lambda: True), lambda d: d.followed("So?"), "its check raised TypeError"),
        (row(check=lambda r: 1), lambda d: d.followed("So?"), "its check gave 1: return True or False"),
        (row(check=lambda r: None), lambda d: d.followed("So?"), "its check gave None"),
        (row(score=raising), lambda d: d.nearly("So?"), "its score raised ValueError"),
        (row(score=lambda r: 1.5), lambda d: d.nearly("So?"), r"its score gave 1\.5: return a number from 0 to 1"),
        (row(score=lambda r: float("nan")), lambda d: d.nearly("So?"), "its score gave nan"),
        (row(score=lambda r: True), lambda d: d.nearly("So?"), "its score gave True"),
        (row(score=lambda r: "1"), lambda d: d.nearly("So?"), "its score gave '1'"),
        (row(infer=raising), lambda d: inferred(d.spec, "So?"), "its infer raised ValueError"),
        (row(infer=lambda r: True), lambda d: inferred(d.spec, "So?"), 'its infer gave True: return "", or None'),
        (row(infer=lambda r: "so"), lambda d: inferred(d.spec, "So?"), "its infer gave 'so'"),
        (row(infer=lambda r: ""), lambda d: inferred(d.spec, "So."), "its infer finds it where its check does not"),
    ],
)
def test_a_row_that_fails_says_so(spec: Spec, use: Callable[[Direction], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        use(Direction(spec))


def test_a_value_that_no_heading_can_hold_is_none() -> None:
    spec = row(text="saying {}", check=says, infer=lambda r: r)
    assert inferred(spec, "so") == Direction(spec, "so")
    for reply in ("so so", "so,", "so:", "so\n"):
        assert inferred(spec, reply) is None
    with pytest.raises(UserError, match="return the value of its place, or None"):
        inferred(spec, "")
