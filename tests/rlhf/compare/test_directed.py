"""The comparison of a run with directions: who does as told is counted, shown first, and asked of people too."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.console import UserError
from data.directions.headings import directions_of
from data.directions.specs import load_specs
from data.run.record import read_stage
from rlhf.compare.__main__ import CompareOptions, compare
from rlhf.compare.blind import POLICIES, blind_pairs
from rlhf.compare.report import write_report
from rlhf.judging.directed_panel import EXCHANGES
from rlhf.judging.metrics import share

PROMPTS = 12
SPECS = load_specs("built-in")
SOURCES = {"pretrain", "sft", "rlhf", "best_of_4", "original"}


@pytest.fixture(scope="module")
def run(directed_maker: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with directions and its comparison."""
    copied = shutil.copytree(directed_maker.run, tmp_path_factory.mktemp("compared") / "run")
    compare(CompareOptions(run=copied, prompts=PROMPTS))
    return copied


@pytest.fixture(scope="module")
def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "compare/compare.json").read_text("utf-8"))
    return found


def test_shares_are_those_of_the_samples(result: dict[str, Any]) -> None:
    told, samples = result["directions"], result["directed_samples"]
    assert set(told["one"]) == set(told["wrong"]) == set(told["craft"]) == SOURCES
    assert len(samples) == len(result["samples"]) == PROMPTS
    for sample, plain in zip(samples, result["samples"], strict=True):
        [direction] = directions_of(sample["prompt"], SPECS)
        assert sample["directions"] == [str(direction)]
        assert sample["prompt"] == plain["prompt"].removesuffix(":\n") + f", {direction}:\n"
        for key, followed in sample["followed"].items():
            assert followed == direction.followed(sample[key])
    for key in SOURCES - {"original"}:
        assert told["one"][key] == share([sample["followed"][key] for sample in samples])._asdict()
        halves = [told["by_kind"][kind][key] for kind in ("mood", "lines")]
        assert [half["n"] for half in halves] == [PROMPTS / 2] * 2
        assert sum(half["rate"] for half in halves) / 2 == pytest.approx(told["one"][key]["rate"])
    assert (told["two"], told["three"]) == ({}, {}), "python -m rlhf.directions asks for more"


def test_undirected_figures_are_all_there(result: dict[str, Any]) -> None:
    assert set(result["stages"]) == {"pretrain", "sft", "rlhf", "original"}
    assert result["win_rates"]["rlhf_vs_sft"]["n"] == PROMPTS
    assert not any(directions_of(sample["prompt"], SPECS) for sample in result["samples"])
    craft, plain = result["directions"]["craft"]["rlhf"], result["stages"]["rlhf"]
    assert set(craft) == {name for name in plain if not name.startswith("reward")} | {"tokens_free"}
    assert craft["gold"] != plain["gold"], "other prompts, other replies"


def test_the_record_names_shares_and_reward(run: Path, result: dict[str, Any]) -> None:
    record = read_stage(run / "compare", "compare")
    assert record.results["directions"] == {name: result["directions"][name] for name in ("one", "wrong")}
    assert record.config["reward_following"] == result["settings"]["reward_following"] == "model"
    assert "following" in result["made"]


def test_the_page_opens_with_who_does_it(run: Path, result: dict[str, Any]) -> None:
    page = (run / "compare/report.html").read_text("utf-8")
    assert page.index("<h1>Asked for it, who does it?</h1>") < page.index("<h2>What alignment changed</h2>")
    assert page.count("<h1") == 1
    assert "the rule that counts here it never saw" in page
    ticks, crosses = page.count('class="tick"'), page.count('class="cross"')
    shown = [sample["followed"][key] for sample in result["directed_samples"][:EXCHANGES] for key in POLICIES]
    assert (ticks, crosses) == (sum(shown), len(shown) - sum(shown))
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    samples = (run / "compare/samples.md").read_text("utf-8")
    assert samples.index("## 1, as directed") < samples.index("## 1\n")
    assert "as told" in samples


