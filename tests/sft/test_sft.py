"""Fine-tuning: what is learned and what is not, that nothing is lost, resuming to the bit, and every bad input."""

import hashlib
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, TrainerCallback

from data.console import UserError
from data.corpus import load_corpus
from data.dialogue import Pair
from data.run.folder import StageFolder, open_stage
from data.run.record import check_descends, read_stage
from data.tokenizers import Tokenizer, bpe_tokenizer, character_tokenizer
from pretrain.checkpoint import load_model, save_model
from pretrain.model import GPT, GPTConfig
from pretrain.presets import PRESETS as PRETRAIN_PRESETS
from pretrain.train import pretrain
from sft import train as sft_train
from sft.config import PRESETS, FineTuneConfig
from sft.end_token import fit_end_row, start_end_row
from sft.evaluate import completion_nats, sample_replies
from sft.models.forward import LogProbs
from sft.models.loading import load_causal_lm
from sft.models.sampling import sampler
from sft.pairs import IGNORED, Example, encode_pairs, load_pairs, training_order
from sft.train import FineTuning, fine_tune
from sft.trainer import as_dataset, check_nothing_lost
from sft.trl import last_checkpoint
from tests.cards import check_card

TEXT = "Good morrow, cousin. What news abroad? None, sir; the road is empty and the inn is shut.\n\n" * 30


@pytest.fixture
def run(smoke_base: Path, tmp_path: Path) -> Path:
    """A run of one's own with a finished pretrain stage."""
    return Path(shutil.copytree(smoke_base, tmp_path / "run"))


