"""Models of transformers: how each is loaded, in float32 and on its device, and what is refused."""

import contextlib
import copy
import logging
import math
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from data.console import UserError
from sft.models.tokens import ModelSource, at_home

DROPOUTS = ("attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop")
"""What transformers calls the dropout rates of Qwen3 and GPT-2."""
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
"""What safetensors calls the data types of weights that can learn."""
LFS_POINTER = b"version https://git-lfs"


def load_causal_lm(
    source: ModelSource,
    device: torch.device | str = "cpu",
    dropout: float | None = 0.0,
    role: str = "policy",
    computes_on: torch.device | str | None = None,
) -> PreTrainedModel:
    """A causal language model from a folder, a hub name, or as it is, in float32 on `device`.

    computes_on: the device that it will be moved to, if that is another one.
    dropout: its rates from now on (None: those of its configuration); a model that is given keeps its own.
    role: what errors call it. UserError on what is not such a model.
    """
    source, options = at_home(source), {}
    if dropout is not None and isinstance(source, str | Path):
        with quiet(), contextlib.suppress(Exception):  # what cannot be loaded is named below
            # It takes those of the names that it knows.
            options["config"] = AutoConfig.from_pretrained(str(source), **dict.fromkeys(DROPOUTS, dropout))
    model = _load(AutoModelForCausalLM, source, device, role, computes_on=computes_on, **options)
    if model.get_output_embeddings() is None or model.config.is_encoder_decoder:
        raise UserError(f"the {role} is a {type(model).__name__}: give a causal language model")
    return model


def load_classifier(
    source: ModelSource,
    device: torch.device | str = "cpu",
    role: str = "reward model",
    new_head: bool = False,
    computes_on: torch.device | str | None = None,
    **options: Any,
) -> PreTrainedModel:
    """A sequence-classification model from a folder, a hub name, or as it is, in float32 on `device`.

    new_head: whether the head may be missing from the file; it is then drawn at random. computes_on: see
    `load_causal_lm`. options: passed to `from_pretrained`. UserError on what is not such a model.
    """
    return _load(AutoModelForSequenceClassification, at_home(source), device, role, new_head, computes_on, **options)


def _load(
    auto: Any,
    source: Any,
    device: torch.device | str,
    role: str,
    new_head: bool = False,
    computes_on: torch.device | str | None = None,
    **options: Any,
) -> PreTrainedModel:
    model: PreTrainedModel
    if isinstance(source, PreTrainedModel):
        _check_one_place(source, role)
        _undo_autocast(source)
        if source.dtype != torch.float32 or not hasattr(source, "saved_dtype"):
            source.saved_dtype = source.dtype  # type: ignore[assignment]
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
    if isinstance(source, str | Path):
        model.saved_dtype = checkpoint_dtype(source)  # type: ignore[assignment]
    _check_numbers(model, role)
    if torch.device(computes_on or device).type == "cpu":
        # Attention written as matmul and softmax: its backward is faster than the fused kernel's.
        model.set_attn_implementation("eager")
    nn.Module.to(model, device)  # in place
    with contextlib.suppress(NotImplementedError):  # of a model of one's own, which may have none
        embedding = model.get_input_embeddings()
        if isinstance(embedding, nn.Embedding):
            # torch drops PAD's gradient, and PAD is a token as any other where a text has it (an EOS of the same id).
            embedding.padding_idx = None
    return model.eval()


def _from_pretrained(auto: Any, source: str | Path, role: str, new_head: bool, **options: Any) -> PreTrainedModel:
    model: PreTrainedModel
    try:
        with quiet():
            model, loaded = auto.from_pretrained(str(source), dtype=torch.float32, output_loading_info=True, **options)
    except Exception as error:  # of transformers, safetensors, pickle, or of a package that is not installed
        raise UserError(f"cannot load the {role} from {source}: {_reason(source, error)}") from error
    if loaded["missing_keys"] and not new_head:
        raise UserError(
            f"{source} is not a {role}: weight '{min(loaded['missing_keys'])}' of {type(model).__name__} is missing"
        )
    return model


def _reason(source: str | Path, error: Exception) -> str:
    """Why a model cannot be loaded, in one line: the file that is at fault, where it can be told."""
    folder = Path(source)
    if not folder.exists():
        return f"there is no such folder, and as a hub name: {first_line(error)}"
    for file in sorted(folder.glob("*")):
        if file.suffix in (".safetensors", ".bin") and file.is_file():
            with file.open("rb") as stream:
                pointer = stream.read(len(LFS_POINTER)) == LFS_POINTER
            if pointer:
                return f"{file.name} is a git-lfs pointer and holds no weights: run `git lfs pull` in that folder"
            try:
                if file.suffix == ".safetensors":
                    safe_open(file, "pt").__exit__(None, None, None)
            except SafetensorError:
                return f"{file.name} is damaged or only half of it is there: copy or download it again"
    if isinstance(error, RuntimeError) and "mismatched" in str(error):
        return "the weights have other shapes than its config.json says: the two are not of one model"
    return first_line(error)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_one_place(model: PreTrainedModel, role: str) -> None:
    """UserError for a model whose weights are spread over devices or the disk: here each is in one memory."""
    places = {str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()}
    if len(places) > 1 or any(weight.is_meta for weight in model.parameters()):
        where = ", ".join(sorted(places)) or "some on the meta device, so nowhere"
        raise UserError(
            f"the weights of the {role} are not in one place ({where}): load it without device_map and offloading"
        )