def test_text_in_exchanges_is_text(run: Path, result: dict[str, Any], tmp_path: Path) -> None:
    attack = "<script>alert('x')</script>"
    spoiled = result["directed_samples"][0] | dict.fromkeys(("prompt", *POLICIES), attack)
    write_report(tmp_path / "report.html", result | {"directed_samples": [spoiled]}, run)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_the_upper_bound_is_one_more_source(run: Path, directed_maker: Any, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    shutil.copytree(copied / "rlhf", copied / "rlhf-rule")
    path = copied / "rlhf-rule/stage.json"
    path.write_text(path.read_text("utf-8").replace('"stage": "rlhf"', '"stage": "rlhf-rule"'), "utf-8")
    path = copied / "rlhf/stage.json"
    path.write_text(
        path.read_text("utf-8").replace('"reward_following": "model"', '"reward_following": "rule"'), "utf-8"
    )
    compare(CompareOptions(run=copied, prompts=4, overwrite=True))
    result = json.loads((copied / "compare/compare.json").read_text("utf-8"))
    for part in ("one", "wrong", "craft"):
        assert set(result["directions"][part]) == SOURCES | {"rlhf_rule"}
    assert "rlhf_rule" in result["controls"]
    page = (copied / "compare/report.html").read_text("utf-8")
    assert "PPO on the rule itself" in page
    assert "The rule that counts here was itself in" in page


def test_a_model_of_following_of_another_sft_is_refused(run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    path = copied / "following/stage.json"
    record = json.loads(path.read_text("utf-8"))
    record["parent"]["sha256"] = "0" * 64
    path.write_text(json.dumps(record), "utf-8")
    with pytest.raises(UserError, match="following was made from another sft"):
        compare(CompareOptions(run=copied, overwrite=True))


def test_readers_on_paper_read_as_many_directed_pairs(run: Path, result: dict[str, Any]) -> None:
    key = json.loads((run / "compare/blind-key.json").read_text("utf-8"))["pairs"]
    asked = [pair for pair in key if directions_of(pair["prompt"], SPECS)]
    assert len(asked) == len(key) // 2
    by_prompt = {sample["prompt"]: sample for sample in result["directed_samples"]}
    for pair in asked:
        assert pair["completions"] == [by_prompt[pair["prompt"]][policy] for policy in pair["policies"]]
    assert "says how the reply is to be" in (run / "compare/blind.md").read_text("utf-8")


def test_directed_pairs_are_of_other_prompts_and_balanced() -> None:
    plain = [{"prompt": f"{i}:\n"} | {policy: f"{policy} {i}" for policy in POLICIES} for i in range(300)]
    told = [sample | {"prompt": f"{i}, asking:\n"} for i, sample in enumerate(plain)]
    pairs = blind_pairs(plain, 1, told)
    assert len({pair["prompt"].partition(",")[0].removesuffix(":\n") for pair in pairs}) == len(pairs) == 100
    groups = [[pair for pair in pairs if ("asking" in pair["prompt"]) == asked] for asked in (False, True)]
    assert [len(group) for group in groups] == [50, 50]
    for group in groups:
        kinds = [frozenset(pair["policies"]) for pair in group]
        assert sorted(kinds.count(kind) for kind in set(kinds)) == [16, 17, 17]


def test_votes_are_counted_apart(run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    key = json.loads((copied / "compare/blind-key.json").read_text("utf-8"))["pairs"]
    votes = [pair | {"choice": 0, "annotator": "ann"} for pair in key]
    file = tmp_path / "votes.jsonl"
    file.write_text("".join(json.dumps(vote) + "\n" for vote in votes), "utf-8")
    compare(CompareOptions(run=copied, prompts=4, overwrite=True, votes=(str(file),)))
    told = json.loads((copied / "compare/compare.json").read_text("utf-8"))["votes"]
    for asked in (False, True):
        here = [pair for pair in told["pairs"] if pair["directed"] == asked]
        assert sum(pair["n"] for pair in here) == len(key) // 2
    assert told["votes"] == len(key)
    assert ", as directed</td>" in (copied / "compare/report.html").read_text("utf-8")
