"""How models are loaded: dropout, heads, attention, and what is heard of it."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from data.console import UserError
from sft.models.loading import load_causal_lm, load_classifier, quiet

Build = Callable[..., PreTrainedModel]


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
