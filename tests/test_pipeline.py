"""The whole pipeline as a user runs it: every stage, in processes of their own, on the embedded text."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.pastiche import pastiche
from pretrain.presets import PRESETS
from tests.cards import check_card, run_snippets

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("pretrain", "sft", "reward", "rlhf", "compare")
CHECKPOINT = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
WIN_RATES = {"rlhf_vs_sft", "rlhf_vs_pretrain", "sft_vs_pretrain", "rlhf_vs_play", "sft_vs_sft", "best_of_4_vs_sft"}

LOAD = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
for stage in ("pretrain", "sft", "rlhf", "reward"):
    folder = f"{sys.argv[1]}/{stage}"
    judges = stage == "reward"
    auto = AutoModelForSequenceClassification if judges else AutoModelForCausalLM
    model, loading = auto.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"], (stage, loading)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer("A:\\nGood morrow, cousin.\\n\\nB:\\n", return_tensors="pt")
    logits = model(**batch).logits
    width = 1 if judges else model.config.vocab_size
    assert logits.shape[-1] == width and logits.isfinite().all(), stage
    if judges:
        assert model.config.reward_std > 0
    else:
        written = model.generate(**batch, max_new_tokens=5, do_sample=False)
        assert written.shape[1] > batch.input_ids.shape[1]
ours = {"data", "pretrain", "sft", "reward", "rlhf"} & set(sys.modules)
assert not ours, ours
"""


