"""The sft stage: what is learned and what is not, that nothing is lost, and resuming to the bit."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import TrainerCallback

from data.console import UserError
from data.run.record import check_descends, read_stage
from data.tokenizers import Tokenizer
from pretrain.checkpoint import load_model
from sft import train as sft_train
from sft.config import FineTuneConfig
from sft.evaluate import completion_nats, sample_replies
from sft.models.forward import LogProbs
from sft.models.loading import load_causal_lm
from sft.models.sampling import sampler
from sft.pairs import IGNORED, Example
from sft.train import FineTuning, fine_tune
from sft.trainer import as_dataset, check_nothing_lost
from sft.trl import last_checkpoint
from tests.cards import check_card
from tests.sft.small import config, opened_trainer, sha256, unfinished


@pytest.fixture(scope="module")
def finished(smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose sft stage was made once; read only."""
    run = Path(shutil.copytree(smoke_base, tmp_path_factory.mktemp("finished") / "run"))
    fine_tune(config(run), "smoke")
    return run


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


@pytest.mark.slow
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


def test_a_parent_of_another_stage(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "sft", tmp_path / "pretrain")
    with pytest.raises(UserError, match="holds the stage 'sft', not 'pretrain'"):
        fine_tune(config(tmp_path), "smoke")