@pytest.fixture(scope="module")
def finished(smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose sft stage was made once; read only."""
    run = Path(shutil.copytree(smoke_base, tmp_path_factory.mktemp("finished") / "run"))
    fine_tune(config(run), "smoke")
    return run


def config(run: Path, **changes: object) -> FineTuneConfig:
    few = {
        "max_pairs": 88,
        "batch_size": 8,
        "micro_batch_size": 4,
        "save_every": 3,
        "eval_every": 4,
        "log_every": 1,
        "precision": "fp32",
    }
    return replace(PRESETS["smoke"][1], run=run, **(few | changes))  # type: ignore[arg-type]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unfinished(options: FineTuneConfig) -> StageFolder:
    """The folder of a stage that was opened and not finished."""
    with pytest.raises(KeyboardInterrupt), open_stage("sft", options, preset="smoke") as stage:
        raise KeyboardInterrupt
    return stage


def opened_trainer(options: FineTuneConfig):
    fine_tuning = FineTuning(options)
    return fine_tuning, fine_tuning.trainer(unfinished(options))


# What is learned


def test_the_loss_is_the_mean_over_completion_tokens_of_the_whole_step(run: Path) -> None:
    """Step 1 of two micro batches, before any update, against a cross-entropy written out here."""
    fine_tuning, trainer = opened_trainer(config(run, max_pairs=8, following_coef=0.0))
    total, count = 0.0, 0
    with torch.no_grad():
        for example in fine_tuning.epochs[0]:
            logits = fine_tuning.model(torch.tensor([example.ids])).logits[0].float()
            first = len(example.prompt)
            predictions = logits[first - 1 : -1]
            total += F.cross_entropy(predictions, torch.tensor(example.completion), reduction="sum").item()
            count += len(example.completion)
    trainer.train()
    assert trainer.state.log_history[0]["step"] == 1
    assert trainer.state.log_history[0]["loss"] == pytest.approx(total / count, abs=2e-5)


def test_a_prompt_is_never_a_target_and_every_completion_ends_with_the_end(run: Path) -> None:
    fine_tuning, trainer = opened_trainer(config(run))
    eos = fine_tuning.tokenizer.eos_id
    for batch in trainer.get_train_dataloader():
        for ids, labels, length in zip(batch["input_ids"], batch["labels"], batch["lengths"].tolist(), strict=True):
            learned = labels[labels != IGNORED]
            if not len(learned):
                continue  # a twin
            first = length - len(learned)
            assert first > 0
            assert (labels[:first] == IGNORED).all()
            assert torch.equal(ids[first:length], learned)
            assert learned[-1] == eos
            assert (learned == eos).sum() == 1
            assert (ids[length:] == fine_tuning.tokenizer.pad_id).all()


def test_the_trainer_takes_every_pair_once_an_epoch(run: Path) -> None:
    fine_tuning, trainer = opened_trainer(config(run, max_pairs=21, epochs=2))
    seen = [
        tuple(ids[:length].tolist())
        for batch in trainer.get_train_dataloader()
        for ids, labels, length in zip(batch["input_ids"], batch["labels"], batch["lengths"], strict=True)
        if (labels != IGNORED).any()  # no twin
    ]
    assert sorted(seen) == sorted(tuple(example.ids) for epoch in fine_tuning.epochs for example in epoch)
    trainer.train()
    assert trainer.state.global_step == fine_tuning.steps == math.ceil(42 / 8)


def test_examples_lost_in_the_trainer_are_an_error() -> None:
    examples = [Example([1, 2], [3, 9]), Example([4], [5, 6, 9])]
    check_nothing_lost(examples, as_dataset(examples))
    with pytest.raises(UserError, match="kept 1 of 2 examples and 2 of 5"):
        check_nothing_lost(examples, as_dataset(examples[:1]))
    with pytest.raises(UserError, match="4 of 5 completion tokens"):
        check_nothing_lost(examples, as_dataset([examples[0], Example([4, 5], [6, 9])]))


def test_encoding_counts_what_is_cut_and_what_is_left_out() -> None:
    tokenizer = bpe_tokenizer(TEXT, 300)
    pairs = [
        Pair("A:\nHow now?\n\nB:\n", "None, sir."),
        Pair("A:\nHow now?\n\nB:\n", "The road is empty. What news abroad? " * 20),
        Pair("A:\nHow now?\n\nB:\n", "the inn is shut and " * 40),
        Pair("A:\nHow now?\n\nB:\n", "Ay."),
    ]
    options = FineTuneConfig(prompt_length=6, response_length=40, min_words=2)
    encoded = encode_pairs(pairs, tokenizer, options)
    assert (len(encoded.examples), encoded.cut, encoded.dropped) == (2, 1, 2)
    whole, cut = encoded.examples
    assert whole.completion == [*tokenizer.encode("None, sir."), tokenizer.eos_id]
    assert len(cut.completion) <= 40
    assert re.search(r"[.?]$", tokenizer.decode(cut.completion))
    assert whole.prompt == tokenizer.encode(pairs[0].prompt)[-6:]


def test_few_words_are_left_out_of_plays_and_learned_of_peoples_own_pairs(tmp_path: Path) -> None:
    tokenizer, data = bpe_tokenizer(TEXT, 300), tmp_path / "pairs.jsonl"
    pairs = [
        Pair("Q?", text)
        for text in ("Yes.", "学而时习之\uff0c不亦说乎。", "It is as far as the weir, and back.", "x " * 200)
    ]
    options = FineTuneConfig(prompt_length=8, response_length=60)
    found = [
        encode_pairs(pairs, tokenizer, each)
        for each in (options, replace(options, data=data), replace(options, data=data, min_words=9))
    ]
    assert [(len(each.examples), each.dropped, each.short) for each in found] == [(2, 2, 1), (3, 1, 0), (2, 2, 1)]


def test_what_a_tokenizer_does_not_know_is_named_with_its_line(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n\n{"prompt": "b", "completion": "\u00e9"}\n', "utf-8")
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 3: the character tokenizer does not know 'é'"):
        load_pairs(FineTuneConfig(data=data), load_corpus("pastiche"), character_tokenizer("ab"))


def test_sorting_within_a_step_keeps_the_steps_pairs() -> None:
    lengths = [17, 3, 9, 9, 40, 2, 8, 31, 5, 12, 6, 6]
    options = FineTuneConfig(batch_size=4, epochs=2, seed=3)
    order = training_order(lengths, options)
    assert sorted(order[:12]) == sorted(order[12:]) == list(range(12))
    for first in range(0, 24, 4):
        step = [lengths[index] for index in order[first : first + 4]]
        assert step == sorted(step, reverse=True)
    assert order != training_order(lengths, replace(options, seed=4))


@pytest.mark.parametrize(("family", "tied"), [("modern", True), ("modern", False), ("gpt2", True)])
def test_the_end_token_starts_as_the_newline(tmp_path: Path, family: str, tied: bool) -> None:
    tokenizer = bpe_tokenizer(TEXT, 300)
    shape = GPTConfig(
        family=family,  # type: ignore[arg-type]
        vocab_size=tokenizer.vocab_size,
        context_length=16,
        width=16,
        layers=1,
        heads=2,
        feed_forward=32,
        dropout=0.3 if family == "gpt2" else 0.0,
        tied=tied,
    )
    save_model(GPT(shape), tokenizer, tmp_path)
    tokenizer.save(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tmp_path)
    model: Any = load_causal_lm(tmp_path, dropout=0.1)
    newline, end = tokenizer.encode("\n")[0], tokenizer.eos_id
    start_end_row(model, newline, end)
    both: Any = (
        (model.get_input_embeddings(), base.get_input_embeddings()),
        (model.get_output_embeddings(), base.get_output_embeddings()),
    )
    for ours, theirs in both:
        assert torch.equal(ours.weight[end], theirs.weight[newline])
        others = [row for row in range(tokenizer.vocab_size) if row != end]
        assert torch.equal(ours.weight[others], theirs.weight[others])
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == ({0.1} if family == "gpt2" else set())
    assert model.config.to_dict()["attn_pdrop" if family == "gpt2" else "attention_dropout"] == 0.1


@pytest.mark.parametrize(("family", "tied"), [("modern", True), ("modern", False), ("gpt2", True)])
def test_fitting_the_end_tokens_row_finds_where_replies_end(tmp_path: Path, family: str, tied: bool) -> None:
    """By the whole model's own logits: the best row there is, and no other weight is touched."""
    tokenizer = bpe_tokenizer(TEXT, 300)
    torch.manual_seed(0)
    shape = GPTConfig(
        family=family,  # type: ignore[arg-type]
        vocab_size=tokenizer.vocab_size,
        context_length=64,
        width=32,
        layers=1,
        heads=2,
        feed_forward=64,
        tied=tied,
    )
    save_model(GPT(shape), tokenizer, tmp_path)
    tokenizer.save(tmp_path)
    model: Any = load_causal_lm(tmp_path)
    end = tokenizer.eos_id
    start_end_row(model, tokenizer.encode("\n")[0], end)
    texts = ["Good morrow.", "What news abroad, my lord? I hear of none.", "No.", "The road is empty, and so am I."]
    prompt = tokenizer.encode("ANNE:\n")
    examples = [Example(prompt, [*tokenizer.encode(text), end]) for text in texts]
    before = {name: weights.clone() for name, weights in model.named_parameters()}
    start = model.get_output_embeddings().weight[end].detach().clone()

    def objective(row: torch.Tensor) -> torch.Tensor:
        head, losses = model.get_output_embeddings().weight, []
        for example in examples:
            states = model.base_model(torch.tensor([example.ids])).last_hidden_state[0]
            logits = states @ torch.cat([head[:end].detach(), row[None], head[end + 1 :].detach()]).T
            for position, token in enumerate(example.completion, start=len(prompt) - 1):
                ending = logits[position].softmax(-1)[end]
                losses.append(-(ending if token == end else 1 - ending).log())
        return torch.stack(losses).mean() + (row - start).square().sum() / len(losses)

    fit_end_row(model, examples, end)
    fitted = model.get_output_embeddings().weight[end].detach().requires_grad_(True)
    best = objective(fitted)
    (gradient,) = torch.autograd.grad(best, fitted)
    assert best < 0.5 * objective(start)
    assert gradient.norm() < 1e-3
    others = [row for row in range(tokenizer.vocab_size) if row != end]
    for name, weights in model.named_parameters():
        if len(weights) == tokenizer.vocab_size:
            assert torch.equal(weights[others], before[name][others])
            assert torch.equal(weights[end], fitted)
        else:
            assert torch.equal(weights, before[name])


def test_held_out_nats_do_not_depend_on_the_batch_and_equal_a_loop(finished: Path) -> None:
    """The loop is over our GPT, read from the same folder."""
    model, tokenizer = load_model(finished / "sft"), Tokenizer.load(finished / "sft")
    texts = ["Good morrow.", "What news abroad, my lord? I hear of none.", "No.", "The road is empty, and so am I."]
    examples = [
        Example(tokenizer.encode("A:\nHow now?\n\nB:\n"), [*tokenizer.encode(t), tokenizer.eos_id]) for t in texts
    ]
    total = 0.0
    with torch.no_grad():
        for example in examples:
            log_p = model(torch.tensor([example.ids]))[0].log_softmax(-1)
            first = len(example.prompt)
            total -= sum(log_p[first + i - 1, token].item() for i, token in enumerate(example.completion))
    expected = total / sum(len(example.completion) for example in examples)
    lm = load_causal_lm(finished / "sft").train()
    for batch_size in (1, 3, 4):
        assert completion_nats(lm, examples, batch_size=batch_size) == pytest.approx(expected, abs=1e-5)
    assert lm.training


# The whole stage


def test_the_stage_reports_what_it_did(finished: Path) -> None:
    folder = finished / "sft"
    record = read_stage(folder, "sft")
    check_descends(record, read_stage(finished / "pretrain"), finished)
    results = record.results
    assert results["pairs_train"] == 88
    assert results["nats_after"] < results["nats_before"] - 0.02
    assert results["perplexity_after"] == pytest.approx(math.exp(results["nats_after"]), rel=1e-3)
    assert results["stop_share_before"] < 0.3 < results["stop_share"]
    assert 1 <= results["mean_response_tokens"] <= 48
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("README.md", "stage.json", "metrics.jsonl", "loss.png", "samples.md"),
    }
    check_card(folder, "perplexity of held-out replies", "share of sampled replies that stop by themselves")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train_nats" in line] == list(range(1, 12))
    assert [line["step"] for line in lines if "dev_nats" in line] == [4, 8, 11]
    assert lines[-1].get("dev_nats", lines[-2].get("dev_nats")) == pytest.approx(results["nats_after"], abs=1e-4)
    assert (folder / "samples.md").read_text().count("\nSFT:\n") == 6
    assert record.tokenizer_sha256 == read_stage(finished / "pretrain").tokenizer_sha256
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True


