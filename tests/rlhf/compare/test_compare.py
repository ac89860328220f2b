"""The comparison on a run of tiny models, made through the stages' own contract."""

import copy
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.console import UserError
from data.dialogue import heldout_pairs
from data.run.page import COLOURS
from data.run.record import parent_of, read_stage
from reward.gold.judge import GoldJudge
from rlhf.compare.__main__ import CompareOptions, compare
from rlhf.compare.report import verdict, write_report
from rlhf.judging.metrics import win_rate
from rlhf.judging.panel import SHOWN
from rlhf.judging.sources import COMPARISONS, SOURCES, STAGES, Comparison, Source
from rlhf.judging.words import count_words

PROMPTS = 12
FIGURES = {
    "n", "gold", "gold_low", "gold_high", "terms", "reward", "reward_low", "reward_high", "kl_to_sft",
    "tokens", "words", "stopped", "distinct_1", "distinct_2", "vocabulary", "unknown_words", "longest_copy_mean",
    "longest_copy_max", "copying",
}  # fmt: skip


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory, run_maker: type[Any]) -> Any:
    maker = run_maker(tmp_path_factory.mktemp("compare"))
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    maker.reward_model()
    maker.language_model("rlhf", "sft", seed=4)
    compare(CompareOptions(run=maker.run, prompts=PROMPTS))
    return maker


@pytest.fixture(scope="module")
def result(maker: Any) -> dict[str, Any]:
    return json.loads((maker.run / "compare/compare.json").read_text("utf-8"))


@pytest.fixture
def copied(maker: Any, tmp_path: Path) -> Any:
    """A copy of the run, to be spoiled."""
    spoiled = copy.copy(maker)
    spoiled.run = tmp_path / "run"
    shutil.copytree(maker.run, spoiled.run)
    return spoiled


def test_figures_of_every_stage_and_control(result: dict[str, Any]) -> None:
    assert list(result["stages"]) == ["pretrain", "sft", "rlhf", "original"]
    assert set(result["controls"]) == {"sft_again", "sft_t07", "best_of_4"}
    for name, row in (result["stages"] | result["controls"]).items():
        assert set(row) == FIGURES, name
        assert row["n"] == PROMPTS
        assert row["gold_low"] <= row["gold"] <= row["gold_high"]
        assert all(0 <= value <= 1 for value in row["terms"].values())
        assert 0 <= row["stopped"] <= 1
        assert row["vocabulary"] == pytest.approx(row["distinct_1"] * result["diversity_words"])
    assert result["stages"]["sft"]["kl_to_sft"] == 0
    assert result["controls"]["sft_again"]["kl_to_sft"] == 0
    assert result["stages"]["rlhf"]["kl_to_sft"] > 0.5  # trained from another seed
    assert result["stages"]["original"]["kl_to_sft"] is None
    assert result["controls"]["best_of_4"]["kl_to_sft"] == pytest.approx(math.log(4) - 0.75)
    assert result["controls"]["best_of_4"]["reward"] > result["controls"]["sft_again"]["reward"]
    for policy in ("sft", "rlhf"):
        figures = result["reward_model"][policy]
        assert 0 <= figures["heldout_accuracy"] <= 1
        assert 0.5 <= figures["accuracy_ceiling"] <= 1
        assert sum(each["pairs"] for each in figures["calibration"]) == figures["pairs"]


def test_rates_follow_from_the_samples(maker: Any, result: dict[str, Any]) -> None:
    pairs, gold = heldout_pairs(maker.corpus.validation).test[:PROMPTS], GoldJudge(maker.corpus.train)
    assert [sample["prompt"] for sample in result["samples"]] == [pair.prompt for pair in pairs]
    assert [sample["original"] for sample in result["samples"]] == [pair.completion for pair in pairs]
    scores = {name: [gold(sample["prompt"], sample[name]) for sample in result["samples"]] for name in result["stages"]}
    for name in ("rlhf_vs_sft", "rlhf_vs_pretrain", "sft_vs_pretrain", "rlhf_vs_play", "sft_vs_play"):
        first, second = COMPARISONS[name].first, COMPARISONS[name].second
        expected = win_rate(scores[first], scores[second])._asdict()
        assert {key: result["win_rates"][name][key] for key in expected} == pytest.approx(expected)


def test_words_that_changed_follow_from_the_samples(maker: Any, result: dict[str, Any]) -> None:
    changes, page = result["words"], (maker.run / "compare/report.html").read_text("utf-8")
    replies = [[sample[name] for sample in result["samples"]] for name in ("sft", "rlhf")]
    assert [changes["before_total"], changes["after_total"]] == [count_words(texts).total() for texts in replies]
    asked = next(rate for rate in changes["rates"] if rate["name"] == "exclaims")
    assert [asked[side]["value"] for side in ("before", "after")] == [
        sum("!" in text for text in texts) / PROMPTS for texts in replies
    ]
    assert page.count('<td class="word">') == len(changes["more"][:SHOWN]) + len(changes["less"][:SHOWN])
    assert "What changed, in words" in page


