"""Training: equal configurations give equal weights, resume changes nothing, the loss is the loss."""

import dataclasses
import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.console import UserError
from data.corpus import load_corpus
from data.run.options import settings
from data.run.record import sha256_of
from data.tokenizers import Tokenizer, bpe_tokenizer
from pretrain.checkpoint import load_model
from pretrain.config import PretrainConfig
from pretrain.evaluate import evaluate_split, total_nats
from pretrain.model import GPT, GPTConfig
from pretrain.train import Pretraining, Windows, pretrain
from pretrain.training.optim import Muon, build_optimizers, set_schedule
from tests.cards import check_card

WORDS = ["the", "a", "my", "thy", "king", "queen", "sword", "crown", "loves", "fears", "gives", "takes", "and", "or"]


@pytest.fixture(scope="module")
def corpus_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chooser = random.Random(0)
    lines = [" ".join(chooser.choice(WORDS) for _ in range(7)).capitalize() + "." for _ in range(900)]
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text("\n".join(f"SPEAKER:\n{line}\n" for line in lines), "utf-8")
    return path


@pytest.fixture
def config(corpus_path: Path, tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        corpus=str(corpus_path),
        run=tmp_path,
        vocab_size=300,
        width=32,
        layers=1,
        heads=2,
        feed_forward=48,
        context_length=32,
        dropout=0.1,
        steps=24,
        batch_size=8,
        eval_every=8,
        save_every=5,
        sample_tokens=8,
        precision="fp32",
    )


def run_once(config: PretrainConfig, folder: Path) -> Path:
    """The run folder of this configuration, trained without an interruption when first asked for."""
    values = json.dumps(settings(config), sort_keys=True).encode()
    run = folder / hashlib.sha256(values).hexdigest()[:12]
    if not run.exists():
        pretrain(dataclasses.replace(config, run=run), "test")
    return run


def weights_of(run: Path) -> str:
    return sha256_of(run / "pretrain" / "model.safetensors")


def test_a_run_learns_and_says_what_it_did(config: PretrainConfig, tmp_path: Path) -> None:
    folder = pretrain(config, "test")
    record = json.loads((folder / "stage.json").read_text())
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [8, 16, 24]
    assert metrics[-1]["nats_per_char"] < metrics[0]["nats_per_char"] < 2.5
    assert record["results"]["nats_per_char"] == min(line["nats_per_char"] for line in metrics)
    check_card(folder, "bits per character, whole validation split")
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "loss.png",
        "metrics.jsonl",
        "model.safetensors",
        "samples.md",
        "stage.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"pretrain", "corpus.txt"}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_equal_seeds_equal_weights(config: PretrainConfig, tmp_path: Path, optimizer: Any) -> None:
    found = []
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        pretrain(dataclasses.replace(config, run=tmp_path / run, seed=seed, steps=8, optimizer=optimizer), "test")
        found.append(weights_of(tmp_path / run))
    assert found[0] == found[1] != found[2]


COURSE: dict[str, Any] = {
    "family": "gpt2",
    "tokenizer": "char",
    "padded_vocab_size": 64,
    "optimizer": "adamw",
    "bias": False,
    "schedule": "triangular2",
    "step_size": 5,
    "warmup_fraction": 0.0,
    "learning_rate": 0.003,
    "max_grad_norm": 1.0,
    "weight_decay": 0.1,
    "micro_batch_size": 2,
    "eval_first": True,
}


