"""What changed, in words: the log-odds against values worked by hand, and what must hold of any texts."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.run.page import write_page
from reward.gold.judge import words_and_marks
from rlhf.judging.metrics import wilson_interval
from rlhf.judging.panel import SHOWN, words_panel
from rlhf.judging.replies import Replies
from rlhf.judging.words import FEWEST, Changes, beyond_chance, count_words, rates, what_changed, word_uses

WORDS = st.sampled_from(["love", "death", "my", "?", ",", "--"])
COUNTS = st.dictionaries(WORDS, st.integers(0, 500), max_size=6)


def replies(*texts: str) -> Replies:
    return Replies([*texts], [[0]] * len(texts), [True] * len(texts))


def test_log_odds_by_hand() -> None:
    # The prior of 6 words: (2 + 1) / (3 + 3) of them "a", (1 + 1) / 6 "b", and 1 / 6 "c", which no reply has.
    uses = {use.word: use for use in word_uses({"a": 3, "b": 1}, {"a": 1, "b": 7}, {"a": 2, "b": 1, "c": 0}, alpha0=6)}
    assert set(uses) == {"a", "b"}
    # a: 3 + 3 of 4 + 6 before, 1 + 3 of 8 + 6 after; b: 1 + 2 of 10 before, 7 + 2 of 14 after.
    log_odds = math.log(4 / 10) - math.log(6 / 4)
    assert uses["a"].log_odds == pytest.approx(log_odds)
    assert uses["a"].z == pytest.approx(log_odds / math.sqrt(1 / 6 + 1 / 4))
    log_odds = math.log(9 / 5) - math.log(3 / 7)
    assert uses["b"].log_odds == pytest.approx(log_odds)
    assert uses["b"].z == pytest.approx(log_odds / math.sqrt(1 / 3 + 1 / 9))
    assert (uses["b"].before, uses["b"].after) == (1, 7)


def test_a_stronger_prior_asks_for_more() -> None:
    z = [word_uses({"a": 5, "b": 95}, {"a": 20, "b": 80}, {"a": 50, "b": 950}, alpha0)[0].z for alpha0 in (1, 100, 1e5)]
    assert z[0] > z[1] > z[2] > 0


@settings(deadline=None)
@given(COUNTS, COUNTS, COUNTS)
def test_swapped_sides_negate_z(before: dict[str, int], after: dict[str, int], prior: dict[str, int]) -> None:
    there = {use.word: use for use in word_uses(before, after, prior)}
    back = {use.word: use for use in word_uses(after, before, prior)}
    assert set(there) == set(back)
    for word, use in there.items():
        assert back[word].z == -use.z
        assert back[word].log_odds == -use.log_odds
        assert (back[word].before, back[word].after) == (use.after, use.before)


@settings(deadline=None)
@given(COUNTS, COUNTS)
def test_the_same_counts_differ_in_nothing(counts: dict[str, int], prior: dict[str, int]) -> None:
    uses = word_uses(counts, counts, prior)
    assert all(use.z == 0 for use in uses)
    assert not beyond_chance(uses)


def test_what_is_beyond_chance_is_beyond_1_96() -> None:
    prior = Counter({f"w{number}": 100 for number in range(300)})
    rng = random.Random(0)
    before, after = (Counter(rng.choices([*prior], k=12_000)) for _ in range(2))
    uses = word_uses(before, after, prior)
    assert any(abs(use.z) >= 1.96 for use in uses)
    assert not beyond_chance(uses), "two draws of one source differ by chance alone"
    after["w7"] += 60
    found = beyond_chance(word_uses(before, after, prior))
    assert [use.word for use in found] == ["w7"]
    assert found[0].z > 1.96


def test_words_and_marks() -> None:
    assert words_and_marks("O, I\u2019ll\u2014why?! 'Tis--") == ["o", ",", "i'll", "--", "why", "?", "!", "tis", "--"]
    assert count_words(["No, no.", "No?"]) == {"no": 3, ",": 1, ".": 1, "?": 1}


def test_what_changed_names_the_words_and_counts_their_replies() -> None:
    before = replies(*["Good my lord, no."] * 40)
    after = replies(*["My lord, why\nnot?"] * 40)
    usual = Counter({"my": 50, "lord": 50, ",": 80, ".": 60, "?": 20, "why": 10, "no": 10, "not": 20, "good": 10})
    changes = what_changed(before, after, usual, {"has a lord": lambda text: "lord" in text})
    assert {use.word for use in changes.more} == {"why", "not", "?"}
    assert {use.word for use in changes.less} == {"good", "no", "."}
    z = [use.z for use in changes.more] + [-use.z for use in changes.less]
    assert z[:3] == sorted(z[:3], reverse=True)
    assert z[3:] == sorted(z[3:], reverse=True)
    found = {rate.name: rate for rate in changes.rates}
    assert next(iter(found)) == "has a lord"
    assert (found["has “why”"].before.value, found["has “why”"].after.value) == (0, 1)
    assert (changes.before_total, changes.after_total) == (240, 240)
    assert changes.compared == 9
    rare = what_changed(replies("Why?"), replies("Good."), usual)
    assert (rare.more, rare.less, rare.compared) == ([], [], 0), f"nothing is used {FEWEST} times"


def test_rates_by_hand() -> None:
    before = replies("Who?", "Go!", "One,\ntwo.", "")
    after = Replies(["Why, who?\nI?”", "No.", "A\nb\nc", "So?"], [[0]] * 4, [True, False, True, True])
    found = {rate.name: rate for rate in rates(before, after, ["who", "?"], {})}
    shares = {name: (4 * rate.before.value, 4 * rate.after.value) for name, rate in found.items() if rate.share}
    assert shares == {
        "ends with a question": (1, 2), "exclaims": (1, 0), "one line": (2, 2), "two lines": (1, 1),
        "more lines": (0, 1), "stops by itself": (4, 3), "has “who”": (1, 1), "has “?”": (1, 2),
    }  # fmt: skip
    stops = found["stops by itself"].after
    assert (stops.low, stops.high) == pytest.approx(wilson_interval(3, 4))
    assert (found["words per reply"].before.value, found["words per reply"].after.value) == (1, 2)
    # Of the first 4 words of each: no neighbours but one-two; why-who, who-i.
    assert (found["distinct-2"].before.value, found["distinct-2"].after.value) == (1, 1)
    assert found["distinct-2"].after.low is None


def panel_page(tmp_path: Path, changes: Changes) -> str:
    template = '{% extends "page.html.j2" %}{% from "rlhf/judging/words.html.j2" import panel %}'
    (tmp_path / "a.j2").write_text(template + "{% block main %}{{ panel(words) }}{% endblock %}", "utf-8")
    shown = json.loads(json.dumps(changes.to_json()))
    words = words_panel(shown, ("SFT", "sft"), ("<b>", "rlhf"))
    write_page(tmp_path / "a.html", tmp_path, "a.j2", words=words)
    return (tmp_path / "a.html").read_text("utf-8")


def test_the_panel_shows_what_changed(tmp_path: Path) -> None:
    before = replies(*["My lord, no."] * 40)
    after = replies(*[" ".join(f"w{number}" for number in range(SHOWN + 3)) for _ in range(40)])
    page = panel_page(tmp_path, what_changed(before, after, Counter({"my": 10, "lord": 10})))
    assert "and 3 more" in page
    assert page.count('<td class="word">') == SHOWN + 5
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert "has “my”" in page


def test_the_panel_says_that_nothing_changed(tmp_path: Path) -> None:
    same = replies(*["My lord, no."] * 40)
    page = panel_page(tmp_path, what_changed(same, same, Counter({"my": 10})))
    assert "No word or punctuation mark changed beyond chance." in page
    assert '<td class="word">' not in page
