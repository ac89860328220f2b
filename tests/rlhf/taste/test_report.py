"""What a taste changed, on a run of tiny models, and what its report says of it."""

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.console import UserError
from data.run.record import parent_of, read_stage
from reward.tastes import asks
from rlhf.judging.metrics import mean_interval, wilson_interval
from rlhf.taste.compare import TasteCompareOptions, compare_taste
from rlhf.taste.report import SAMPLES, verdict, write_taste_report

PROMPTS = 12
NAME = "<b>mine"  # no command would take it: the page must


def commas(prompt: str, reply: str) -> float:
    """A user's own taste."""
    return float(reply.count(","))


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory, run_maker: type[Any]) -> Any:
    """A run with the stages of a taste: those of the tiny models, moved to where a taste has its own."""
    maker = run_maker(tmp_path_factory.mktemp("taste"))
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    maker.reward_model()
    maker.language_model("rlhf", "sft", seed=4)
    folder = maker.run / "tastes" / NAME
    folder.mkdir(parents=True)
    shutil.copytree(maker.run / "reward", folder / "reward")
    (maker.run / "rlhf").rename(folder / "rlhf")
    record = json.loads((folder / "rlhf/stage.json").read_text("utf-8"))
    record["config"]["craft"] = 0.5
    (folder / "rlhf/stage.json").write_text(json.dumps(record), "utf-8")
    judgements = [("ann", [[0], [1, 2]]), ("ben", [[1], [0]]), ("ann", [[0, 1]])]
    lines = [json.dumps({"ranking": ranking, "annotator": name}) for name, ranking in judgements]
    (folder / "reward/rankings.jsonl").write_text("\n".join(lines[:2]) + "\n", "utf-8")
    (folder / "reward/heldout.jsonl").write_text(lines[2] + "\n", "utf-8")
    curve = [json.dumps({"step": step, "accuracy": step / 10}) for step in range(3)]
    (folder / "reward/metrics.jsonl").write_text("\n".join(curve) + "\n", "utf-8")
    compare_taste(TasteCompareOptions(run=maker.run, name=NAME, taste="questions", prompts=PROMPTS))
    return maker


@pytest.fixture(scope="module")
def folder(maker: Any) -> Path:
    return maker.run / "tastes" / NAME


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "compare/compare.json").read_text("utf-8"))


def test_the_metrics_follow_from_the_samples(result: dict[str, Any], folder: Path) -> None:
    assert list(result["stages"]) == ["sft", "taste"]
    assert len(result["samples"]) == PROMPTS
    for name, row in result["stages"].items():
        gold = mean_interval([sample["gold"][name] for sample in result["samples"]])
        assert (row["gold"], row["gold_low"], row["gold_high"]) == pytest.approx(gold)
        reward = mean_interval([sample["reward"][name] for sample in result["samples"]])
        assert row["reward"] == pytest.approx(reward.mean)
    assert result["stages"]["sft"]["kl_to_sft"] == 0
    assert result["stages"]["taste"]["kl_to_sft"] > 0.5
    asking = [sum(asks(sample[name]) for sample in result["samples"]) for name in ("sft", "taste")]
    own = result["own"]
    assert own["name"] == "end with a question mark"
    for side, count in zip(("before", "after"), asking, strict=True):
        assert own[side]["value"] == count / PROMPTS
        assert (own[side]["low"], own[side]["high"]) == pytest.approx(wilson_interval(count, PROMPTS))
    assert result["words"]["rates"][0]["name"] == "ends with a question"
    assert result["rankings"] == {"count": 3, "telling": 2, "annotators": {"ann": 2, "ben": 1}, "weights": None}
    record = read_stage(folder / "compare", "compare")
    assert record.parent == parent_of(read_stage(folder / "rlhf"))
    assert not (folder / ".compare.partial").exists()
    assert not (folder.parents[1] / "compare").exists()


def test_a_function_of_ones_own_is_a_mean_and_the_aligned_model_stands_next_to_it(maker: Any, tmp_path: Path) -> None:
    spoiled = copy.copy(maker)
    spoiled.run = tmp_path / "run"
    shutil.copytree(maker.run, spoiled.run)
    spoiled.language_model("rlhf", "sft", seed=5)
    ours = "tests.rlhf.taste.test_report:commas"
    options = TasteCompareOptions(run=spoiled.run, name=NAME, taste=ours, prompts=4, overwrite=True)
    compare = compare_taste(options)
    result = json.loads((compare / "compare.json").read_text("utf-8"))
    assert list(result["stages"]) == ["sft", "rlhf", "taste"]
    assert set(result["win_rates"]) == {"taste_vs_sft", "taste_vs_rlhf"}
    assert not result["own"]["share"]
    counted = mean_interval([sample["taste"].count(",") for sample in result["samples"]])
    assert result["own"]["after"] == pytest.approx(dict(zip(("value", "low", "high"), counted, strict=True)))
    page = (compare / "report.html").read_text("utf-8")
    assert page.count('<h3 class="rlhf">aligned</h3>') == 4

    spoiled.language_model("sft", "pretrain", seed=9)
    with pytest.raises(UserError, match=r"rlhf was made from another sft.*python -m rlhf"):
        compare_taste(options)
    assert (compare / "compare.json").exists()


