"""How models are loaded: dropout, heads, attention, and what is heard of it."""

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import datasets
import pytest
import torch
import transformers
from accelerate.utils import convert_outputs_to_fp32
from safetensors.torch import load_file

from data.console import UserError
from sft.models.loading import load_causal_lm, load_classifier, quiet, save_as_given

Build = Callable[..., Any]


@pytest.mark.parametrize(("kind", "rate"), [("gpt2", "resid_pdrop"), ("qwen3", "attention_dropout")])
def test_a_causal_lm_is_float32_and_has_the_dropout_that_is_asked_for(
    causal_lm: Build, kind: str, rate: str, tmp_path: Path
) -> None:
    causal_lm(kind, **{rate: 0.3}).bfloat16().save_pretrained(tmp_path)
    for dropout, expected in ((0.0, 0.0), (0.1, 0.1), (None, 0.3)):
        model = load_causal_lm(tmp_path, dropout=dropout)
        assert getattr(model.config, rate) == expected
        assert model.dtype == torch.float32
        assert not model.training
        assert model.config._attn_implementation == "eager", "its backward is faster on a CPU"


def test_a_head_is_missing_only_where_it_may_be(causal_lm: Build, reward_model: Build, tmp_path: Path) -> None:
    causal_lm("qwen3", num_labels=1).save_pretrained(tmp_path / "lm")
    with pytest.raises(UserError, match=r"is not a judge: weight 'score.weight' of Qwen3ForSequenceClassification is"):
        load_classifier(tmp_path / "lm", role="judge")
    assert load_classifier(tmp_path / "lm", new_head=True).config.num_labels == 1
    reward_model("gpt2").save_pretrained(tmp_path / "reward")
    load_classifier(tmp_path / "reward")
    with pytest.raises(UserError, match="cannot load the policy from nowhere: there is no such folder"):
        load_causal_lm("nowhere")


def test_weights_that_are_not_in_one_place_are_refused(causal_lm: Build, tmp_path: Path) -> None:
    causal_lm("gpt2").save_pretrained(tmp_path / "lm")
    parts = dict.fromkeys(
        ("transformer.wte", "transformer.wpe", "transformer.h.0", "transformer.ln_f", "lm_head"), "cpu"
    )
    spread = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path / "lm", device_map=parts | {"transformer.h.1": "disk"}, offload_folder=tmp_path / "disk"
    )
    with torch.device("meta"):
        nowhere = transformers.GPT2LMHeadModel(spread.config)
    for model, where in ((spread, "cpu, disk"), (nowhere, "some on the meta device, so nowhere")):
        with pytest.raises(UserError, match=rf"the weights of the judge are not in one place \({where}\): load it"):
            load_causal_lm(model, role="judge")
    whole = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "lm", device_map={"": "cpu"})
    assert load_causal_lm(whole) is whole