def test_pretrained_replies_end_at_the_first_blank_line(result: dict[str, Any]) -> None:
    assert not any("\n\n" in sample["pretrain"] or sample["pretrain"][:1] == "\n" for sample in result["samples"])


def test_folder_keeps_the_contract(maker: Any, result: dict[str, Any]) -> None:
    record = read_stage(maker.run / "compare", "compare")
    assert record.parent == parent_of(read_stage(maker.run / "rlhf"))
    assert record.results["win_rates"] == result["win_rates"]
    assert record.weights_sha256 == ""
    assert (maker.run / "compare/samples.md").read_text("utf-8").count("## ") == 10
    assert not (maker.run / ".compare.partial").exists()


def test_same_seed_same_result(copied: Any, result: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"exists already.*--overwrite"):
        compare(CompareOptions(run=copied.run, prompts=PROMPTS))
    compare(CompareOptions(run=copied.run, prompts=PROMPTS, overwrite=True))
    again = json.loads((copied.run / "compare/compare.json").read_text("utf-8"))
    for name in ("stages", "controls", "win_rates", "samples", "reward_model"):
        assert again[name] == result[name]
    compare(CompareOptions(run=copied.run, prompts=PROMPTS, overwrite=True, seed=2))
    other = json.loads((copied.run / "compare/compare.json").read_text("utf-8"))
    assert [sample["rlhf"] for sample in other["samples"]] != [sample["rlhf"] for sample in result["samples"]]


def test_dev_split_and_ppo_on_the_gold(copied: Any) -> None:
    copied.language_model("rlhf-gold", "sft", seed=8)
    compare(CompareOptions(run=copied.run, prompts=4, split="dev", overwrite=True))
    result = json.loads((copied.run / "compare/compare.json").read_text("utf-8"))
    dev = heldout_pairs(copied.corpus.validation).dev[:4]
    assert [sample["prompt"] for sample in result["samples"]] == [pair.prompt for pair in dev]
    assert result["controls"]["rlhf_gold"]["kl_to_sft"] > 0.5
    assert {"rlhf_gold_vs_sft", "rlhf_gold_vs_rlhf"} <= set(result["win_rates"])
    assert "PPO on the gold judge itself" in (copied.run / "compare/report.html").read_text("utf-8")
    copied.language_model("sft", "pretrain", seed=5)
    copied.reward_model()
    copied.language_model("rlhf", "sft", seed=6)
    with pytest.raises(UserError, match=r"rlhf-gold was made from another sft.*python -m rlhf"):
        compare(CompareOptions(run=copied.run, overwrite=True))


def test_a_run_that_does_not_hang_together(copied: Any) -> None:
    with pytest.raises(UserError, match="--prompts must be at least 1"):
        compare(CompareOptions(run=copied.run, prompts=0, overwrite=True))
    copied.language_model("sft", "pretrain", seed=7)
    with pytest.raises(UserError, match=r"reward was made from another sft.*python -m reward"):
        compare(CompareOptions(run=copied.run, overwrite=True))
    copied.reward_model()
    with pytest.raises(UserError, match=r"rlhf was made from another sft.*python -m rlhf"):
        compare(CompareOptions(run=copied.run, overwrite=True))
    shutil.rmtree(copied.run / "rlhf")
    with pytest.raises(UserError, match="rlhf does not exist: run `python -m rlhf PRESET"):
        compare(CompareOptions(run=copied.run, overwrite=True))
    assert (copied.run / "compare/compare.json").exists()  # what was there before is still whole


def test_command_line_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rlhf.compare", "--run", str(tmp_path / "none")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in ended.stderr


def test_report_is_one_file_that_asks_for_nothing(maker: Any) -> None:
    page = (maker.run / "compare/report.html").read_text("utf-8")
    assert page.count("<svg") >= 1 + 9 + 3  # win rates, terms, curves
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert not re.search(r"<(?:script|link|iframe|img)|@import|url\((?!#)", page)
    assert "Bits per character" in page or "bits per character" in page
    ids = re.findall(r'<clipPath id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_pairs_for_readers_are_of_this_comparison(maker: Any, result: dict[str, Any]) -> None:
    key = json.loads((maker.run / "compare/blind-key.json").read_text("utf-8"))
    by_prompt = {sample["prompt"]: sample for sample in result["samples"]}
    assert 0 < len(key["pairs"]) <= PROMPTS
    for pair in key["pairs"]:
        assert pair["completions"] == [by_prompt[pair["prompt"]][policy] for policy in pair["policies"]]
    assert (maker.run / "compare/blind.md").read_text("utf-8").count("\n## ") == len(key["pairs"])
    assert result["votes"] is None
    assert "What people say" not in (maker.run / "compare/report.html").read_text("utf-8")


def test_votes_are_counted_into_the_report(copied: Any, tmp_path: Path) -> None:
    key = json.loads((copied.run / "compare/blind-key.json").read_text("utf-8"))["pairs"]
    votes = [pair | {"choice": pair["policies"].index(max(pair["policies"])), "annotator": "<b>ann"} for pair in key]
    files = [str(tmp_path / name) for name in ("ann.jsonl", "ben.jsonl")]
    Path(files[0]).write_text("".join(json.dumps(vote) + "\n" for vote in votes), "utf-8")
    Path(files[1]).write_text(json.dumps(votes[0] | {"choice": None, "annotator": "ben"}) + "\n", "utf-8")
    compare(CompareOptions(run=copied.run, prompts=4, overwrite=True, votes=tuple(files)))
    result = json.loads((copied.run / "compare/compare.json").read_text("utf-8"))
    assert result["votes"]["votes"] == len(votes) + 1
    assert result["settings"]["votes"] == files
    by_first = {(pair["first"], pair["second"]): pair for pair in result["votes"]["pairs"]}
    assert sum(pair["ties"] for pair in by_first.values()) == 1
    assert by_first["sft", "pretrain"]["by_annotator"]["<b>ann"]["rate"] == 1
    page = (copied.run / "compare/report.html").read_text("utf-8")
    assert "What people say" in page
    assert "<b>ann" not in page
    assert "&lt;b&gt;ann" in page
    assert "People prefer" in page or "People's votes do not tell" in page

    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps(votes[0]) + "\n" + json.dumps(votes[0] | {"choice": 2}) + "\n", "utf-8")
    with pytest.raises(UserError, match=r'broken.jsonl, line 2: "choice" must be 0 or 1'):
        compare(CompareOptions(run=copied.run, overwrite=True, votes=(str(broken),)))
    assert json.loads((copied.run / "compare/compare.json").read_text("utf-8")) == result
    assert not (copied.run / ".compare.partial").exists()