@pytest.mark.parametrize(
    ("changes", "killed_after", "forwards"),
    [
        *[({}, killed, 0) for killed in (3, 7, 13, 23)],
        *[(COURSE, killed, forwards) for killed, forwards in ((0, 0), (3, 2), (8, 0), (13, 3), (15, 1), (23, 3))],
    ],
)
def test_resume_equals_no_interruption_bit_for_bit(
    config: PretrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict,
    killed_after: int,
    forwards: int,
) -> None:
    """Killed after so many steps (saved every 5, evaluated every 8) and some forward passes of the next one."""
    config = dataclasses.replace(config, **changes)
    whole = run_once(config, tmp_path.parent)
    step, forward = Pretraining.step, GPT.forward
    passes_left = forwards

    def dies(run: Pretraining) -> None:
        with monkeypatch.context() as patched:
            if run.progress.step == killed_after:
                patched.setattr(GPT, "forward", dies_in_the_forward)
            step(run)

    def dies_in_the_forward(*arguments: Any) -> torch.Tensor:
        nonlocal passes_left
        if passes_left == 0:
            raise KeyboardInterrupt
        passes_left -= 1
        return forward(*arguments)

    broken = dataclasses.replace(config, run=tmp_path / "broken")
    with monkeypatch.context() as patched:
        patched.setattr(Pretraining, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            pretrain(broken, "test")
    assert not (tmp_path / "broken" / "pretrain").exists()
    pretrain(dataclasses.replace(broken, resume=True), "test")
    assert weights_of(tmp_path / "broken") == weights_of(whole)

    def figures(run: Path) -> list[dict]:
        lines = [json.loads(line) for line in (run / "pretrain" / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]

    assert figures(tmp_path / "broken") == figures(whole)


def test_the_checkpoint_has_the_loss_that_the_stage_reports(config: PretrainConfig) -> None:
    """Also where the model was trained with rows and without biases that no checkpoint has."""
    folder = pretrain(dataclasses.replace(config, **COURSE), "test")
    corpus, tokenizer = load_corpus(config.corpus), Tokenizer.load(folder)
    figures = evaluate_split(load_model(folder), tokenizer, corpus.validation, corpus.train)
    results = json.loads((folder / "stage.json").read_text())["results"]
    assert results["nats_per_char"] == pytest.approx(figures["nats_per_char"], abs=1e-5)
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == tokenizer.vocab_size < 64


def test_accumulation_changes_nothing_but_rounding(config: PretrainConfig, tmp_path: Path) -> None:
    plain = dataclasses.replace(config, dropout=0.0, steps=3, optimizer="adamw", learning_rate=1e-3)
    pretrain(dataclasses.replace(plain, run=tmp_path / "one"), "test")
    pretrain(dataclasses.replace(plain, run=tmp_path / "four", micro_batch_size=2), "test")
    one, four = (load_file(tmp_path / run / "pretrain" / "model.safetensors") for run in ("one", "four"))
    for name, weight in one.items():
        assert torch.allclose(weight, four[name], atol=2e-6), name


def test_every_window_is_seen_once_an_epoch() -> None:
    windows = Windows(torch.arange(1001), context=10, batch_size=7, seed=3)
    starts = []
    for step in range(math.ceil(2 * windows.per_epoch / 7)):
        batch = windows.batch(step)
        assert batch.shape == (7, 11)
        assert torch.equal(batch[:, 1:], batch[:, :-1] + 1)
        starts += batch[:, 0].tolist()
    first, second = starts[: windows.per_epoch], starts[windows.per_epoch : 2 * windows.per_epoch]
    for epoch in (first, second):
        phase = min(epoch)
        assert sorted(epoch) == [phase + 10 * index for index in range(windows.per_epoch)]
    assert first != sorted(first)
    again = Windows(torch.arange(1001), context=10, batch_size=7, seed=3)
    assert torch.equal(again.batch(20), windows.batch(20))


def gpt(config: PretrainConfig) -> GPT:
    shape = config.model_config(50)
    assert isinstance(shape, GPTConfig)
    return GPT(shape)


@pytest.mark.parametrize("family", ["modern", "gpt2"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_parameter_has_one_optimizer(family: Any, optimizer: Any) -> None:
    config = PretrainConfig(family=family, optimizer=optimizer, tied=False, weight_decay=0.1)
    model = gpt(config)
    optimizers = build_optimizers(model, config)
    held = [id(p) for chosen in optimizers for group in chosen.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    for chosen in optimizers:
        for group in chosen.param_groups:
            if any(p.ndim == 1 for p in group["params"]):
                assert group["weight_decay"] == 0
    assert sum(group["weight_decay"] > 0 for chosen in optimizers for group in chosen.param_groups) == 1
    set_schedule(optimizers, 0.5, 0.05)
    assert all(group["lr"] == 0.5 * group["peak_lr"] for chosen in optimizers for group in chosen.param_groups)
    if optimizer == "muon":
        assert optimizers[1].param_groups[0]["momentum"] == pytest.approx(0.9)


def test_adamw_takes_the_settings_and_decays_all_where_asked() -> None:
    settings: dict[str, Any] = {
        "adam_beta1": 0.8,
        "adam_beta2": 0.99,
        "adam_eps": 1e-7,
        "learning_rate": 0.002,
        "weight_decay": 0.3,
    }
    config = PretrainConfig(family="gpt2", optimizer="adamw", decay="all", **settings)
    [adamw] = build_optimizers(gpt(config), config)
    for group in adamw.param_groups:
        assert (group["betas"], group["eps"], group["lr"], group["weight_decay"]) == ((0.8, 0.99), 1e-7, 0.002, 0.3)
    matrices = dataclasses.replace(config, decay="matrices")
    for group in build_optimizers(gpt(config), matrices)[0].param_groups:
        assert {parameter.ndim for parameter in group["params"]} == ({2} if group["weight_decay"] else {1})


def test_muon_is_torchs_muon() -> None:
    settings: dict[str, Any] = {"lr": 0.03, "momentum": 0.9, "weight_decay": 0.1, "adjust_lr_fn": "original"}
    shapes = [(16, 16), (24, 16), (16, 24), (24, 16), (16, 16), (8, 40)]
    weights = []
    for kind in (Muon, torch.optim.Muon):
        generator = torch.Generator().manual_seed(0)
        ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        optimizer = kind(ours, **settings)
        for _ in range(3):
            for weight in ours[:-1]:  # the last has no gradient and stays
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
        weights.append([weight.detach() for weight in ours])
        assert len(optimizer.state) == len(shapes) - 1
    for ours, theirs in zip(*weights, strict=True):
        # What one rounding to bfloat16 may change, for another order of summation, and no more.
        torch.testing.assert_close(ours, theirs, atol=3 * 0.03 * 2**-7, rtol=0)


def test_whole_split_loss_is_every_token_once(corpus_path: Path) -> None:
    corpus = load_corpus(str(corpus_path))
    tokenizer = bpe_tokenizer(corpus.train, 300)
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(vocab_size=tokenizer.vocab_size, context_length=16, width=16, layers=1, heads=1, feed_forward=16)
    ).eval()
    text = corpus.validation[:300]
    ids = torch.tensor(tokenizer.encode(corpus.train[-200:])[-1:] + tokenizer.encode(text))
    by_hand = 0.0
    with torch.no_grad():
        for target in range(1, len(ids)):
            start = (target - 1) // 16 * 16
            by_hand -= float(model(ids[None, start:target])[0, -1].log_softmax(-1)[ids[target]])
    figures = evaluate_split(model, tokenizer, text, corpus.train)
    assert figures["nats_per_char"] == pytest.approx(by_hand / 300, rel=1e-5)
    assert figures["bits_per_char"] == pytest.approx(by_hand / 300 / math.log(2), rel=1e-5)
    assert (figures["tokens"], figures["chars"]) == (len(ids) - 1, 300)
    by_hand_sliding = 0.0
    with torch.no_grad():
        for target in range(1, len(ids)):
            end = 16 if target <= 16 else min(16 + math.ceil((target - 16) / 4) * 4, len(ids) - 1)
            start = max(0, end - 16)
            by_hand_sliding -= float(model(ids[None, start:target])[0, -1].log_softmax(-1)[ids[target]])
    assert total_nats(model, ids, 16, stride=4) == pytest.approx(by_hand_sliding, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 3}, "not divisible by 3 heads"),
        ({"micro_batch_size": 3}, "not divisible by micro_batch_size"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"warmup_fraction": 2.0}, "between 0 and 1"),
        ({"context_length": 30_000}, "too short"),
        ({"vocab_size": 100}, "vocab"),
    ],
)
def test_impossible_runs_are_refused_and_leave_nothing(
    config: PretrainConfig, tmp_path: Path, changes: dict, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        pretrain(dataclasses.replace(config, **changes), "test")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_explodes_stops_with_one_line(config: PretrainConfig) -> None:
    with pytest.raises(UserError, match="no longer a number"):
        pretrain(dataclasses.replace(config, learning_rate=1e30, muon_learning_rate=1e30), "test")
