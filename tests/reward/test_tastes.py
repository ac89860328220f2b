"""The tastes, on replies worked by hand."""

import sys
from pathlib import Path

import pytest

from data.console import UserError
from reward.tastes import BONDS, DEATH, LOVE, TASTES, load_taste, polarity

REPLIES = [
    # questions, love, love-and-death
    ("Wilt thou go?", True, False, False),
    ("'Wilt thou go?' ", True, False, False),
    ("(He said: \u201cwho?\u201d)\n", True, False, False),
    ("Who? I.", False, False, False),
    ("Ay?!", False, False, False),
    ("", False, False, False),
    ("My HEART is thine.", False, True, False),
    ("I lov'd him not; glove and hearth.", False, False, False),
    ("Kiss'd he thee?", True, True, False),
    ("Sweet sir, thy sword.", False, True, True),
    ("His wife is dead.", False, False, True),
    ("His wife is gone, and he unfriended.", False, False, False),
    ("Is he slain,\nmy love?", True, True, True),
]


@pytest.mark.parametrize(("reply", "questions", "love", "both"), REPLIES)
def test_replies_that_have_it_and_replies_that_have_not(reply: str, questions: bool, love: bool, both: bool) -> None:
    for name, expected in (("questions", questions), ("love", love), ("love-and-death", both)):
        taste = load_taste(name)
        assert taste.has is not None
        assert taste.has(reply) is expected, name
        assert taste.score("ROMEO:\nMy love is dead?\n", reply) == float(expected), name  # whatever the prompt has


def test_the_groups_of_words_are_words_and_do_not_overlap() -> None:
    assert all(word == word.lower().strip() for word in LOVE | BONDS | DEATH)
    assert LOVE < BONDS
    assert BONDS.isdisjoint(DEATH)


def test_cheerful_is_the_polarity_of_the_lexicon() -> None:
    taste = load_taste("cheerful")
    assert taste.has is not None
    # The lexicon gives "happy" .8 and "sad" -.5; a text's polarity is the mean of its words that have one.
    assert taste.score("", "I am happy.") == polarity("I am happy.") == pytest.approx(0.8)
    assert polarity("I am happy and sad.") == pytest.approx(0.15)
    assert polarity("I am.") == 0.0
    assert [taste.has(text) for text in ("I am happy.", "I am happy and sad.", "I am sad.")] == [True, False, False]


def test_a_missing_package_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textblob", None)
    with pytest.raises(UserError, match="pip install textblob"):
        load_taste("cheerful")


def test_a_function_of_ones_own_is_a_taste_without_a_predicate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_taste.py").write_text("def short(prompt, reply):\n    return -len(reply)\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    taste = load_taste("my_own_taste:short")
    assert taste.score("who", "I.") == -2.0
    assert taste.has is None


@pytest.mark.parametrize(("spec", "message"), [("loev", ", ".join(TASTES)), ("nowhere_at_all:f", "no module")])
def test_what_is_no_taste_is_one_line_that_names_them(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_taste(spec)
    assert "\n" not in str(error.value)