def test_the_saved_model_is_the_one_that_was_measured(finished: Path) -> None:
    """Read back from the folder it has the loss that it had in memory, and writes the same replies."""
    record = read_stage(finished / "sft")
    fine_tuning = FineTuning(config(finished))
    assert fine_tuning.replies().stop_share == pytest.approx(record.results["stop_share_before"], abs=1e-4)
    fine_tuning.model = load_causal_lm(finished / "sft")
    fine_tuning.logprobs = LogProbs(fine_tuning.model)
    assert fine_tuning.nats() == pytest.approx(record.results["nats_after"], abs=2e-5)
    replies = fine_tuning.replies()
    assert replies.stop_share == pytest.approx(record.results["stop_share"], abs=1e-4)
    assert all(text.strip("\n") in (finished / "sft" / "samples.md").read_text() for text in replies.texts[:6])


def test_plain_transformers_loads_it_elsewhere(finished: Path, tmp_path: Path) -> None:
    program = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
ids = tokenizer("A:\\nHow now?\\n\\nB:\\n", return_tensors="pt").input_ids
out = model.generate(ids, max_new_tokens=8, do_sample=False)
print(model.config.eos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, out[0].tolist())
assert not {"sft", "pretrain", "data"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(finished / "sft")],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    tokenizer = Tokenizer.load(finished / "sft")
    assert done.stdout.startswith(f"{tokenizer.eos_id} {tokenizer.eos_id} {tokenizer.pad_id} [")


