"""Attention maps: what is drawn is what the model did; the command refuses in one line what it cannot draw."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import image

from data.console import UserError
from data.tokenizers import bpe_tokenizer, character_tokenizer
from pretrain.attention_map import attention_weights, layer_picture, main, token_labels
from pretrain.checkpoint import new_model, save_model
from pretrain.ladder.models import LadderConfig
from pretrain.model import GPT, GPTConfig

SHAPE: Any = {
    "vocab_size": 60,
    "context_length": 24,
    "width": 32,
    "layers": 3,
    "heads": 4,
    "feed_forward": 48,
}


def tiny(family: Any) -> GPT:
    torch.manual_seed(0)
    model = GPT(GPTConfig(family=family, dropout=0.3, **SHAPE))
    with torch.no_grad():  # larger weights than at the start, so that attention is far from even
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_the_shares_mix_the_values_to_what_each_layer_put_out(family: str) -> None:
    model, ids = tiny(family).eval(), torch.randint(60, (20,))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hooks = [
        block.get_submodule("attention").register_forward_hook(lambda layer, given, out: seen.append((given[0], out)))
        for block in model.blocks
    ]
    with torch.no_grad():
        before = model(ids[None])
    for hook in hooks:
        hook.remove()
    shares = attention_weights(model, ids)
    assert shares.shape == (3, 4, 20, 20)
    assert shares.std(-1).max() > 0.1  # not the even mixture of a fresh model
    for layer, (x, out) in enumerate(seen):
        attention: Any = model.blocks[layer].attention
        with torch.no_grad():
            values = attention.value(x).view(20, 4, 8)
            mixed = torch.einsum("hts,shd->thd", shares[layer], values).reshape(20, 32)
            assert torch.allclose(attention.out(mixed), out[0], atol=1e-5)
    with torch.no_grad():
        assert torch.equal(model(ids[None]), before)  # nothing is left hanging on the model


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_rows_are_shares_and_the_future_has_none(family: str) -> None:
    model = tiny(family).train()
    shares = attention_weights(model, torch.randint(60, (24,)))
    assert torch.allclose(shares.sum(-1), torch.ones(3, 4, 24), atol=1e-5)
    assert shares.triu(1).abs().max() == 0
    assert shares.min() >= 0
    assert model.training


def test_labels_show_what_is_invisible() -> None:
    text = "Ay, sir.\nO!"
    assert token_labels(character_tokenizer(text), character_tokenizer(text).encode("y, .\n")) == [
        "y",
        ",",
        "·",
        ".",
        r"\n",
    ]
    bytewise = bpe_tokenizer("aaa", 258)
    assert token_labels(bytewise, [*bytewise.encode(" é"), bytewise.eos_id]) == ["·", "\\xc3", "\\xa9", "<|endoftext|>"]


def test_a_picture_grows_with_the_text(tmp_path: Path) -> None:
    sizes = []
    for length in (1, 8, 60):
        shares = torch.ones(3, length, length).tril().softmax(-1)
        (tmp_path / "layer.png").write_bytes(layer_picture(1, shares, ["$a_b"] * length))
        sizes.append(image.imread(tmp_path / "layer.png").shape[:2])
    assert sizes[0] == sizes[1] < sizes[2]


def test_the_command_draws_every_layer(command: Callable[..., Any], smoke_base: Path, tmp_path: Path) -> None:
    arguments = ["pretrain.attention_map", "--checkpoint", smoke_base / "pretrain", "--text", "A KING:\nGood night.\n"]
    said = command(*arguments, "--out", tmp_path / "pictures").stderr
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [picture.name for picture in pictures] == ["layer-1.png", "layer-2.png"]
    for picture in pictures:
        assert str(picture) in said
        assert min(image.imread(picture).shape[:2]) > 100


def test_what_cannot_be_drawn_is_one_line_and_writes_nothing(
    refused: Callable[..., str], smoke_base: Path, tmp_path: Path
) -> None:
    arguments = ["--checkpoint", smoke_base / "pretrain", "--out", tmp_path / "pictures"]
    said = refused("pretrain.attention_map", *arguments, "--text", "Good night, good night. " * 60)
    assert "the model's context holds 96" in said
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize(
    ("checkpoint", "changes", "words"),
    [
        ("smoke/pretrain", {"--text": ""}, "--text is empty"),
        ("smoke/pretrain", {"--out": "file"}, "a file is in the way"),
        ("none/pretrain", {}, "none/pretrain does not exist"),
        ("empty/pretrain", {}, "no stage.json"),
        ("rung/pretrain", {}, "the ladder's bigram, which is not a GPT"),
    ],
)
def test_what_holds_no_gpt_or_cannot_be_written(
    smoke_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: str,
    changes: dict[str, str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("smoke").symlink_to(smoke_base)
    Path("file").write_text("here already")
    Path("empty/pretrain").mkdir(parents=True)
    rung = new_model(LadderConfig(rung="bigram", vocab_size=60, width=0, heads=0, layers=0, feed_forward=0))
    save_model(rung, character_tokenizer("Good night."), Path("rung/pretrain"))
    record = json.loads((smoke_base / "pretrain" / "stage.json").read_text())
    record |= {"weights_sha256": "", "tokenizer_sha256": ""}
    Path("rung/pretrain/stage.json").write_text(json.dumps(record))
    given = {"--checkpoint": checkpoint, "--text": "Good night.", "--out": "pictures"} | changes
    monkeypatch.setattr(sys, "argv", ["attention_map", *(word for pair in given.items() for word in pair)])
    with pytest.raises(UserError, match=words):
        main()
    assert not Path("pictures").exists()
