"""Models of transformers: how each is loaded, in float32 and on its device, and what is refused."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from data.console import UserError
from sft.models.tokens import ModelSource, at_home

DROPOUTS = ("attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop")
"""What transformers calls the dropout rates of Qwen3 and GPT-2."""


def load_causal_lm(
    source: ModelSource, device: torch.device | str = "cpu", dropout: float | None = 0.0, role: str = "policy"
) -> PreTrainedModel:
    """A causal language model from a folder, a hub name, or as it is, in float32 on `device`.

    dropout: its rates from now on (None: those of its configuration); a model that is given keeps its own.
    role: what errors call it. UserError on what is not such a model.
    """
    source, options = at_home(source), {}
    if dropout is not None and isinstance(source, str | Path):
        with quiet(), contextlib.suppress(OSError, ValueError):  # what cannot be loaded is named below
            # It takes those of the names that it knows.
            options["config"] = AutoConfig.from_pretrained(str(source), **dict.fromkeys(DROPOUTS, dropout))
    model = _load(AutoModelForCausalLM, source, device, role, **options)
    if model.get_output_embeddings() is None or model.config.is_encoder_decoder:
        raise UserError(f"the {role} is a {type(model).__name__}: give a causal language model")
    return model


def load_classifier(
    source: ModelSource,
    device: torch.device | str = "cpu",
    role: str = "reward model",
    new_head: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """A sequence-classification model from a folder, a hub name, or as it is, in float32 on `device`.

    new_head: whether the head may be missing from the file; it is then drawn at random. options: passed to
    `from_pretrained`. UserError on what is not such a model.
    """
    return _load(AutoModelForSequenceClassification, at_home(source), device, role, new_head, **options)


def _load(
    auto: Any, source: Any, device: torch.device | str, role: str, new_head: bool = False, **options: Any
) -> PreTrainedModel:
    model: PreTrainedModel
    if isinstance(source, PreTrainedModel):
        model = nn.Module.float(source)  # in place
    elif isinstance(source, str | Path):
        model = _from_pretrained(auto, source, role, new_head, **options)
    else:
        adapted = ", without an adapter (merge_and_unload)" if hasattr(source, "merge_and_unload") else ""
        raise UserError(f"the {role} is a {type(source).__name__}: give a folder, a hub name or a model{adapted}")
    # peft's layers hold the layer that they adapt. Such a model would be saved without the weights below them.
    if any(hasattr(module, "base_layer") for module in model.modules()):
        raise UserError(
            f"the {role} holds an adapter: merge it first (AutoPeftModelForCausalLM.from_pretrained(…)"
            ".merge_and_unload(), then save_pretrained), or load the model again without it"
        )
    if torch.device(device).type == "cpu":
        # Attention written as matmul and softmax: its backward is faster than the fused kernel's.
        model.set_attn_implementation("eager")
    nn.Module.to(model, device)  # in place
    return model.eval()


def _from_pretrained(auto: Any, source: str | Path, role: str, new_head: bool, **options: Any) -> PreTrainedModel:
    model: PreTrainedModel
    try:
        with quiet():
            model, loaded = auto.from_pretrained(str(source), dtype=torch.float32, output_loading_info=True, **options)
    except (OSError, ValueError) as error:
        absent = "" if Path(source).exists() else "there is no such folder, and as a hub name: "
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"cannot load the {role} from {source}: {absent}{reason}") from error
    if loaded["missing_keys"] and not new_head:
        raise UserError(
            f"{source} is not a {role}: weight '{min(loaded['missing_keys'])}' of {type(model).__name__} is missing"
        )
    return model


def context_length(model: PreTrainedModel) -> int:
    """The number of positions the model can take; a large number where its configuration sets no limit."""
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 30)


def check_fits(model: PreTrainedModel, role: str, vocab_size: int, length: int) -> None:
    """Raise UserError where a model cannot read `length` tokens of a policy that knows `vocab_size`."""
    if length > context_length(model):
        raise UserError(
            f"the longest prompt and response_length make {length} tokens, more than the {context_length(model)} that "
            f"the {role} ({type(model).__name__}) can read: lower response_length or prompt_length"
        )
    theirs = model.config.get_text_config().vocab_size
    if theirs < vocab_size:
        raise UserError(
            f"the {role} ({type(model).__name__}) knows {theirs} tokens and the policy {vocab_size}: use models of "
            "one tokenizer"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers, datasets and trl, errors excepted, and their progress bars: our own lines say enough."""
    verbosity = transformers_logging.get_verbosity()
    bars = [transformers_logging] if transformers_logging.is_progress_bar_enabled() else []
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in ("datasets", "trl")}
    datasets: Any = sys.modules.get("datasets")
    if datasets is not None and datasets.utils.is_progress_bar_enabled():
        bars.append(datasets.utils)
    transformers_logging.set_verbosity_error()
    for library in bars:
        library.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(trl|transformers|accelerate|torch)\b")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for library in bars:
            library.enable_progress_bar()
        for logger, level in loggers.items():
            logger.setLevel(level)