def test_report_escapes_all_text(maker: Any, result: dict[str, Any], tmp_path: Path) -> None:
    spoiled = copy.deepcopy(result)
    attack = "<script>alert('x')</script>"
    for name in ("prompt", "original", "pretrain", "sft", "rlhf"):
        spoiled["samples"][0][name] = attack
    spoiled["corpus"]["name"] = spoiled["corpus"]["notice"] = attack
    spoiled["made"]["sft"]["preset"] = attack
    write_report(tmp_path / "report.html", spoiled, maker.run)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 8


def test_one_row_is_all_that_a_source_needs(
    maker: Any, result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another control and its comparison stand in the table, in the chart and in their colour."""
    another = Source("SFT, asked a third time", "sft", "sft", draw=9, control=True)
    monkeypatch.setitem(SOURCES, "sft_third", another)
    monkeypatch.setitem(COMPARISONS, "sft_third_vs_sft", Comparison("sft_third", "sft", "the third time beats SFT"))
    more = copy.deepcopy(result)
    more["controls"]["sft_third"] = more["controls"]["sft_again"]
    more["win_rates"]["sft_third_vs_sft"] = more["win_rates"]["sft_vs_sft"]
    write_report(tmp_path / "report.html", more, maker.run)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert '<td class="stage sft">SFT, asked a third time</td>' in page
    assert "the third time beats SFT" in page


def test_sources_and_comparisons_agree() -> None:
    assert STAGES == ("pretrain", "sft", "rlhf", "original")
    drawn: list[Source | Comparison] = [*SOURCES.values(), *COMPARISONS.values()]
    assert {each.colour for each in drawn} <= set(COLOURS)
    assert {key for each in COMPARISONS.values() for key in (each.first, each.second)} == set(SOURCES)
    sampled = [(each.folder, each.draw) for each in SOURCES.values() if each.folder and not each.best_of]
    assert len({draw for _, draw in sampled}) == len(sampled), "two sources would share their random numbers"


def test_report_says_when_it_is_not_shakespeare(maker: Any, result: dict[str, Any], tmp_path: Path) -> None:
    banner = 'class="notice"'
    assert banner not in (maker.run / "compare/report.html").read_text("utf-8")
    pastiche = copy.deepcopy(result)
    pastiche["corpus"]["name"] = "pastiche"
    write_report(tmp_path / "report.html", pastiche, maker.run)
    assert banner in (tmp_path / "report.html").read_text("utf-8")


def test_verdict_follows_the_figures(result: dict[str, Any]) -> None:
    changed = copy.deepcopy(result)
    changed["win_rates"]["rlhf_vs_sft"] |= {"rate": 0.8, "low": 0.76, "high": 0.84}
    changed["stages"]["rlhf"]["gold"] = 0.9
    changed["stages"]["original"]["gold"] = 0.6
    said = verdict(changed)
    assert any("aligned model beats the SFT one in 80%" in sentence for sentence in said["better"])
    assert any("limits of the gold judge" in sentence for sentence in said["doubt"])
    assert any(sentence.startswith("Sense:") for sentence in said["same"])

    changed["win_rates"]["rlhf_vs_sft"] |= {"rate": 0.52, "low": 0.44, "high": 0.6}
    changed["win_rates"]["rlhf_vs_play"] |= {"rate": 0.1, "low": 0.05, "high": 0.2}
    changed["stages"]["rlhf"]["gold"] = 0.5
    said = verdict(changed)
    assert not any("aligned model beats the SFT" in sentence for sentence in said["better"])
    assert any("cannot be told apart" in sentence for sentence in said["same"])
    assert not any("limits of the gold judge" in sentence for sentence in said["doubt"])