def test_equal_seeds_give_equal_weights_and_other_seeds_others(finished: Path, run: Path) -> None:
    fine_tune(config(run), "smoke")
    weights = sha256(run / "sft" / "model.safetensors")
    assert weights == sha256(finished / "sft" / "model.safetensors")
    fine_tune(config(run, seed=2, overwrite=True), "smoke")
    assert weights != sha256(run / "sft" / "model.safetensors")


def logged(run: Path, key: str = "train_nats") -> list[float]:
    lines = (run / "sft" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[key] for line in lines if key in line]


def test_micro_batches_change_nothing_but_rounding(finished: Path, run: Path) -> None:
    fine_tune(config(run, micro_batch_size=None), "smoke")
    assert logged(run) == pytest.approx(logged(finished), abs=2e-4)
    assert logged(run, "dev_nats") == pytest.approx(logged(finished, "dev_nats"), abs=2e-4)


def test_two_processes_take_the_steps_of_one(finished: Path, run: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = ("max_pairs", "batch_size", "micro_batch_size", "save_every", "eval_every", "log_every", "precision")
    fields = [word for name in settings for word in (f"--{name}", str(getattr(config(run), name)))]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "sft", "smoke", "--run", str(run), *fields],
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(outputs[0].splitlines()) == 2
    assert outputs[1] == ""
    assert logged(run) == pytest.approx(logged(finished), abs=2e-4)
    assert logged(run, "dev_nats") == pytest.approx(logged(finished, "dev_nats"), abs=2e-4)


