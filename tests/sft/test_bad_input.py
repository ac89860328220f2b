"""Every bad input of the sft stage is one line, and leaves nothing."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.console import UserError
from pretrain.presets import PRESETS as PRETRAIN_PRESETS
from pretrain.train import pretrain
from sft.train import FineTuning, fine_tune
from tests.sft.small import TEXT, config


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
