"""The algorithms as a user runs them, on a run of tiny models, and the comparison of what they leave."""

import copy
import dataclasses
import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from matplotlib import image
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.console import UserError
from data.dialogue import heldout_pairs
from data.run.folder import run_corpus
from data.run.record import read_stage
from reward.gold.judge import GoldJudge
from rlhf.__main__ import main as rlhf_command
from rlhf.algorithms import ALGORITHMS
from rlhf.algorithms.__main__ import AlgorithmsOptions, compare_algorithms
from rlhf.algorithms.budget import sampled_tokens
from rlhf.algorithms.config import PRESETS, GroupConfig, like_ppo
from rlhf.algorithms.ppo import align
from rlhf.compare.report import RLHF_CURVES
from rlhf.judging.metrics import win_rate
from rlhf.judging.replies import ReplySampler

STAGES = ("rlhf", "rlhf-rloo", "rlhf-grpo", "rlhf-best-of-n")


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory, run_maker: type[Any]) -> Any:
    maker = run_maker(tmp_path_factory.mktemp("algorithms"))
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    maker.reward_model()
    align(dataclasses.replace(PRESETS["smoke"][1], run=maker.run, total_episodes=32), "smoke")
    return maker


@pytest.fixture(scope="module")
def run(maker: Any, command: Callable[..., Any]) -> Path:
    """Every algorithm by its command, then the comparison."""
    for algorithm in ("rloo", "grpo", "best-of-n"):
        done = command("rlhf", "smoke", "--algorithm", algorithm, "--run", maker.run)
        assert f"rlhf-{algorithm}" in done.stderr
        assert "Warning" not in done.stderr + done.stdout
    done = command("rlhf.algorithms", "--run", maker.run)
    assert "beats SFT" in done.stderr
    return Path(maker.run)