def test_an_aligned_model_of_another_sft_is_left_out(maker: Any, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    shutil.copytree(maker.run, run)
    shutil.copytree(run / "tastes" / NAME / "rlhf", run / "rlhf")
    record = json.loads((run / "rlhf/stage.json").read_text("utf-8"))
    record["parent"]["sha256"] = "0" * 64
    (run / "rlhf/stage.json").write_text(json.dumps(record), "utf-8")
    compare_taste(TasteCompareOptions(run=run, name=NAME, prompts=4, overwrite=True))
    result = json.loads((run / "tastes" / NAME / "compare/compare.json").read_text("utf-8"))
    assert "rlhf" not in result["stages"]
    assert result["own"] is None
    assert "so it is left out" in capsys.readouterr().err


def test_a_taste_that_is_not_there(maker: Any) -> None:
    with pytest.raises(UserError, match=r"rlhf does not exist: run `python -m rlhf.taste --name none --run"):
        compare_taste(TasteCompareOptions(run=maker.run, name="none"))


def test_the_page_opens_with_words_and_shows_everything_as_text(folder: Path, result: dict[str, Any]) -> None:
    page = (folder / "compare/report.html").read_text("utf-8")
    assert re.search(r"<h2>(.*?)</h2>", page)[1] == "What changed, in words"  # type: ignore[index]
    assert page.count('<article class="card">') == SAMPLES
    assert page.count("<svg") == 2 + 2  # shares, numbers; the reward model's curve and PPO's KL
    assert "ann (2), ben (1)" in page
    assert "<b>mine" not in page
    assert "The taste “&lt;b&gt;mine”" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)|<(?:script|link|iframe|img)|@import|url\((?!#)""", page)
    assert (folder / "compare/samples.md").read_text("utf-8").count("## ") == 10


def test_hostile_replies_are_text(folder: Path, result: dict[str, Any], tmp_path: Path) -> None:
    spoiled = copy.deepcopy(result)
    attack = "<script>alert('x')</script>"
    spoiled["samples"][0] |= {"prompt": attack, "sft": attack, "taste": attack}
    spoiled["words"]["more"] = [{"word": attack, "before": 0, "after": 9, "log_odds": 1.0, "z": 9.0}]
    spoiled["rankings"]["annotators"] = {attack: 1}
    spoiled["words"]["rates"][0]["name"] = attack
    write_taste_report(tmp_path / "report.html", spoiled, folder)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6


def test_the_verdict_follows_the_metrics(result: dict[str, Any]) -> None:
    changed = copy.deepcopy(result)
    sft, taste = changed["stages"]["sft"], changed["stages"]["taste"]
    length = next(rate for rate in changed["words"]["rates"] if rate["name"] == "words per reply")

    def say(own: tuple[float, float], gold: float, words: float, distinct: float) -> dict[str, list[str]]:
        for side, value in zip(("before", "after"), own, strict=True):
            changed["own"][side] = {"value": value, "low": value - 0.05, "high": value + 0.05}
        for row, value in ((sft, 0.5), (taste, gold)):
            row |= {"gold": value, "gold_low": value - 0.02, "gold_high": value + 0.02}
            row |= {"reward": value, "reward_low": value - 0.02, "reward_high": value + 0.02}
        length["before"], length["after"] = ({"value": v, "low": v - 1, "high": v + 1} for v in (20, words))
        sft["distinct_2"], taste["distinct_2"] = 0.9, distinct
        return verdict(changed)

    said = say((0.1, 0.95), 0.6, 15, 0.8)
    assert "Replies that end with a question mark: 10% (5% to 15%) before, 95% (90% to 100%) now." in said["did"]
    assert "The gold judge's mean score rose from 0.50 (0.48 to 0.52) to 0.60 (0.58 to 0.62)." in said["did"]
    assert any("shorter" in sentence for sentence in said["left"])
    assert "Variety fell: distinct-2 is 89% of SFT's." in said["left"]

    said = say((0.1, 0.15), 0.51, 20, 0.9)
    assert not said["did"]
    assert any("no more than chance" in sentence for sentence in said["left"])
    assert any("gold judge's mean score cannot be told apart" in sentence for sentence in said["left"])
    assert not any("shorter" in sentence or "longer" in sentence for sentence in said["left"])

    said = say((0.9, 0.1), 0.4, 30, 0.9)
    assert any("which is fewer" in sentence for sentence in said["left"])
    assert any("mean score fell from 0.50" in sentence for sentence in said["left"])
    assert any("longer" in sentence for sentence in said["left"])

    changed["own"] = None
    taste["kl_to_sft"] = 12.0
    said = verdict(changed)
    assert any("through their reward model alone" in sentence for sentence in said["doubt"])
    assert any("12.0 nats" in sentence for sentence in said["doubt"])
