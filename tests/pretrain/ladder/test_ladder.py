"""The ladder by its commands: it trains, goes on where it was stopped, keeps what is finished, and refuses."""

import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.console import UserError
from data.run.record import StageRecord, sha256_of
from data.tokenizers import Tokenizer, character_tokenizer
from pretrain.checkpoint import load_any_model, load_model, read_gpt_config, save_model
from pretrain.config import PretrainConfig
from pretrain.evaluate import evaluate_split
from pretrain.ladder.__main__ import LECTURE, LadderOptions, climb, compare
from pretrain.ladder.models import RUNGS, LadderConfig
from pretrain.presets import PRESETS
from pretrain.sample import sample_texts
from pretrain.train import Pretraining, pretrain
from tests.cards import check_card

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chooser = random.Random(0)
    nouns = ["A long enough prompt", "Good morrow, cousin", "the tide", "the inn", "no boat", "my lantern"]
    lines = [f"{chooser.choice(nouns)} {chooser.choice(['is', 'was'])} {chooser.choice(nouns)}." for _ in range(300)]
    path = tmp_path_factory.mktemp("corpus") / "sea.txt"
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.fixture(scope="module")
def ladder(command: Run, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ladder of six steps a rung, made by the command. Read only."""
    run = tmp_path_factory.mktemp("ladder") / "run"
    shown = command("pretrain.ladder", "--corpus", corpus, "--steps", 6, "--run", run).stdout
    assert all(rung in shown for rung in RUNGS)
    assert "do not compare" in shown
    return run


def short(rung: str, run: Path, corpus: Path, **changes: Any) -> PretrainConfig:
    few: dict[str, Any] = {"corpus": str(corpus), "steps": 12, "eval_every": 6, "save_every": 5, "sample_tokens": 8}
    return replace(PRESETS[rung][1], run=run, **(few | changes))


def test_every_rung_is_a_run_and_the_figures_are_its_own(ladder: Path) -> None:
    written = json.loads((ladder / "ladder.json").read_text())
    assert [row["rung"] for row in written["rungs"]] == list(RUNGS)
    assert written["corpus"]["name"] == "sea.txt"
    page = (ladder / "ladder.md").read_text()
    assert (ladder / "ladder.png").read_bytes().startswith(b"\x89PNG")
    for row in written["rungs"]:
        stage = ladder / row["rung"] / "pretrain"
        assert "No library knows this architecture" in check_card(stage, "nats per character, whole validation split")
        record = json.loads((stage / "stage.json").read_text())
        last = json.loads((stage / "metrics.jsonl").read_text().splitlines()[-1])
        assert record["preset"] == record["config"]["family"] == row["rung"]
        assert record["results"]["parameters"] == row["parameters"]
        assert (row["steps"], row["last_loss"]) == (6, last["nats_per_char"])
        assert f"| {row['rung']} |" in page
        assert f"{row['last_loss']:.4f}" in page


def test_the_next_call_keeps_what_is_finished(ladder: Path, corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(ladder, run)
    shutil.rmtree(run / "residual")
    before = {rung: sha256_of(run / rung / "pretrain" / "stage.json") for rung in RUNGS if rung != "residual"}
    climb(LadderOptions(run=run, corpus=str(corpus), steps=6))
    assert before == {rung: sha256_of(run / rung / "pretrain" / "stage.json") for rung in before}
    weights = "residual/pretrain/model.safetensors"
    assert (run / weights).read_bytes() == (ladder / weights).read_bytes()


def test_a_rung_that_was_stopped_is_resumed(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Pretraining.step
    taken: list[str] = []

    def dies(run: Pretraining) -> None:
        if run.config.family == "one-head" and run.progress.step == 7 and not taken.count("killed"):
            taken.append("killed")
            raise KeyboardInterrupt
        taken.append(str(run.config.family))
        step(run)

    small = {"width": 16, "layers": 1, "heads": 2, "feed_forward": 32, "context_length": 16, "batch_size": 4}
    for name in [*RUNGS, "lecture"]:  # the rungs' presets save every 500 steps
        changes: dict[str, Any] = small if name == "lecture" else {}
        monkeypatch.setitem(PRESETS, name, (PRESETS[name][0], short(name, tmp_path, corpus, **changes)))
    monkeypatch.setattr(Pretraining, "step", dies)
    options = LadderOptions(run=tmp_path / "run", corpus=str(corpus), steps=8, lecture_steps=4)
    with pytest.raises(KeyboardInterrupt):
        climb(options)
    climb(options)
    # One-head was killed before its eighth step, and had saved its state after the fifth.
    others = {rung: 8 for rung in RUNGS if rung != "one-head"}
    assert Counter(taken) == {"killed": 1, "one-head": 7 + 3, "gpt2": 4} | others
    rows = json.loads((tmp_path / "run" / "ladder.json").read_text())["rungs"]
    assert [(row["rung"], row["steps"]) for row in rows] == [(rung, 8) for rung in RUNGS] + [("lecture", 4)]


@pytest.mark.parametrize("rung", ["bigram", "residual"])
def test_resume_equals_no_interruption_bit_for_bit(
    rung: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(short(rung, tmp_path / "whole", corpus), rung)
    step = Pretraining.step

    def dies(run: Pretraining) -> None:
        if run.progress.step == 8:
            raise KeyboardInterrupt
        step(run)

    with monkeypatch.context() as patched:
        patched.setattr(Pretraining, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            pretrain(short(rung, tmp_path / "broken", corpus), rung)
    pretrain(short(rung, tmp_path / "broken", corpus, resume=True), rung)
    weights = "pretrain/model.safetensors"
    assert (tmp_path / "broken" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_a_rung_learns_more_than_how_often_each_character_comes(corpus: Path, tmp_path: Path) -> None:
    text = corpus.read_text()
    counts = Counter(text)
    single = -sum(count / len(text) * math.log(count / len(text)) for count in counts.values())
    settings = {"steps": 150, "eval_every": 75, "learning_rate": 1e-2}
    losses = {}
    for rung in ("bigram", "multi-head", "layer-norm"):
        record = pretrain(short(rung, tmp_path / rung, corpus, **settings), rung) / "stage.json"
        losses[rung] = json.loads(record.read_text())["results"]["nats_per_char"]
    assert single > losses["bigram"] > losses["multi-head"] > losses["layer-norm"] > 0


def test_a_table_of_counts_gives_the_loss_of_counting() -> None:
    text = "the tide is in, the tide is out. " * 5
    tokenizer = character_tokenizer(text)
    config = LadderConfig(rung="bigram", vocab_size=tokenizer.vocab_size, width=0, heads=0, layers=0, feed_forward=0)
    model = RUNGS["bigram"](config)
    pairs, firsts = Counter(pairwise(text)), Counter(text[:-1])
    table = torch.full((tokenizer.vocab_size, tokenizer.vocab_size), -100.0)
    for (first, second), count in pairs.items():
        table[tokenizer.encode(first)[0], tokenizer.encode(second)[0]] = math.log(count / firsts[first])
    model.load_state_dict({"table.weight": table})
    by_hand = -sum(count * math.log(count / firsts[first]) for (first, _), count in pairs.items())
    found = evaluate_split(model, tokenizer, text[1:], text[0])
    assert found["nats_per_char"] == pytest.approx(by_hand / (len(text) - 1), rel=1e-5)


def test_evaluate_agrees_with_the_stage(ladder: Path, command: Run) -> None:
    folder = ladder / "layer-norm" / "pretrain"
    printed = json.loads(command("pretrain.evaluate", "--checkpoint", folder).stdout)
    record = json.loads((folder / "stage.json").read_text())
    assert printed["nats_per_char"] == pytest.approx(record["results"]["nats_per_char"], abs=1e-4)


def test_sample_goes_on_past_the_context(ladder: Path, command: Run) -> None:
    arguments = ["pretrain.sample", "--checkpoint", ladder / "residual" / "pretrain", "--max-new-tokens", 40]
    arguments += ["--prompt", "Good morrow, cousin", "--num-samples", 2, "--seed", 3]
    assert command(*arguments).stdout.count("Good morrow, cousin") == 2


@pytest.mark.parametrize("rung", list(RUNGS))
def test_the_likeliest_text_is_what_the_logits_say(rung: str, ladder: Path) -> None:
    folder = ladder / rung / "pretrain"
    model, tokenizer = load_any_model(folder), Tokenizer.load(folder)
    [found] = sample_texts(model, tokenizer, ["A long enough prompt"], max_new_tokens=12, temperature=0)
    ids = tokenizer.encode("A long enough prompt")
    for _ in range(12):
        likeliest = int(model(torch.tensor([ids[-8:]]))[0, -1].argmax())
        if likeliest == tokenizer.eos_id:
            break
        ids.append(likeliest)
    assert "A long enough prompt" + found == tokenizer.decode(ids)


def test_a_text_ends_where_the_model_ends_it(tmp_path: Path) -> None:
    tokenizer = character_tokenizer("abc")
    config = LadderConfig(rung="bigram", vocab_size=5, width=0, heads=0, layers=0, feed_forward=0)
    model = RUNGS["bigram"](config)
    table = torch.zeros(5, 5)
    for first, second in zip("ab", "bc", strict=True):
        table[tokenizer.encode(first)[0], tokenizer.encode(second)[0]] = 50.0
    table[tokenizer.encode("c")[0], tokenizer.eos_id] = 50.0
    model.load_state_dict({"table.weight": table})
    save_model(model, tokenizer, tmp_path)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["table.weight"], table)
    again = load_any_model(tmp_path)
    assert sample_texts(again, tokenizer, ["a", "b"], max_new_tokens=9) == ["bc", "c"]


def test_the_lecture_is_met_at_its_own_step() -> None:
    metrics = [{"step": step, "nats_per_char": 9 - step / 1000} for step in (0, 2400, 2700, 3000)]
    record = StageRecord(
        stage="pretrain",
        preset="bigram",
        command="",
        config={},
        parent=None,
        corpus={},
        seed=1,
        results={"parameters": 4489},
    )
    result = compare("bigram", record, metrics)
    assert (result.compared_step, result.compared_loss, result.last_loss) == (2700, 6.3, 6.0)
    result = compare("bigram", record, metrics[:2])
    assert (result.compared_step, result.compared_loss) == (2400, 6.6)
    for rung, (step, _) in LECTURE.items():
        config = PRESETS[rung][1]
        assert step % config.eval_every == 0
        assert step < config.steps


def test_a_refusal_is_one_line(ladder: Path, corpus: Path, refused: Run) -> None:
    assert "(steps)" in refused("pretrain.ladder", "--corpus", corpus, "--steps", 7, "--run", ladder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 7}, r"trained with other settings \(steps\)"),
        ({"seed": 2}, r"trained with other settings \(seed\)"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"lecture_steps": -1}, "steps must be at least 1"),
        ({"corpus": "no/such/text.txt"}, "no/such/text.txt"),
        ({"corpus": "README.md"}, r"trained with other settings \(corpus\)"),
    ],
)
def test_a_ladder_that_cannot_go_on_is_refused_before_it_begins(
    ladder: Path, corpus: Path, changes: dict[str, Any], words: str
) -> None:
    before = sorted(ladder.rglob("*"))
    given: dict[str, Any] = {"corpus": str(corpus), "steps": 6} | changes
    with pytest.raises(UserError, match=words):
        climb(LadderOptions(run=ladder, **given))
    assert sorted(ladder.rglob("*")) == before


@pytest.mark.parametrize(
    ("rung", "changes", "words"),
    [
        ("bigram", {"width": 64}, "width is fixed at 0 for rung bigram, but is 64"),
        ("one-head", {"dropout": 0.1}, "dropout is fixed at 0.0 for rung one-head, but is 0.1"),
        ("residual", {"precision": "bf16"}, "precision is fixed at fp32 for rung residual, but is bf16"),
        ("layer-norm", {"tied": True}, "tied is fixed at False for rung layer-norm, but is True"),
        ("layer-norm", {"heads": 5}, "not divisible by 5 heads"),
    ],
)
def test_what_a_rung_does_not_have_is_refused(
    rung: str, changes: dict[str, Any], words: str, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        pretrain(short(rung, tmp_path / "run", corpus, **changes), rung)
    assert not (tmp_path / "run").exists()


def test_a_rung_is_no_gpt_and_says_what_makes_one(ladder: Path) -> None:
    folder = ladder / "multi-head" / "pretrain"
    for read in (load_model, read_gpt_config):
        with pytest.raises(
            UserError,
            match="multi-head, which is not a GPT and can only be sampled and evaluated: `python -m ",
        ):
            read(folder)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"rung": "one-head"}, "heads is fixed at 1|at least 1"),
        ({"colour": "red"}, "broken checkpoint"),
        ({"vocab_size": 0}, "vocab_size must be at least 1"),
        ({"model_type": "llama"}, "not one of ours"),
    ],
)
def test_a_checkpoint_that_was_meddled_with(ladder: Path, tmp_path: Path, broken: dict[str, Any], words: str) -> None:
    shutil.copytree(ladder / "bigram" / "pretrain", tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | broken))
    with pytest.raises(UserError, match=words):
        load_any_model(tmp_path / "copy")