def _undo_autocast(model: PreTrainedModel) -> None:
    """Take off the mixed precision that accelerate (so a Trainer) leaves around a model's `forward`."""
    original = model.__dict__.pop("_original_forward", None)
    if original is not None:
        del model.forward
        if getattr(original, "__func__", None) is not type(model).forward:
            model.forward = original


@torch.no_grad()
def _check_numbers(model: PreTrainedModel, role: str) -> None:
    for name, weight in model.named_parameters():
        if not (weight.is_floating_point() and weight.numel()):
            continue
        least, largest = weight.float().aminmax()  # one pass without a copy; NaN where anything is
        if not (least + largest).isfinite():
            raise UserError(
                f"weight '{name}' of the {role} ({type(model).__name__}) holds NaN or infinity: give a checkpoint from "
                "before its training diverged, or copy it again"
            )


def is_quantised(model: Any) -> bool:
    """Whether weights are held in fewer bits than they are computed in, so that they cannot learn."""
    config = getattr(model, "config", None)
    few_bits = any(not p.is_floating_point() or p.element_size() == 1 for p in model.parameters())
    return few_bits or getattr(config, "quantization_config", None) is not None


def checkpoint_dtype(source: str | Path) -> torch.dtype:
    """The data type of most numbers in the safetensors files of a folder or hub name that has been loaded before.

    Without such files, what its configuration says; float32 where that says nothing.
    """
    numbers: Counter[str] = Counter()
    folder = Path(cached_file(str(source), "config.json", local_files_only=True) or source).parent
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                part = weights.get_slice(name)
                numbers[part.get_dtype()] += math.prod(part.get_shape())
    if numbers:
        return DTYPES.get(max(numbers, key=numbers.__getitem__), torch.float32)
    with quiet():
        return AutoConfig.from_pretrained(folder).dtype or torch.float32


def saved_dtype(model: Any) -> torch.dtype:
    """The data type that a model was given in, and is saved in."""
    return getattr(model, "saved_dtype", torch.float32)


def save_as_given(model: Any, folder: str | Path) -> None:
    """`save_pretrained` in the data type that the model was given in: it learns in float32.

    What transformers keeps in float32, and buffers, stay so.
    """
    dtype = saved_dtype(model)
    if dtype != torch.float32:
        kept = {*(getattr(model, "_keep_in_fp32_modules", None) or ())}
        kept |= {*(getattr(model, "_keep_in_fp32_modules_strict", None) or ())}
        cast = {
            id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False)
            for name, p in model.named_parameters()
            if p.is_floating_point() and not kept.intersection(name.split("."))
        }
        model = copy.deepcopy(model, cast)  # what the memo holds is taken and not copied; what is tied stays tied
    with quiet():
        model.save_pretrained(folder)


def first_position(model: Any) -> int:
    """The position of a text's first token: after that of padding where the table of positions has one (RoBERTa)."""
    for name, table in model.named_modules():
        if isinstance(table, nn.Embedding) and "position" in name.rpartition(".")[2] and table.padding_idx is not None:
            return table.padding_idx + 1
    return 0


def context_length(model: Any) -> int:
    """The number of positions the model can take, each the same in every batch; a large number where none is set."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "n_positions")
    lengths = [length for name in names if (length := getattr(config, name, None)) is not None and length > 0]
    length = int(lengths[0]) - first_position(model) if lengths else 1 << 30
    return min(length, _short_rope(config))


def _short_rope(config: Any) -> int:
    """Positions up to which all angles stay, whatever is the longest text of a batch (Phi-3's change beyond)."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    lengths = [k.get("original_max_position_embeddings") for k in kinds if k.get("rope_type") == "longrope"]
    return min((length for length in lengths if length), default=1 << 30)


def check_fits(model: PreTrainedModel, role: str, vocab_size: int, length: int) -> None:
    """Raise UserError where a model cannot read `length` tokens of a policy that knows `vocab_size`."""
    if length > context_length(model):
        batch = " alike in every batch" if context_length(model) == _short_rope(model.config.get_text_config()) else ""
        raise UserError(
            f"the longest prompt and response_length make {length} tokens, more than the {context_length(model)} that "
            f"the {role} ({type(model).__name__}) can read{batch}: lower response_length or prompt_length"
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
            warnings.filterwarnings("ignore", module=r"(trl|transformers|accelerate|peft|torch)\b")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for library in bars:
            library.enable_progress_bar()
        for logger, level in loggers.items():
            logger.setLevel(level)
