"""The GPT: exports equal transformers, the cache equals the full forward, shapes that cannot be are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data.console import UserError
from data.tokenizers import bpe_tokenizer
from pretrain.checkpoint import gpt_config, load_model, save_model
from pretrain.fast.gpt import decoder
from pretrain.model import GPT, GPTConfig, LockedDropout, rotate

TEXT = "Good morrow, cousin.\n\nGood morrow to you, sir; what news abroad today?\n" * 40
SHAPE: Any = {
    "vocab_size": 300,
    "context_length": 24,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "feed_forward": 48,
}


def tiny(family: Any = "modern", **changes: Any) -> GPT:
    torch.manual_seed(0)
    model = GPT(GPTConfig(family=family, **(SHAPE | changes)))
    with torch.no_grad():  # projections that start at zero would hide mistakes
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("modern", {}),
        ("modern", {"tied": False}),
        ("gpt2", {"activation": "gelu_tanh"}),
        ("gpt2", {"activation": "gelu"}),
        ("gpt2", {"activation": "relu", "tied": False}),
        ("gpt2", {"bias": False}),
        ("gpt2", {"padded_vocab_size": 320}),
        ("gpt2", {"bias": False, "tied": False, "padded_vocab_size": 320}),
        ("modern", {"padded_vocab_size": 320}),
    ],
)
def test_export_gives_transformers_logits(tmp_path: Path, family: str, changes: dict) -> None:
    transformers = pytest.importorskip("transformers")
    model, tokenizer = tiny(family, **changes), bpe_tokenizer(TEXT, 300)
    save_model(model, tokenizer, tmp_path)
    tokenizer.save(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(tokenizer.vocab_size, (3, 20))
    with torch.no_grad():
        assert torch.allclose(model(ids), theirs(ids).logits, atol=1e-5)
        assert torch.allclose(load_model(tmp_path)(ids), theirs(ids).logits, atol=1e-5)
    assert theirs.config.vocab_size == 300
    assert theirs.config.pad_token_id == tokenizer.pad_id != theirs.config.eos_token_id == tokenizer.eos_id


@pytest.mark.parametrize("family", ["modern", "gpt2"])
def test_what_transformers_saves_comes_back(tmp_path: Path, family: str) -> None:
    transformers = pytest.importorskip("transformers")
    model, tokenizer = tiny(family), bpe_tokenizer(TEXT, 300)
    save_model(model, tokenizer, tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_model(tmp_path / "theirs")
    ids = torch.randint(300, (2, 9))
    with torch.no_grad():
        assert torch.equal(model(ids), again(ids))
    assert gpt_config(json.loads((tmp_path / "theirs" / "config.json").read_text())) == model.config


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("modern", {}),
        ("modern", {"tied": False}),
        ("gpt2", {}),
        ("gpt2", {"activation": "relu", "bias": False}),
        ("gpt2", {"activation": "gelu", "tied": False, "padded_vocab_size": 320}),
    ],
)
def test_cached_steps_equal_the_full_forward_under_left_padding(family: str, changes: dict) -> None:
    model = tiny(family, **changes)
    ids = torch.randint(300, (1, 12))
    with torch.no_grad():
        full = model(ids)[0]
        for padding in (0, 1, 5):
            cache = decoder(model).new_cache(1, padding + 12)
            padded = torch.cat([torch.zeros(1, padding, dtype=torch.long), ids], dim=1)
            mask = torch.arange(padding + 12)[None] >= padding
            positions = (mask.long().cumsum(1) - 1).clamp(min=0)
            for end in range(padding + 4, padding + 13):
                start = 0 if end == padding + 4 else end - 1
                logits = decoder(model).step(padded[:, start:end], positions[:, start:end], mask[:, :end], cache)
                assert torch.allclose(logits[0], full[end - padding - 1], atol=1e-5)


@pytest.mark.parametrize("family", ["modern", "gpt2"])
def test_cached_steps_in_bfloat16_err_no_more_than_the_full_forward(family: str) -> None:
    model = tiny(family)
    ids = torch.randint(300, (4, 12))
    with torch.no_grad():
        exact = model(ids)[:, -1]
        model.compute_dtype = torch.bfloat16
        full = model(ids)[:, -1]
        cache = decoder(model).new_cache(4, 12)
        positions = torch.arange(12).expand(4, 12)
        for part in (slice(0, 8), *(slice(place, place + 1) for place in range(8, 12))):
            logits = decoder(model).step(ids[:, part], positions[:, part], None, cache)
    assert 0 < (logits - exact).abs().mean() < 1.5 * (full - exact).abs().mean()


def test_padding_of_the_vocabulary_is_in_the_training_loss_alone() -> None:
    """As published: while training the softmax runs over all rows; what is evaluated and sampled has no such ids."""
    model = tiny("gpt2", padded_vocab_size=320)
    ids = torch.randint(300, (2, 9))
    with torch.no_grad():
        model.embedding.weight[300:] += 5 * model.get_parameter("norm.bias")  # a padding row that would be likely
        assert model(ids).shape == (2, 9, 300)
        sampled = decoder(model)
        mask = torch.ones(2, 9, dtype=torch.bool)
        assert sampled.step(ids, torch.arange(9)[None], mask, sampled.new_cache(2, 9)).shape == (2, 300)
        held_out = model(ids[:, :-1], ids[:, 1:])
        model.train()
        logits = model(ids)
        assert logits.shape == (2, 9, 320)
        by_hand = -logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).mean()
        assert torch.allclose(model(ids[:, :-1], ids[:, 1:]), by_hand, atol=1e-6)
        assert by_hand > held_out


def test_no_bias_means_none() -> None:
    model = tiny("gpt2", bias=False)
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]


def test_initialisations() -> None:
    """GPT-2's weights are small; torch's embeddings are not, so a model begins further from ln V."""
    stds = {}
    kinds: Any = ("gpt2", "torch")
    for kind in kinds:
        torch.manual_seed(0)
        model = GPT(GPTConfig(family="gpt2", initialisation=kind, **SHAPE))
        down = model.get_parameter("blocks.0.feed_forward.down.weight")
        stds[kind] = [model.embedding.weight.std().item(), down.std().item()]
    assert stds["gpt2"] == pytest.approx([0.02, 0.02 / 2], rel=0.1)
    assert stds["torch"] == pytest.approx([1.0, 1 / (3 * 48) ** 0.5], rel=0.1)


def test_loss_is_the_mean_cross_entropy_and_the_future_is_unseen() -> None:
    model = tiny()
    ids = torch.randint(300, (2, 10))
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 300
    with torch.no_grad():
        logits = model(ids[:, :-1])
        by_hand = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).mean()
        assert torch.allclose(model(ids[:, :-1], ids[:, 1:]), by_hand, atol=1e-6)
        assert torch.equal(model(ids)[:, :-1], model(changed)[:, :-1])


def test_rotation_depends_on_the_distance_alone() -> None:
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    model = tiny(width=16, heads=2)

    def at(x: torch.Tensor, position: int) -> torch.Tensor:
        return rotate(x, model.cos[position][None], model.sin[position][None])

    near = (at(q, 3) * at(k, 1)).sum()
    far = (at(q, 20) * at(k, 18)).sum()
    assert torch.allclose(near, far, atol=1e-5)
    assert not torch.allclose(near, (at(q, 4) * at(k, 1)).sum(), atol=1e-3)


def test_locked_dropout_is_one_mask_over_time_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = LockedDropout(0.25).train()(torch.ones(64, 5, 256))
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    assert dropped.unique().tolist() == [0.0, pytest.approx(4 / 3)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 3}, "not divisible"),
        ({"heads": 32}, "even"),
        ({"dropout": 1.0}, "dropout"),
        ({"layers": 0}, "least 1"),
        ({"padded_vocab_size": 299}, "less than the vocabulary's 300"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        GPTConfig(**(SHAPE | changes))