def test_it_learns_to_stop(run: Path) -> None:
    """Replies of one word: after a few steps nearly every reply ends, where the base never ends one."""
    data = run / "pairs.jsonl"
    pairs = [{"prompt": f"A:\nIs it {n}?\n\nB:\n", "completion": "Ay."} for n in range(120)]
    data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), "utf-8")
    fine_tune(
        config(run, data=data, max_pairs=None, learning_rate=3e-3, epochs=2, samples=12, directions="none"), "smoke"
    )
    results = read_stage(run / "sft").results
    assert (results["pairs_train"], results["pairs_dev"]) == (108, 12)
    assert results["stop_share"] >= 0.9
    assert results["perplexity_after"] < 2
    model, tokenizer = sampler(load_causal_lm(run / "sft")), Tokenizer.load(run / "sft")
    replies = sample_replies(model, tokenizer, [tokenizer.encode("A:\nIs it so?\n\nB:\n")] * 20, 16, seed=1)
    assert replies.texts.count("Ay.") >= 16


def test_the_text_is_the_one_in_the_run_and_not_made_again(
    smoke_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run has been moved, and nothing is left where it was made."""
    run = Path(shutil.copytree(smoke_base, tmp_path / "moved"))
    monkeypatch.setattr("data.corpus.load_corpus", None)
    monkeypatch.setattr("data.pastiche.pastiche", None)
    assert FineTuning(config(run)).corpus.text == (run / "corpus.txt").read_text("utf-8")
    (run / "corpus.txt").unlink()
    with pytest.raises(UserError, match=r"corpus\.txt: No such file.*put back the text"):
        fine_tune(config(run), "smoke")


# Stopping and resuming


@pytest.mark.parametrize("killed_after", [2, 8])
def test_a_killed_run_resumes_to_the_same_bits(
    finished: Path, run: Path, killed_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the first saved state (step 3), and after the second."""
    options = config(run)

    class Kill(sft_train.Watch):
        def on_step_end(self, args, state, *rest, **more) -> None:
            super().on_step_end(args, state, *rest, **more)
            if state.global_step == killed_after:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sft_train, "Watch", Kill)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(options, "smoke")
    assert not (run / "sft").exists()
    if killed_after > 3:  # a state that a kill left half-written is passed over
        (run / ".sft.partial" / "resume" / "checkpoint-9").mkdir()
    with pytest.raises(UserError, match="add --resume"):
        fine_tune(options, "smoke")
    with pytest.raises(UserError, match=r"other settings \(learning_rate\)"):
        fine_tune(replace(options, resume=True, learning_rate=1.0), "smoke")
    fine_tune(replace(options, resume=True), "smoke")
    assert sha256(run / "sft" / "model.safetensors") == sha256(finished / "sft" / "model.safetensors")
    assert read_stage(run / "sft").results == read_stage(finished / "sft").results
    metrics = [
        [
            {k: v for k, v in json.loads(line).items() if k != "seconds"}
            for line in (where / "sft" / "metrics.jsonl").read_text().splitlines()
        ]
        for where in (run, finished)
    ]
    assert metrics[0] == metrics[1]
    assert not (run / ".sft.partial").exists()


def test_killed_in_the_last_measurement_it_only_measures_again(
    finished: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sft_train, "write_samples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(config(run), "smoke")
    steps: list[int] = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **more) -> None:
            steps.append(state.global_step)

    original = FineTuning.trainer

    def counted(self, folder):
        trainer = original(self, folder)
        trainer.add_callback(Count)
        return trainer

    monkeypatch.setattr(FineTuning, "trainer", counted)
    fine_tune(config(run, resume=True), "smoke")
    assert steps == []
    assert sha256(run / "sft" / "model.safetensors") == sha256(finished / "sft" / "model.safetensors")