@pytest.fixture
def copied(run: Path, maker: Any, tmp_path: Path) -> Any:
    """A copy of the run, to be spoiled."""
    spoiled = copy.copy(maker)
    spoiled.run = tmp_path / "run"
    shutil.copytree(run, spoiled.run)
    return spoiled


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_a_trained_stage_keeps_the_contract(run: Path, algorithm: str) -> None:
    folder, sft = run / f"rlhf-{algorithm}", read_stage(run / "sft")
    record = read_stage(folder, f"rlhf-{algorithm}")
    assert record.parent is not None
    assert record.parent["sha256"] == sft.weights_sha256
    assert record.tokenizer_sha256 == sft.tokenizer_sha256
    assert record.config["reward_sha256"] == read_stage(run / "reward").weights_sha256
    names = {path.name for path in folder.iterdir()}
    assert names >= {"samples.md", "reward.png", "kl.png", "gold.png", "generation_config.json"}
    assert not any(path.name.startswith(".") for path in run.iterdir()), "nothing half-written is left"
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        ours, ppos = (json.loads((where / name).read_text("utf-8")) for where in (folder, run / "rlhf"))
        assert ours == ppos, name
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, loading = loaded
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    batch = AutoTokenizer.from_pretrained(folder)("A:\nGood.\n\nB:\n", return_tensors="pt")
    assert model(**batch).logits.isfinite().all()
    assert (folder / "model.safetensors").read_bytes() != (run / "sft" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_the_budget_is_ppos_and_is_spent(run: Path, algorithm: str) -> None:
    lines, budget = metrics(run / f"rlhf-{algorithm}"), sampled_tokens(run / "rlhf")
    assert lines[-1]["sampled_tokens"] >= budget > lines[-2]["sampled_tokens"]
    counted = 0.0
    for line in lines:
        counted += 16 * line["objective/response_length"]
        assert line["sampled_tokens"] == pytest.approx(counted, abs=0.01)
    record = read_stage(run / f"rlhf-{algorithm}")
    assert record.config["token_budget"] == budget
    assert record.results["sampled_tokens"] == lines[-1]["sampled_tokens"]
    first, ppo = lines[0], metrics(run / "rlhf")[0]
    assert first["objective/kl"] == 0
    assert first["lr"] == pytest.approx(record.config["learning_rate"])
    assert lines[-1]["lr"] < first["lr"]
    assert "eval/gold" in lines[-1]
    of_ppo_alone = ("val/", "policy/", "loss/value", "grad_norm/value", "objective/kl_k3", "eps")
    assert [name for name in ppo if name not in first and not name.startswith(of_ppo_alone)] == []
    assert all(sample.keys() == {"prompt", "response", "score", "stopped"} for sample in lines[-1]["samples"])


def test_every_metric_of_the_stage_has_its_line(run: Path) -> None:
    """docs/metrics.md explains all that the stage adds, and nothing that it does not: tests/docs has the trainer's."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "metrics.md").read_text("utf-8")
    cells = re.findall(r"^\| (`[^|]+`) \|", page.partition("What an `eval_hook` returns")[2], re.MULTILINE)
    explained = {name for cell in cells for name in re.findall(r"`([\w/]+)`", cell)}
    explained -= {"eval/followed", "eval/followed_before"}  # of runs with directions: tests/rlhf/asked/test_stage.py
    logged = {name for line in metrics(run / "rlhf") for name in line} - {"update", "seconds", "samples"}
    assert explained == {name for name in logged if name.startswith("eval/")}
    assert {key for _, key, _ in RLHF_CURVES} <= logged, "the report draws what is logged"


def test_best_of_n_needs_no_model(run: Path) -> None:
    record = read_stage(run / "rlhf-best-of-n", "rlhf-best-of-n")
    assert record.weights_sha256 == ""
    assert record.config["token_budget"] == sampled_tokens(run / "rlhf")
    assert {path.name for path in (run / "rlhf-best-of-n").iterdir()} == {
        "stage.json", "metrics.jsonl", "samples.md", "reward.png", "gold.png"
    }  # fmt: skip


def test_the_comparison_holds_everybody(run: Path) -> None:
    result = json.loads((run / "algorithms" / "algorithms.json").read_text("utf-8"))
    rows, best = result["algorithms"], sorted(map(int, read_stage(run / "rlhf-best-of-n").results))
    assert list(rows) == ["SFT", "PPO", "RLOO", "GRPO", *(f"best of {n}" for n in best if n > 1)]
    record = read_stage(run / "algorithms", "algorithms")
    assert record.results == rows
    corpus = run_corpus(run, record)
    pairs, gold = heldout_pairs(corpus.validation).test, GoldJudge(corpus.train)
    assert [sample["prompt"] for sample in result["samples"]] == [pair.prompt for pair in pairs]
    scores = {name: [gold(each["prompt"], each[name]) for each in result["samples"]] for name in rows}
    for name, row in rows.items():
        assert row["gold"] == pytest.approx(sum(scores[name]) / len(pairs), abs=1e-5)
        if name == "SFT":
            assert row["beats_sft"] is None
        else:
            assert row["beats_sft"] == pytest.approx(win_rate(scores[name], scores["SFT"])._asdict())
        n = int(name.removeprefix("best of ")) if name.startswith("best") else 1
        assert n * 2 <= row["reply_tokens"] <= n * 32
        if n > 1:
            assert row["kl_to_sft"] == pytest.approx(math.log(n) - (n - 1) / n)
            assert row["learning_tokens"] == row["learning_seconds"] == 0
    for stage, name in (("rlhf", "PPO"), ("rlhf-rloo", "RLOO"), ("rlhf-grpo", "GRPO")):
        assert rows[name]["learning_tokens"] == sampled_tokens(run / stage)
        assert rows[name]["learning_seconds"] == read_stage(run / stage).wall_seconds
        assert rows[name]["kl_to_sft"] != 0, "an estimate from few samples: its sign is chance"
    table = (run / "algorithms" / "table.md").read_text("utf-8")
    assert [line.split(" | ")[0] for line in table.splitlines()[2 : 2 + len(rows)]] == [f"| {name}" for name in rows]
    pixels = image.imread(run / "algorithms" / "reward_kl.png")
    assert pixels.shape[1] > 1000
    assert (run / "algorithms" / "samples.md").read_text("utf-8").count("**RLOO**") == 10


def test_the_comparison_borrows_a_judge_without_work_of_its_own(copied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The held-out prompts that training looks at are neither sampled for it nor judged."""
    for stage in ("rlhf-rloo", "rlhf-grpo", "rlhf-best-of-n"):
        shutil.rmtree(copied.run / stage)
    sampled: list[int] = []
    judged: list[str] = []
    draw, terms = ReplySampler._draw, GoldJudge.terms

    def counted_draw(self: ReplySampler, *arguments: Any) -> Any:
        sampled.append(len(self.prompts))
        return draw(self, *arguments)

    def counted_terms(self: GoldJudge, prompt: str, text: str) -> Any:
        judged.append(prompt)
        return terms(self, prompt, text)

    monkeypatch.setattr(ReplySampler, "_draw", counted_draw)
    monkeypatch.setattr(GoldJudge, "terms", counted_terms)
    compare_algorithms(AlgorithmsOptions(run=copied.run, prompts=4, overwrite=True))
    assert sampled == [4, 4], "SFT's replies and PPO's"
    assert len(judged) == 8


def test_what_was_trained_on_the_gold_judge_is_compared_among_itself(copied: Any) -> None:
    """Every stage has the name of its folder, and the comparison knows it."""
    smoke = {name: resolve_name(algorithm.presets)["smoke"][1] for name, algorithm in ALGORITHMS.items()}
    gold = {"run": copied.run, "reward": "gold", "eval_prompts": 4}
    for name, more in (("ppo", {"total_episodes": 16}), ("rloo", {"token_budget": 200})):
        folder = resolve_name(ALGORITHMS[name].run)(dataclasses.replace(smoke[name], **gold, **more), "smoke")
        record = read_stage(folder)
        assert folder.name == record.stage == f"{ALGORITHMS[name].folder}-gold"
        assert record.command.endswith("--reward gold")
    compare_algorithms(AlgorithmsOptions(run=copied.run, prompts=4, gold=True))
    result = json.loads((copied.run / "algorithms-gold" / "algorithms.json").read_text("utf-8"))
    assert list(result["algorithms"]) == ["SFT", "PPO", "RLOO"]
    assert list(result["made"]) == ["rlhf-gold", "rlhf-rloo-gold"]
    assert (copied.run / "algorithms").exists()


def test_a_row_is_all_that_an_algorithm_needs(copied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, the comparison, its table and its plot read the one table of algorithms."""
    row = dataclasses.replace(
        ALGORITHMS["rloo"], title="Another", folder="rlhf-another", any_reward=False, tokens="counted by hand"
    )
    monkeypatch.setitem(ALGORITHMS, "another", row)
    monkeypatch.setattr(
        sys, "argv", ["rlhf", "smoke", "--algorithm", "another", "--run", str(copied.run), "--token-budget", "200"]
    )
    monkeypatch.setattr(
        "rlhf.algorithms.config.RLOO_PRESETS", {"smoke": like_ppo("smoke", GroupConfig, algorithm="another")}
    )
    rlhf_command()
    assert read_stage(copied.run / "rlhf-another").command == "python -m rlhf smoke --algorithm another"
    path = copied.run / "rlhf-another" / "stage.json"
    record = json.loads(path.read_text("utf-8"))
    record["results"]["learning_tokens"] = 12345
    path.write_text(json.dumps(record), "utf-8")
    compare_algorithms(AlgorithmsOptions(run=copied.run, prompts=4, overwrite=True))
    result = json.loads((copied.run / "algorithms" / "algorithms.json").read_text("utf-8"))
    assert result["algorithms"]["Another"]["learning_tokens"] == 12345, "its results say so"
    table = (copied.run / "algorithms" / "table.md").read_text("utf-8")
    assert "tokens: response tokens sampled; Another: counted by hand." in table
    with pytest.raises(UserError, match="holds none of rlhf-gold, rlhf-rloo-gold") as refused:
        compare_algorithms(AlgorithmsOptions(run=copied.run, gold=True))
    assert "another" not in str(refused.value), "it takes no --reward"


def test_it_compares_what_there_is(copied: Any) -> None:
    for stage in ("rlhf", "rlhf-grpo", "rlhf-best-of-n", "algorithms"):
        shutil.rmtree(copied.run / stage)
    compare_algorithms(AlgorithmsOptions(run=copied.run, prompts=4, split="dev"))
    result = json.loads((copied.run / "algorithms" / "algorithms.json").read_text("utf-8"))
    assert list(result["algorithms"]) == ["SFT", "RLOO"]
    with pytest.raises(UserError, match=r"algorithms exists already.*--overwrite"):
        compare_algorithms(AlgorithmsOptions(run=copied.run, prompts=4))
    shutil.rmtree(copied.run / "rlhf-rloo")
    with pytest.raises(UserError, match=r"holds none of rlhf, rlhf-rloo.*--algorithm"):
        compare_algorithms(AlgorithmsOptions(run=copied.run, overwrite=True))


def test_what_does_not_compare_is_refused(copied: Any) -> None:
    path = copied.run / "rlhf-grpo" / "stage.json"
    record = json.loads(path.read_text("utf-8"))
    record["config"]["missing_eos_penalty"] = 9.0
    path.write_text(json.dumps(record), "utf-8")
    with pytest.raises(UserError, match=r"rlhf-grpo had missing_eos_penalty 9.0 and .*rlhf 1.0"):
        compare_algorithms(AlgorithmsOptions(run=copied.run, overwrite=True))
    copied.language_model("sft", "pretrain", seed=5)
    with pytest.raises(UserError, match=r"rlhf was made from another sft"):
        compare_algorithms(AlgorithmsOptions(run=copied.run, overwrite=True))
    shutil.rmtree(copied.run / "sft")
    with pytest.raises(UserError, match=r"sft does not exist: run `python -m sft PRESET"):
        compare_algorithms(AlgorithmsOptions(run=copied.run, overwrite=True))


def test_unknown_algorithms_are_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    said = refused("rlhf", "smoke", "--algorithm", "nothing", "--run", tmp_path)
    assert f"there is no algorithm 'nothing': choose one of {', '.join(ALGORITHMS)}" in said
    assert "--run" in refused("rlhf", "smoke", "--algorithm=rloo", "--run", tmp_path)
    assert not list(tmp_path.iterdir())