def pipeline(run: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(ROOT / "scripts" / "run_pipeline.sh"), "smoke", run.name, *arguments],  # seen from the folder it is in
        env=os.environ | {"PYTHON": sys.executable},
        cwd=run.parent,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def written(run: Path) -> dict[str, int]:
    """When every file of the run was last written."""
    return {str(path.relative_to(run)): path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def test_from_text_to_report(tmp_path: Path) -> None:
    """One test, since the run is made once: the stages, the comparison, the page, and the same command again."""
    run = tmp_path / "run"
    done = pipeline(run, "pastiche")
    assert not re.search(r"Traceback|Warning|warn\(|it/s", done.stdout + done.stderr)
    for name in (*STAGES, "total"):
        assert re.search(rf"^{name} +\d+ s$", done.stderr, flags=re.MULTILINE), f"no time of {name}"
    assert {path.name for path in run.iterdir()} == {*STAGES, "corpus.txt"}, "nothing half-written is left"
    check_stages(run)
    check_comparison(json.loads((run / "compare" / "compare.json").read_text("utf-8")))
    check_page((run / "compare" / "report.html").read_text("utf-8"))
    check_plain_transformers(run)
    check_cards(run)

    before = written(run)
    again = pipeline(run, "pastiche")
    assert written(run) == before
    assert again.stderr.count("finished before, kept") == len(STAGES)


def check_stages(run: Path) -> None:
    records = {stage: json.loads((run / stage / "stage.json").read_text("utf-8")) for stage in STAGES}
    parents = dict.fromkeys(STAGES, "sft") | {"pretrain": None, "sft": "pretrain", "compare": "rlhf"}
    for stage, record in records.items():
        assert record["stage"] == stage
        assert record["preset"] == "smoke"
        assert record["corpus"]["name"] == "pastiche"
        assert record["results"]
        parent = parents[stage]
        if parent is None:
            assert record["parent"] is None
        else:
            assert record["parent"]["sha256"] == records[parent]["weights_sha256"]
        if stage != "compare":
            assert {path.name for path in (run / stage).iterdir()} >= CHECKPOINT | {"metrics.jsonl", "samples.md"}
    entropy = records["pretrain"]["results"]["entropy_bits_per_char"]
    assert 0 < entropy < records["pretrain"]["results"]["bits_per_char"]
    assert len({record["tokenizer_sha256"] for stage, record in records.items() if stage != "compare"}) == 1


def check_comparison(result: dict[str, Any]) -> None:
    assert set(result["stages"]) == {"pretrain", "sft", "rlhf", "original"}
    for row in (result["stages"] | result["controls"]).values():
        assert 0 <= row["gold"] <= 1
        assert set(row) >= {"terms", "reward", "kl_to_sft", "tokens", "stopped", "distinct_1", "distinct_2"}
    assert set(result["win_rates"]) >= WIN_RATES
    for rate in result["win_rates"].values():
        assert set(rate) >= {"rate", "low", "high", "n"}
        assert 0 <= rate["low"] <= rate["rate"] <= rate["high"] <= 1
        assert 128 <= rate["n"] <= len(result["samples"])
    for name in ("rlhf_vs_sft", "rlhf_vs_pretrain", "sft_vs_pretrain"):
        assert result["win_rates"][name]["n"] == len(result["samples"]) >= 512
    for sample in result["samples"]:
        assert set(sample) >= {"prompt", "original", "pretrain", "sft", "rlhf"}
        assert sample["prompt"].endswith(":\n")


def check_page(page: str) -> None:
    assert page.rstrip().endswith("</html>")
    assert "pastiche" in page
    assert "<svg" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)|<(?:script|link|iframe|img)|@import|url\((?!#)""", page)


def check_plain_transformers(run: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, str(run)],
        cwd="/tmp",
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr


def check_cards(run: Path) -> None:
    """Of every stage that has a model; the Hub's own validation, which needs the Hub, is not tried."""
    check_card(run / "sft", "perplexity of held-out replies")
    check_card(run / "reward", "held-out pairwise accuracy", "its upper bound, set by label noise")
    check_card(run / "rlhf", "gold judge on held-out prompts", "KL from the SFT model, nats per reply")
    assert all(said.strip() for said in run_snippets([run / stage for stage in STAGES if stage != "compare"]))


def test_two_steps_of_every_stage_at_preset_gpu(tmp_path: Path, command: Callable[..., Any]) -> None:
    """Without a GPU the preset's own model takes two steps of everything on the CPU, in small batches."""
    text, run = tmp_path / "play.txt", tmp_path / "run"
    text.write_text(pastiche(characters=60_000).text, "utf-8")
    command("pretrain", "gpu", "--run", run, "--corpus", text, "--no-compile", "--steps", 2, "--eval-every", 2,
            "--batch-size", 4, "--sample-tokens", 8)  # fmt: skip
    command("sft", "gpu", "--run", run, "--max-pairs", 8, "--batch-size", 4, "--micro-batch-size", 4, "--samples", 4)
    command("reward", "gpu", "--run", run, "--n-prompts", 8, "--n-heldout", 8, "--responses", 2, "--batch-size", 4,
            "--epochs", 1, "--log-every", 1)  # fmt: skip
    command("reward.following", "gpu", "--run", run, "--n-play", 8, "--n-heldout", 8, "--batch-size", 4,
            "--log-every", 1)  # fmt: skip
    command("rlhf", "gpu", "--run", run, "--total-episodes", 16, "--batch-size", 8, "--num-mini-batches", 1,
            "--num-ppo-epochs", 1, "--eval-prompts", 8)  # fmt: skip
    command("rlhf.compare", "--run", run, "--prompts", 4)
    records = {stage: json.loads((run / stage / "stage.json").read_text("utf-8")) for stage in (*STAGES, "following")}
    assert {record["preset"] for record in records.values()} == {"gpu"}
    results = records["pretrain"]["results"]
    assert 10.0e6 < results["parameters"] < 11.5e6
    assert results["best_step"] == 2
    assert records["pretrain"]["config"]["context_length"] == PRESETS["gpu"][1].context_length == 256
    assert records["reward"]["config"]["precision"] == records["pretrain"]["config"]["precision"] == "bf16"
    steps = {
        stage: [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text("utf-8").splitlines()]
        for stage in ("sft", "reward", "following", "rlhf")
    }
    assert max(line["step"] for line in steps["sft"]) == 2
    assert max(line["step"] for line in steps["reward"]) == 2
    assert max(line["step"] for line in steps["following"]) == 2
    assert [line["update"] for line in steps["rlhf"]] == [1, 2]
    lengths = [records[stage]["config"]["prompt_length"] for stage in ("sft", "reward", "rlhf", "compare")]
    assert lengths == [128] * 4


def test_reward_and_rlhf_in_two_processes(tmp_path: Path, smoke_base: Path, command: Callable[..., Any]) -> None:
    """Data parallel: heads beside the model and several forward passes a step are what gradients trip over."""
    run = tmp_path / "run"
    shutil.copytree(smoke_base, run)
    command("sft", "smoke", "--run", run)
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0]
    command(*launch, "-m", "reward", "smoke", "--run", run)
    command(*launch, "-m", "reward.following", "smoke", "--run", run)
    command(*launch, "-m", "rlhf", "smoke", "--run", run, "--total-episodes", 32)
    lines = (run / "rlhf" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [1, 2], "one process writes"
    assert json.loads((run / "reward" / "stage.json").read_text())["results"]["heldout_accuracy"] > 0.4
    assert json.loads((run / "following" / "stage.json").read_text())["results"]["heldout_accuracy"] > 0.4
