"""The reward stage from beginning to end: what it leaves, resuming, whose rankings it takes, and bad input."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.console import UserError
from data.dialogue import dialogue_pairs, heldout_pairs
from data.run.folder import open_stage, run_corpus
from data.run.record import read_metrics, read_stage
from data.tokenizers import Tokenizer
from reward.config import PRESETS, RewardModelConfig
from reward.evaluate import evaluate_reward
from reward.model import RewardModel, new_reward_model
from reward.rankings import Ranking
from reward.train import RewardStage, train_reward
from reward.training.trainer import RankingTrainer
from tests.reward.made_up import config, peoples_file, some_rankings


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(base, tmp_path_factory.mktemp("finished") / "run"))
    return train_reward(config(run), "smoke")


def test_scores_depend_on_the_sequence_alone(base: Path) -> None:
    """Batch size, order and padding change nothing, and the head reads the last token."""
    tokenizer = Tokenizer.load(base / "sft")
    model = RewardModel(new_reward_model(base / "sft", seed=1))
    sequences = [(r.prompt_ids, ids) for r in some_rankings(tokenizer, 4) for ids in r.completion_ids]
    pad, (prompt, ids) = tokenizer.pad_id, sequences[0]
    sequences += [([pad, *prompt], ids), (prompt, [pad, *ids, pad])]  # no search for PAD finds their ends
    together = model.score(sequences)
    alone = torch.cat([model.score([sequence]) for sequence in sequences])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        bodies = [model.model.base_model(torch.tensor([[*p, *r]])).last_hidden_state for p, r in sequences]
        head: Any = model.model.score
        theirs = [head(states[0, -1]).item() for states in bodies]
    torch.testing.assert_close(together, torch.tensor(theirs), atol=1e-5, rtol=1e-4)
    shorter = model.score([(prompt, ids[:-1]) for prompt, ids in sequences])
    assert (shorter - together).abs().min() > 1e-6


def test_the_stage_leaves_what_it_promises(finished: Path) -> None:
    record = read_stage(finished, "reward")
    for name in (
        "heldout_accuracy",
        "accuracy_ceiling",
        "accuracy_vs_gold",
        "length_baseline",
        "ece",
        "spearman",
        "reward_std",
        "play_score",
    ):
        assert math.isfinite(record.results[name]), name
    assert record.results["prompts"] == 20
    assert record.results["completions"] == 80
    assert record.config["prompt_length"] == 32  # inherited from sft
    for name in ("loss.png", "report.html", "samples.md", "rankings.jsonl", "pairs.jsonl", "heldout.jsonl"):
        assert (finished / name).stat().st_size > 0, name
    metrics = [json.loads(line) for line in (finished / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5]
    assert not (finished / "resume").exists()
    corpus = run_corpus(finished.parent, record)
    training = {json.loads(line)["prompt"] for line in (finished / "rankings.jsonl").read_text("utf-8").splitlines()}
    judged = {json.loads(line)["prompt"] for line in (finished / "heldout.jsonl").read_text("utf-8").splitlines()}
    heldout = heldout_pairs(corpus.validation)
    assert not training & {pair.prompt for pair in (*heldout.dev, *heldout.test)}
    assert judged <= {pair.prompt for pair in heldout.dev}


def test_sft_samples_have_mean_0_and_std_1(finished: Path) -> None:
    """The same seed samples the same responses again; the saved scale is theirs."""
    stage = RewardStage(config(finished.parent))
    samples = stage.sample(stage.heldout.dev[:10], seed=stage.config.seed + 1)
    scores = RewardModel.load(finished).score([(r.prompt_ids, ids) for r in samples for ids in r.completion_ids])
    assert len(scores) == 40
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert scores.std().item() == pytest.approx(1.0, abs=1e-4)


def test_plain_transformers_load_the_folder(finished: Path) -> None:
    """In a process that cannot see this project."""
    program = """
