"""The report of the reward model: its figures by hand, and a page that shows them and nothing else."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reward.evaluate import Bin, judge_pairs
from reward.labeller import ceiling_from_agreement, wilson_interval
from reward.rankings import Ranking
from reward.report import (
    EXTREMES,
    ROWS,
    Share,
    accuracy_by,
    accuracy_by_margin,
    details,
    extremes,
    gold_agreement,
    leaks,
    length_correlation,
    mutual_agreement,
    places_apart,
    self_agreement,
    source_of,
    write_report,
)

HOSTILE = '<script>alert(1)</script> \u202e {{ 7 * 7 }} & "x"'


def ranking(order: Sequence[Sequence[int]], prompt: str = "P:\n", **changes: Any) -> Ranking:
    texts = ["a", "bb", "ccc"]
    plain = Ranking(
        prompt=prompt,
        completions=texts,
        stopped=[True] * 3,
        ranking=[list(group) for group in order],
        annotator="me",
        policy="sft 0123456789ab",
        seed=0,
        prompt_ids=[0],
        completion_ids=[[1] * len(text) for text in texts],
    )
    return replace(plain, **changes)


def length(prompt: str, reply: str) -> float:
    return float(len(reply))


def test_a_pair_is_right_where_the_model_orders_it_as_the_label_does() -> None:
    judged = judge_pairs([ranking([[2], [0, 1]]), ranking([[0], [1]])], [[1.0, 3.0, 2.0], [5.0, 5.0, 0.0]])
    assert [(pair.better, pair.worse, pair.right) for pair in judged] == [(2, 0, 1.0), (2, 1, 0.0), (0, 1, 0.5)]


def test_accuracy_by_source_annotator_and_distance() -> None:
    rankings = [
        ranking([[2], [1], [0]]),
        ranking([[0], [1]], source="votes/mine.jsonl", policies=["sft", "rlhf", "sft"], annotator="you"),
        ranking([[0, 1, 2]], annotator="nobody"),
    ]
    # The model likes length: it is right on the first, wrong on the second; nothing can be said of the third.
    judged = judge_pairs(rankings, [[1.0, 2.0, 3.0]] * 3)
    by_source = accuracy_by(judged, source_of)
    assert by_source == {
        "sft": Share(1.0, *wilson_interval(3, 3), 3),
        "mine.jsonl: rlhf / sft": Share(0, *wilson_interval(0, 1), 1),
    }
    assert {name: share.n for name, share in accuracy_by(judged, lambda pair: pair.ranking.annotator).items()} == {
        "me": 3,
        "you": 1,
    }
    by_distance = accuracy_by(judged, places_apart)
    assert {name: (share.share, share.n) for name, share in by_distance.items()} == {
        "next to each other": (pytest.approx(2 / 3), 3),
        "2 places apart": (1.0, 1),
    }


def test_only_those_with_most_pairs_are_shown() -> None:
    rankings = [ranking([[2], [0]], annotator=f"a{number}") for number in range(ROWS + 3)] + [ranking([[2], [1], [0]])]
    shown = accuracy_by(judge_pairs(rankings, [[1.0, 2.0, 3.0]] * len(rankings)), lambda pair: pair.ranking.annotator)
    assert len(shown) == ROWS
    assert next(iter(shown)) == "me"


def test_accuracy_by_the_margin_of_the_scores() -> None:
    # Margins .1 to .8; the model errs where the margin is below .25.
    rankings = [ranking([[1], [0]], scores=[0.0, k / 10, 9.0]) for k in range(1, 9)]
    judged = judge_pairs(rankings, [[0.0, 1.0 if k > 2 else -1.0, 0.0] for k in range(1, 9)])
    found = accuracy_by_margin(judged)
    assert [(share.share, share.n) for share in found.values()] == [(0.0, 2), (1.0, 2), (1.0, 2), (1.0, 2)]
    assert next(iter(found)).startswith("0.00 to 0.2")
    assert accuracy_by_margin(judged[:7]) == {}
    assert accuracy_by_margin(judge_pairs([ranking([[1], [0]])] * 9, [[0.0, 1.0, 2.0]] * 9)) == {}


def test_agreement_with_oneself_and_with_others() -> None:
    def said(who: str, order: list[list[int]], minute: int, screen: str = "s") -> Ranking:
        return ranking(order, annotator=who, screen=screen, time=f"2026-01-01T00:{minute:02}:00+00:00")

    first, again, third = said("me", [[0], [1], [2]], 1), said("me", [[1], [0], [2]], 5), said("me", [[2], [1], [0]], 9)
    other = said("you", [[0], [1, 2]], 3)
    elsewhere = said("you", [[2], [0]], 3, "t")
    # Again turns one of three pairs round, the third time all of them: each against the first.
    assert self_agreement([third, again, other, first, elsewhere]) == Share.of(2 + 0, 6)
    # Two pairs as I do, the third a tie.
    assert mutual_agreement([again, other, first, elsewhere]) == Share.of(2.5, 3)
    assert self_agreement([first, other]) is None
    assert mutual_agreement([first, elsewhere]) is None
    assert self_agreement([ranking([[0], [1]])] * 2) is None  # no screen is named


def test_the_ceiling_that_self_agreement_allows() -> None:
    # Who prefers the likelier reply with .9 agrees with themselves in .81 + .01 of cases.
    assert ceiling_from_agreement(0.82) == pytest.approx(0.9)
    assert ceiling_from_agreement(1.0) == 1.0
    assert ceiling_from_agreement(0.5) == ceiling_from_agreement(0.2) == 0.5


def test_people_and_the_gold_judge() -> None:
    mine, scored = ranking([[2], [0, 1]]), ranking([[0], [1], [2]], scores=[3.0, 2.0, 1.0])
    assert gold_agreement([mine, ranking([[0], [1]]), scored], length) == Share.of(2, 3)
    assert gold_agreement([scored], length) is None


def test_leaks_are_found() -> None:
    training = [ranking([[0], [1]], "A"), ranking([[0], [1]], "A"), ranking([[1], [0]], "B")]
    other = replace(ranking([[0], [1]], "C"), completions=["x", "y", "z"])
    clean = {"prompts_on_both_sides": 0, "test_prompts_in_training": 0, "replies_on_both_sides": 0}
    assert leaks(training, [other], frozenset({"T"})) == clean | {"rankings_twice": 1}
    assert leaks(training, [other, training[2]], frozenset({"A", "B"})) == {
        "prompts_on_both_sides": 1,
        "test_prompts_in_training": 2,
        "replies_on_both_sides": 3,
        "rankings_twice": 1,
    }


def test_correlation_with_length() -> None:
    assert length_correlation([1.0, 2.0, 5.0], [3, 4, 9]) == 1.0
    assert length_correlation([1.0, 2.0, 3.0], [2, 3, 1]) == -0.5
    assert length_correlation([1.0, 1.0], [2, 3]) is None
    assert length_correlation([], []) is None


def test_the_highest_and_the_lowest_are_different_replies() -> None:
    texts = [str(number) for number in range(EXTREMES + 2)]
    one = replace(ranking([]), completions=texts, stopped=[True] * len(texts))
    highest, lowest = extremes([one, one], [[float(text) for text in texts]] * 2, length)
    assert [reading.reply for reading in highest] == ["6", "5", "4", "3", "2"]
    assert [reading.reply for reading in lowest] == ["0", "1"]
    assert (highest[0].reward, highest[0].gold, highest[0].prompt) == (6.0, 1.0, "P:\n")


RESULTS: dict[str, Any] = {
    "pairs": 60, "prompts": 18, "heldout_pairs": 2, "heldout_rankings": 1, "length_baseline": 0.5, "ece": 0.125,
    "accuracy_vs_gold": None, "length_correlation": -0.25, "rankings_repeated": 3, "replies_cut": 4,
    "replies_dropped": 5,
}  # fmt: skip


def page(path: Path, heldout: list[Ranking], metrics: list[dict[str, Any]], **changes: Any) -> str:
    judged = judge_pairs(heldout, [[1.0, 2.0, 3.0]] * len(heldout))
    found = details(judged, [ranking([[0], [1]], "T")], heldout, frozenset(), None, length)
    results = json.loads(json.dumps(RESULTS | {"details": found} | changes))  # as stage.json keeps it
    corpus = {"name": HOSTILE, "notice": HOSTILE}
    readings = extremes([ranking([], HOSTILE, completions=[HOSTILE, "", "ccc"])], [[1.0, 2.0, 3.0]], length)
    write_report(path, results, corpus, [Bin(2, 0.8, 0.5)] if judged else [], metrics, readings)
    return path.read_text("utf-8")


def test_the_page_shows_the_figures_and_escapes_what_others_wrote(tmp_path: Path) -> None:
    mine = [
        ranking([[2], [1]], annotator=HOSTILE, screen="s", time="1"),
        ranking([[2], [1], [0]], annotator="you", screen="s", source=f"{HOSTILE}.jsonl"),
        ranking([[2], [1]], annotator=HOSTILE, screen="s", time="2"),
    ]
    metrics = [{"comparisons": 8 * k, "heldout_accuracy": 0.5 + k / 10, "heldout_pairs": 2} for k in (1, 2)]
    text = page(tmp_path / "report.html", mine, [*metrics, {"comparisons": 17}])
    assert "<script" not in text
    assert "{{ 7 * 7 }}" in text
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("<svg") == 5  # by source, by annotator, by distance, calibration, learning curve
    assert "100.0%" in text  # of all pairs, and of the pair that came back
    assert "at most 100.0%" in text
    for figure in ("60 comparisons", "0.125", "-0.25", "says nothing", "on 2 held-out pairs"):
        assert figure in text, figure
    assert "two of them order a pair alike in 100.0%" in text


def test_the_page_without_held_out_rankings_says_so(tmp_path: Path) -> None:
    text = page(tmp_path / "report.html", [], [], ece=None, length_baseline=None, length_correlation=None)
    assert "No ranking was held out" in text
    assert "<svg" not in text
    assert "no annotator judged the same screen twice" in text