def half(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def pointer(folder: Path, name: str = "model.safetensors") -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 548105171\n")


def config(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(values | changes), "utf-8")


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half": (half, r"model\.safetensors is damaged or only half of it is there: copy or download it again"),
    "empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), r"model\.safetensors is damaged"),
    "pointer": (pointer, r"model\.safetensors is a git-lfs pointer and holds no weights: run `git lfs pull`"),
    "old pointer": (lambda folder: pointer(folder, "pytorch_model.bin"), r"pytorch_model\.bin is a git-lfs pointer"),
    "shapes": (lambda folder: config(folder, vocab_size=30), "the weights have other shapes than its config.json says"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no file named"),
    "no json": (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON file"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "config"),
    "another kind": (lambda folder: config(folder, model_type="nobody"), "nobody"),
    "a shard": (
        lambda folder: (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors"),
        "no file named",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("load", [load_causal_lm, load_classifier])
def test_damaged_files_are_named_in_one_line(
    causal_lm: Build, reward_model: Build, tmp_path: Path, name: str, load: Callable[..., Any]
) -> None:
    (causal_lm if load is load_causal_lm else reward_model)("gpt2").save_pretrained(tmp_path)
    damage, message = DAMAGES[name]
    damage(tmp_path)
    with pytest.raises(UserError, match=f"cannot load the judge from {tmp_path}: .*{message}") as caught:
        load(tmp_path, role="judge")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_named(causal_lm: Build, tmp_path: Path, number: float) -> None:
    model = causal_lm("gpt2")
    with torch.no_grad():
        model.transformer.h[1].ln_2.bias[5] = number
    model.save_pretrained(tmp_path)
    for source in (tmp_path, model):
        with pytest.raises(UserError, match=r"weight 'transformer.h.1.ln_2.bias' of the policy .* holds NaN or infin"):
            load_causal_lm(source)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_is_saved_in_the_type_in_which_it_came(
    causal_lm: Build, tmp_path: Path, dtype: torch.dtype, tied: bool
) -> None:
    model = causal_lm("qwen3", tie_word_embeddings=tied).to(dtype)
    model.save_pretrained(tmp_path / "before")
    config(tmp_path / "before", dtype=None)  # as old checkpoints have it
    size = (tmp_path / "before" / "model.safetensors").stat().st_size
    for source in (tmp_path / "before", model):
        loaded = load_causal_lm(load_causal_lm(source))  # the second finds it in float32 already
        assert loaded.dtype == torch.float32
        save_as_given(loaded, tmp_path / "after")
        assert loaded.dtype == torch.float32, "it goes on learning"
        weights = load_file(tmp_path / "after" / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {dtype}
        assert abs((tmp_path / "after" / "model.safetensors").stat().st_size - size) < 200
        again = load_causal_lm(tmp_path / "after")
        assert again.config.dtype == torch.float32
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), loaded.parameters(), strict=True))


def test_what_the_model_keeps_in_float32_stays_so(causal_lm: Build, tmp_path: Path) -> None:
    model: Any = causal_lm("qwen3").bfloat16()
    loaded: Any = load_causal_lm(model)
    loaded._keep_in_fp32_modules = ["q_norm"]
    save_as_given(loaded, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert {name.split(".")[-2] for name, weight in weights.items() if weight.dtype == torch.float32} == {"q_norm"}


def test_the_autocast_of_a_trainer_before_is_taken_off(causal_lm: Build) -> None:
    """accelerate leaves it around `forward`: log-probabilities would be those of bfloat16."""
    ids = torch.tensor([[1, 2, 3]])
    model, expected = causal_lm("gpt2"), causal_lm("gpt2")(ids).logits
    model._original_forward = model.forward
    forward = torch.autocast("cpu", torch.bfloat16)(type(model).forward)
    model.forward = MethodType(convert_outputs_to_fp32(forward), model)
    assert not torch.allclose(model(ids).logits, expected, atol=1e-4)
    torch.testing.assert_close(load_causal_lm(model)(ids).logits, expected, atol=1e-6, rtol=0)


def test_libraries_are_silent_within_quiet_and_speak_again_after_it(
    causal_lm: Build, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    causal_lm("qwen3", num_labels=1).save_pretrained(tmp_path)
    trl = logging.getLogger("trl")
    levels = transformers.logging.get_verbosity(), trl.level
    with quiet():
        assert (transformers.logging.get_verbosity(), trl.level) == (logging.ERROR, logging.ERROR)
        assert not transformers.logging.is_progress_bar_enabled()
        assert not datasets.utils.is_progress_bar_enabled()
        with pytest.raises(ZeroDivisionError), quiet():
            _ = 1 / 0
    assert (transformers.logging.get_verbosity(), trl.level) == levels
    assert transformers.logging.is_progress_bar_enabled()
    assert datasets.utils.is_progress_bar_enabled()
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_classifier(tmp_path, new_head=True)
    assert capfd.readouterr() == ("", "")