import sys, torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder)
assert isinstance(config.reward_mean, float) and config.reward_std > 0
model, loading = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
assert not any(loading[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
assert model.config.num_labels == 1 and model.config.reward_std == config.reward_std
ids = AutoTokenizer.from_pretrained(folder)("ANNE:\\nThe king hath sworn", return_tensors="pt").input_ids
print(torch.flatten(model(ids).logits).item())
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(finished)],
        cwd=finished,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ours, tokenizer = RewardModel.load(finished), Tokenizer.load(finished)
    score = ours.score([(tokenizer.encode("ANNE:\n"), tokenizer.encode("The king hath sworn"))], normalise=False)
    whole = ours.score([(tokenizer.encode("ANNE:\nThe king hath sworn"), [])], normalise=False)
    assert float(done.stdout) == pytest.approx(whole.item(), abs=1e-4)
    assert score.isfinite().all()


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """What was logged, but for how long it took."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read_metrics(folder)]


def weights_of(folder: Path) -> str:
    return read_stage(folder, "reward").weights_sha256


def test_equal_seeds_give_equal_weights(run: Path, finished: Path) -> None:
    assert weights_of(train_reward(config(run), "smoke")) == weights_of(finished)
    other = train_reward(config(run, overwrite=True, seed=2), "smoke")
    assert weights_of(other) != weights_of(finished)


def test_a_killed_stage_continues_to_the_same_weights(
    run: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_loss = RankingTrainer.compute_loss
    calls: list[int] = []

    def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(RankingTrainer, "compute_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train_reward(config(run), "smoke")
    monkeypatch.undo()
    assert not (run / "reward").exists()
    partial = run / ".reward.partial"
    assert [path.name for path in (partial / "resume").glob("checkpoint-*")] == ["checkpoint-2"]
    # A kill may leave a state half-written: it is passed over.
    shutil.copytree(partial / "resume" / "checkpoint-2", partial / "resume" / "checkpoint-4")
    (partial / "resume" / "checkpoint-4" / "trainer_state.json").write_text('{"epo', "utf-8")
    (partial / "seconds").write_text("1000", "utf-8")
    monkeypatch.setattr("reward.train.collect_rankings", None)  # what was collected is not collected again
    folder = train_reward(config(run, resume=True), "smoke")
    assert weights_of(folder) == weights_of(finished)
    assert 1000 < read_stage(folder).wall_seconds < 2000  # the time of both processes
    assert metrics_of(folder) == metrics_of(finished)
    assert (folder / "rankings.jsonl").read_text() == (finished / "rankings.jsonl").read_text()


def test_a_loss_that_explodes_stops_with_one_line(run: Path) -> None:
    with pytest.raises(UserError, match="the loss is no longer a number at step"):
        train_reward(config(run, learning_rate=1e30), "smoke")


def test_accumulated_batches_and_epochs(run: Path) -> None:
    folder = train_reward(config(run, batch_size=4, micro_batch_size=2, epochs=2, include_play=True), "smoke")
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert metrics[-1]["step"] == 10
    assert read_stage(folder).results["completions"] > 80  # the play's replies among them
    rows = [json.loads(line) for line in (folder / "rankings.jsonl").read_text("utf-8").splitlines()]
    replies = [row["scores"][4] for row in rows if len(row["scores"]) == 5]
    # Copies of the training text all of them, and not condemned for it.
    assert min(replies) > 0
    assert sum(replies) / len(replies) > max(score for row in rows for score in row["scores"][:4])


@pytest.mark.parametrize(
    ("rankings", "batch_size", "epochs"),
    # 24 steps: 2 per epoch and 12 epochs, 5 and 5; then 4 epochs, and from 4,200 on fewer.
    [
        (1, 4, 24),
        (5, 4, 12),
        (20, 4, 5),
        (100, 4, 4),
        (399, 4, 4),
        (400, 8, 4),
        (1000, 16, 4),
        (2500, 16, 2),
        (4200, 16, 1),
        (9000, 16, 1),
    ],
)
def test_the_number_of_rankings_decides_on_epochs_and_batch(rankings: int, batch_size: int, epochs: int) -> None:
    found = replace(PRESETS["laptop"][1]).scheduled(rankings, processes=1)
    assert (found.batch_size, found.epochs) == (batch_size, epochs)
    assert replace(found, batch_size=16, epochs=3).scheduled(rankings, 1).batch_size == 16  # what is given stays


def test_a_batch_is_halved_as_far_as_processes_and_micro_batches_share_it() -> None:
    settings = RewardModelConfig(batch_size=24)
    assert settings.scheduled(20, processes=1).batch_size == 6
    assert settings.scheduled(20, processes=4).batch_size == 12
    assert replace(settings, micro_batch_size=8).scheduled(20, processes=1).batch_size == 24
    assert replace(settings, micro_batch_size=12).scheduled(20, processes=1).batch_size == 6


def test_twenty_rankings_are_learned_from_and_watched(run: Path) -> None:
    files = peoples_file(run, [[[1], [0]]] * 20)
    folder = train_reward(config(run, rankings=files, epochs=None, batch_size=16, log_every=10), "smoke")
    record, metrics = read_stage(folder), read_metrics(folder)
    assert (record.config["epochs"], record.config["batch_size"]) == (5, 4)
    assert [line["step"] for line in metrics] == list(range(2, 26, 2))
    # 18 are trained on, a pair each, in 5 steps per epoch; 2 are held out.
    assert [line["comparisons"] for line in metrics][-2:] == [79, 86]
    measured = [line["comparisons"] for line in metrics if "heldout_accuracy" in line]
    assert measured == [7, 14, 22, 36, 65]
    assert {line["heldout_pairs"] for line in metrics if "heldout_accuracy" in line} == {2}


def test_the_users_own_score_ranks(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "own_ranking.py").write_text(
        "def short_wins(prompt, response):\n    return -float(len(response))\n", "utf-8"
    )
    monkeypatch.syspath_prepend(str(run))
    folder = train_reward(config(run, score="own_ranking:short_wins", label_temperature=0.0), "smoke")
    results = read_stage(folder).results
    assert results["accuracy_ceiling"] == 1.0
    assert results["gold"]["score"] >= 0
    for row in map(json.loads, (folder / "rankings.jsonl").read_text("utf-8").splitlines()):
        assert row["annotator"] == "own_ranking:short_wins"
        lengths = [len(row["completions"][group[0]]) for group in row["ranking"]]
        assert lengths == sorted(lengths)


def test_what_the_rankings_say_is_learned(run: Path) -> None:
    """Many words beat few: on rankings that it has not seen, the model says so too."""
    stage = RewardStage(config(run, learning_rate=3e-3))

    def longest_first(seed: int, count: int) -> list[Ranking]:
        return [
            replace(r, ranking=[[i] for i in sorted(range(4), key=lambda i: -len(r.completion_ids[i]))])
            for r in some_rankings(stage.tokenizer, count, seed)
        ]

    with open_stage("reward", stage.config, preset="smoke", parent=stage.parent) as folder:
        model = stage.train(folder, longest_first(0, 160))
    figures = evaluate_reward(model, longest_first(1, 40))
    assert figures["heldout_accuracy"] > 0.85
    metrics = read_metrics(folder.final)
    assert metrics[-1]["loss"] < 0.5 < metrics[0]["loss"]


@pytest.mark.parametrize("use", ["replace", "mix"])
def test_peoples_rankings(run: Path, use: str) -> None:
    corpus = run_corpus(run, read_stage(run / "sft"))
    pairs = dialogue_pairs(corpus.train)[:40]
    path = run / "people.jsonl"
    rows = [
        {"prompt": p.prompt, "completions": ["Well.", "What?", "Nay."], "ranking": [[1], [0, 2]], "annotator": "me"}
        for p in pairs
    ]
    rows[0]["completions"] = ["Well.", "What? " * 40, "king " * 60]  # too long: cut, and left out
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    folder = train_reward(config(run, rankings=(str(path),), rankings_use=use), "smoke")
    results = read_stage(folder).results
    prompts = len({pair.prompt for pair in pairs})
    held = prompts // 10
    annotators = [json.loads(line)["annotator"] for line in (folder / "rankings.jsonl").read_text().splitlines()]
    assert annotators.count("me") == len(pairs) - sum(
        json.loads(line)["annotator"] == "me" for line in (folder / "heldout.jsonl").read_text().splitlines()
    )
    assert (results["replies_cut"], results["replies_dropped"]) == (1, 1)
    if use == "replace":
        assert set(annotators) == {"me"}
        assert results["prompts"] == prompts - held
        assert results["accuracy_ceiling"] is None  # nobody knows the noise of people
    else:
        assert annotators.count("gold") == 20
        assert results["accuracy_ceiling"] is not None


def test_prompts_of_ones_own_are_ranked(run: Path) -> None:
    corpus = run_corpus(run, read_stage(run / "sft"))
    test_prompt = heldout_pairs(corpus.validation).test[0].prompt
    mine = [f"GUEST {number}:\nWhat news?\n\nHOST:\n" for number in range(30)]
    path = run / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in [*mine, test_prompt]), "utf-8")
    folder = train_reward(config(run, prompts=path, n_prompts=100, include_play=True), "smoke")

    def lines(name: str) -> list[dict]:
        return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]

    training, judged = ([row["prompt"] for row in lines(name)] for name in ("rankings.jsonl", "heldout.jsonl"))
    assert len(judged) == 3
    assert sorted([*training, *judged]) == sorted(mine)  # the test split's own is not learned from
    assert all(len(row["completions"]) == 4 for row in lines("rankings.jsonl"))  # no reply of the play's
    record = read_stage(folder)
    assert record.results["play_score"] is None
    assert record.config["prompts"] == str(path)
    with pytest.raises(UserError, match=r"prompts\.jsonl"):
        train_reward(config(run, prompts=run / "none" / "prompts.jsonl", overwrite=True), "smoke")
    assert read_stage(folder).weights_sha256 == record.weights_sha256


def test_bad_configurations_are_one_line_and_leave_nothing(run: Path) -> None:
    for changes, message in (
        ({"batch_size": 4, "micro_batch_size": 3}, "not divisible by micro_batch_size 3"),
        ({"prompt_length": 50, "response_length": 15}, "exceed the model's context of 64"),
        ({"responses": 1}, "responses must be at least 2"),
        ({"label_temperature": -1.0}, "label_temperature must not be negative"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"warmup_fraction": 2.0}, "warmup_fraction must be between"),
        ({"rankings_use": "mix"}, "give --rankings"),
        ({"weights": (1.0,)}, "1 weights for 0 files of rankings: give one per file"),
        ({"rankings": ("a", "b"), "weights": (1.0, 0.0)}, "weights must be positive and finite, but are 1.0 0.0"),
        ({"rankings": ("a",), "weights": (math.inf,)}, "weights must be positive and finite"),
        ({"score": "golden"}, "module:callable"),
        ({"rankings": ("absent.jsonl",)}, "absent.jsonl"),
    ):
        with pytest.raises(UserError, match=message):
            train_reward(config(run, **changes), "smoke")
        assert [path.name for path in run.iterdir() if "reward" in path.name] == []


def test_a_broken_line_of_rankings_is_named(run: Path) -> None:
    (run / "people.jsonl").write_text('{"prompt": "x", "completions": ["a", "b"], "ranking": [[2]]}\n', "utf-8")
    with pytest.raises(UserError, match=r"people\.jsonl, line 1: ranking"):
        train_reward(config(run, rankings=(str(run / "people.jsonl"),)), "smoke")
    assert not (run / ".reward.partial").exists()


def test_rankings_that_say_nothing_are_refused(run: Path) -> None:
    files = peoples_file(run, [[[0, 1]]] * 12)
    with pytest.raises(UserError, match=r"people\.jsonl: none of 12 rankings says anything"):
        train_reward(config(run, rankings=files), "smoke")
    test_prompt = RewardStage(config(run)).heldout.test[0].prompt
    files = peoples_file(run, [[[0], [1]]], test_prompt)
    with pytest.raises(UserError, match=r"people\.jsonl: all rankings that say something are of prompts that the run"):
        train_reward(config(run, rankings=files), "smoke")
    assert not (run / ".reward.partial").exists()


@pytest.mark.parametrize(("count", "held_out"), [(1, 0), (5, 1), (20, 2)])
def test_few_rankings_are_enough(run: Path, count: int, held_out: int) -> None:
    folder = train_reward(config(run, rankings=peoples_file(run, [[[1], [0]]] * count)), "smoke")
    results = read_stage(folder).results
    assert (results["pairs"], results["heldout_pairs"]) == (count - held_out, held_out)
    if held_out:
        assert results["heldout_accuracy"] == 1.0
    else:
        assert results["heldout_accuracy"] is results["length_baseline"] is results["ece"] is None
    rows = (folder / "rankings.jsonl").read_text("utf-8").splitlines()
    assert len(rows) == count - held_out


def test_without_its_parent_or_with_a_changed_one(run: Path) -> None:
    with pytest.raises(UserError, match=r"sft does not exist: run `python -m sft"):
        train_reward(config(run / "elsewhere"), "smoke")
    tokenizer = run / "sft" / "tokenizer.json"
    intact = tokenizer.read_bytes()
    tokenizer.write_bytes(intact.replace(b'"id": ', b'"id":  ', 1))
    with pytest.raises(UserError, match=r"tokenizer\.json was changed"):
        train_reward(config(run), "smoke")
    tokenizer.write_bytes(intact)
    weights = run / "sft" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UserError, match="changed or truncated"):
        train_reward(config(run), "smoke")
    record = run / "sft" / "stage.json"
    record.write_text(record.read_text().replace('"stage": "sft"', '"stage": "rlhf"', 1))
    with pytest.raises(UserError, match="holds the stage 'rlhf', not 'sft'"):
        train_reward(config(run), "smoke")


def test_the_command_line_ends_with_one_line_and_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reward", "smoke", "--run", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