def test_the_latest_whole_state_is_found(tmp_path: Path) -> None:
    folder = unfinished(FineTuneConfig(run=tmp_path))
    assert last_checkpoint(folder) == (None, 0)
    for step, state in ((50, "{}"), (100, "{}"), (150, '{"epo')):
        (folder.resume_path / f"checkpoint-{step}").mkdir(parents=True)
        (folder.resume_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(folder) == (folder.resume_path / "checkpoint-100", 100)
    assert not (folder.resume_path / "checkpoint-150").exists()


# Bad input


def test_the_command_and_what_it_refuses(command: Callable, refused: Callable, run: Path, tmp_path: Path) -> None:
    """As a user runs it: nothing but our lines is printed, a second run is refused, as is one without a base."""
    few = ("--max-pairs", 32, "--samples", 8)
    done = command("sft", "smoke", "--run", run, *few)
    lines = done.stderr.splitlines()
    assert done.stdout == ""
    assert len(lines) == 2, done.stderr
    assert all(line.startswith("sft  ") for line in lines)
    with pytest.raises(UserError, match=r"exists already: .* add --overwrite"):
        fine_tune(config(run), "smoke")
    assert "run `python -m pretrain PRESET" in refused("sft", "smoke", "--run", tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_impossible_settings(run: Path) -> None:
    for changes, message in (
        ({"prompt_length": 60, "response_length": 60}, "exceed the model's context of 96"),
        ({"batch_size": 8, "micro_batch_size": 3}, "not divisible by micro_batch_size 3"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"micro_batch_size": 0}, "micro_batch_size must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"response_length": 1}, "response_length must be at least 2"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": math.nan}, "learning_rate must be positive"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"min_words": -1}, "min_words must not be negative"),
        ({"min_words": 10_000}, "no pair is left"),
    ):
        with pytest.raises(UserError, match=message):
            fine_tune(config(run, **changes), "smoke")
    with pytest.raises(UserError, match="8 is not divisible by 3 processes"):
        config(run).micro_batches(processes=3)
    assert config(run).micro_batches(processes=2) == (4, 1)
    assert not (run / ".sft.partial").exists()


def test_a_base_that_is_not_what_it_was(run: Path) -> None:
    weights = run / "pretrain" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="changed or truncated"):
        fine_tune(config(run), "smoke")
    weights.write_bytes(whole[:1000])
    with pytest.raises(UserError, match="changed or truncated"):
        fine_tune(config(run), "smoke")
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        fine_tune(config(run), "smoke")
    weights.write_bytes(whole)
    tokenizer = run / "pretrain" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    with pytest.raises(UserError, match=r"tokenizer\.json was changed"):
        fine_tune(config(run), "smoke")
    (run / "pretrain" / "stage.json").unlink()
    with pytest.raises(UserError, match="unfinished"):
        fine_tune(config(run), "smoke")
    assert not (run / ".sft.partial").exists()


def test_a_rung_of_the_ladder_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "sea.txt").write_text(TEXT)
    settings: dict[str, Any] = {
        "corpus": str(tmp_path / "sea.txt"),
        "run": tmp_path / "run",
        "steps": 2,
        "sample_tokens": 5,
    }
    pretrain(replace(PRETRAIN_PRESETS["bigram"][1], **settings), "bigram")
    with pytest.raises(UserError, match="the ladder's bigram, which is not a GPT and can only"):
        FineTuning(config(tmp_path / "run"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"pretrain", "corpus.txt"}


def test_a_parent_of_another_stage(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "sft", tmp_path / "pretrain")
    with pytest.raises(UserError, match="holds the stage 'sft', not 'pretrain'"):
        fine_tune(config(tmp_path), "smoke")


@pytest.mark.parametrize(
    ("second_line", "message"),
    [
        ('{"prompt": "A:\\n", "completion": ', "line 2: not valid JSON"),
        ('{"prompt": "A:\\n"}', 'line 2: the key "completion" is missing'),
        ('{"prompt": "A:\\n", "completion": 3}', 'line 2: "completion" must be a string'),
        ('["A", "B"]', "line 2: must be a JSON object"),
        ('{"prompt": "A:\\n", "completion": " "}', 'line 2: "completion" is empty'),
        ('{"prompt": "A:\\n", "completion": "Nay."}', "at least two different prompts"),
    ],
)
def test_a_broken_file_of_pairs(run: Path, second_line: str, message: str) -> None:
    data = run / "pairs.jsonl"
    data.write_text('{"prompt": "A:\\n", "completion": "Ay."}\n' + second_line + "\n", "utf-8")
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        fine_tune(config(run, data=data), "smoke")
    assert str(data) in str(caught.value)
    assert not (run / ".sft.partial").exists()


def test_a_corpus_without_dialogue(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sft.pairs.dialogue_pairs", lambda text: [])
    with pytest.raises(UserError, match=r"has no dialogue .* give pairs with --data"):
        fine_tune(config(run), "smoke")
