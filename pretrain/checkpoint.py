"""A stage folder's weights. A GPT is a plain Hugging Face checkpoint, written and read without transformers.

gpt2 → `GPT2LMHeadModel`, modern → `Qwen3ForCausalLM`. A later stage's checkpoint, saved by transformers
from the same shapes, is read back by the same two tables. GPT-2's layout has biases: a model without any is written
with zeros, and read back as one with biases. Rows that only pad the vocabulary are not written. A rung of
the ladder has a `config.json` of its own kind, which transformers does not know.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.console import UserError
from data.tokenizers import Tokenizer
from pretrain.ladder.models import RUNGS, LadderConfig, LadderModel
from pretrain.model import GPT, GPTConfig

LADDER = "ladder"
"""`model_type` of a rung."""
ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
FAMILIES: dict[str, Literal["gpt2", "modern"]] = {"gpt2": "gpt2", "qwen3": "modern"}
"""`model_type` of the two families."""
SIZES = {
    "gpt2": {
        "vocab_size": "vocab_size",
        "context_length": "n_positions",
        "width": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
        "feed_forward": "n_inner",
    },
    "modern": {
        "vocab_size": "vocab_size",
        "context_length": "max_position_embeddings",
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "feed_forward": "intermediate_size",
    },
}
"""Transformers' names of our sizes."""

MODERN_NAMES = [
    (r"^embedding\.weight$", r"model.embed_tokens.weight"),
    (r"^norm\.weight$", r"model.norm.weight"),
    (r"^head\.weight$", r"lm_head.weight"),
    (r"^blocks\.(\d+)\.attention_norm\.", r"model.layers.\1.input_layernorm."),
    (r"^blocks\.(\d+)\.feed_forward_norm\.", r"model.layers.\1.post_attention_layernorm."),
    (r"^blocks\.(\d+)\.attention\.([qk])[a-z]+_norm\.", r"model.layers.\1.self_attn.\2_norm."),
    (r"^blocks\.(\d+)\.attention\.([qkvo])[a-z]+\.", r"model.layers.\1.self_attn.\2_proj."),
    (r"^blocks\.(\d+)\.feed_forward\.(gate|up|down)\.", r"model.layers.\1.mlp.\2_proj."),
]
GPT2_NAMES = [
    (r"^embedding\.weight$", r"transformer.wte.weight"),
    (r"^positions\.weight$", r"transformer.wpe.weight"),
    (r"^norm\.", r"transformer.ln_f."),
    (r"^head\.weight$", r"lm_head.weight"),
    (r"^blocks\.(\d+)\.attention_norm\.", r"transformer.h.\1.ln_1."),
    (r"^blocks\.(\d+)\.feed_forward_norm\.", r"transformer.h.\1.ln_2."),
    (r"^blocks\.(\d+)\.attention\.out\.", r"transformer.h.\1.attn.c_proj."),
    (r"^blocks\.(\d+)\.feed_forward\.up\.", r"transformer.h.\1.mlp.c_fc."),
    (r"^blocks\.(\d+)\.feed_forward\.down\.", r"transformer.h.\1.mlp.c_proj."),
]


def huggingface_config(config: GPTConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """`config.json` for transformers."""
    shared = {theirs: getattr(config, ours) for ours, theirs in SIZES[config.family].items()} | {
        "tie_word_embeddings": config.tied,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "dtype": "float32",
        "use_cache": True,
    }
    if config.family == "modern":
        return shared | {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "num_key_value_heads": config.heads,
            "head_dim": config.width // config.heads,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "rope_theta": 10_000.0,
            "attention_bias": False,
            "attention_dropout": 0.0,
        }
    return shared | {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": ACTIVATIONS[config.activation],
        "layer_norm_epsilon": 1e-5,
        "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
    }


def gpt_config(config: dict[str, Any]) -> GPTConfig:
    """Our configuration from a `config.json` of the two families (UserError for any other)."""
    if config.get("model_type") not in FAMILIES:
        raise UserError(
            f"model_type '{config.get('model_type')}' is not one of ours (qwen3, gpt2): load it with transformers"
        )
    family = FAMILIES[config["model_type"]]
    sizes = {ours: config[theirs] for ours, theirs in SIZES[family].items()}
    if family == "modern":
        return GPTConfig(family=family, **sizes, tied=config["tie_word_embeddings"])
    activations = {theirs: ours for ours, theirs in ACTIVATIONS.items()}
    return GPTConfig(
        family=family,
        **sizes | {"feed_forward": sizes["feed_forward"] or 4 * sizes["width"]},
        dropout=config["resid_pdrop"],
        activation=activations[config["activation_function"]],  # type: ignore[arg-type]
        tied=config.get("tie_word_embeddings", True),
    )


def to_huggingface(model: GPT) -> dict[str, Tensor]:
    """The model's weights under transformers' names, on the CPU."""
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    for name in weights.keys() & {"embedding.weight", "head.weight"}:
        weights[name] = weights[name][: model.config.vocab_size]
    if model.config.family == "modern":
        return {_rename(name, MODERN_NAMES): tensor.contiguous() for name, tensor in weights.items()}
    if not model.config.bias:
        for name, module in model.named_modules():
            if isinstance(module, nn.LayerNorm | nn.Linear) and name != "head":
                weights[f"{name}.bias"] = torch.zeros(module.weight.shape[0])
    renamed: dict[str, Tensor] = {}
    for layer in range(model.config.layers):
        # GPT-2 keeps query, key and value in one matrix.
        for part in ("weight", "bias"):
            projections = [weights.pop(f"blocks.{layer}.attention.{name}.{part}") for name in ("query", "key", "value")]
            weights[f"transformer.h.{layer}.attn.c_attn.{part}"] = torch.cat(projections)
    for name, tensor in weights.items():
        theirs = _rename(name, GPT2_NAMES)
        renamed[theirs] = (tensor.T if _is_conv1d(theirs) else tensor).contiguous()
    return renamed


def from_huggingface(weights: dict[str, Tensor], model: GPT) -> dict[str, Tensor]:
    """The inverse of `to_huggingface`: the state of a model of this shape."""
    model_names = model.state_dict().keys()
    if model.config.family == "modern":
        return {name: weights[_rename(name, MODERN_NAMES)].float() for name in model_names}
    found: dict[str, Tensor] = {}
    for name in model_names:
        fused = re.match(r"^blocks\.(\d+)\.attention\.(query|key|value)\.(weight|bias)$", name)
        if fused:
            layer, projection, part = fused.groups()
            whole = weights[f"transformer.h.{layer}.attn.c_attn.{part}"]
            whole = whole.T if part == "weight" else whole
            found[name] = whole.chunk(3)[("query", "key", "value").index(projection)].float()
        else:
            theirs = _rename(name, GPT2_NAMES)
            found[name] = (weights[theirs].T if _is_conv1d(theirs) else weights[theirs]).float()
    return found


def save_model(model: GPT | LadderModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, generation_config.json (of a GPT) and model.safetensors (put in place by a rename)."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, LadderModel):
        config = {"model_type": LADDER, "architectures": [type(model).__name__], **asdict(model.config)}
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    else:
        config, weights = huggingface_config(model.config, tokenizer), to_huggingface(model)
        generation = {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", "utf-8")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    save_file(weights, folder / "model.safetensors.new", metadata={"format": "pt"})
    (folder / "model.safetensors.new").replace(folder / "model.safetensors")


def load_model(folder: Path, device: torch.device | str = "cpu") -> GPT:
    """The GPT of a stage folder, in evaluation mode.

    Raises UserError when the folder holds no such checkpoint, a broken one, or a rung of the ladder.
    """
    read_gpt_config(folder)
    model = load_any_model(folder, device)
    assert isinstance(model, GPT)
    return model


def load_any_model(folder: Path, device: torch.device | str = "cpu") -> GPT | LadderModel:
    """`load_model`, or a rung of the ladder: what can be sampled and evaluated."""
    config, weights = _read(folder, config_alone=False)
    model = new_model(config)
    model.load_state_dict(from_huggingface(weights, model) if isinstance(model, GPT) else weights)
    return model.to(device).eval()


def read_gpt_config(folder: Path) -> GPTConfig:
    """The shape of the GPT in a stage folder; UserError as `load_model`."""
    config, _ = _read(folder, config_alone=True)
    if isinstance(config, LadderConfig):
        raise UserError(
            f"{folder} holds the ladder's {config.rung}, which is not a GPT and can only be sampled and evaluated: "
            f"`python -m pretrain laptop --run {folder.parent}-gpt` makes a GPT"
        )
    return config


def _read(folder: Path, config_alone: bool) -> tuple[GPTConfig | LadderConfig, dict[str, Tensor]]:
    try:
        values = json.loads((folder / "config.json").read_text("utf-8"))
        if values.get("model_type") == LADDER:
            sizes = {name: value for name, value in values.items() if name not in ("model_type", "architectures")}
            config: GPTConfig | LadderConfig = LadderConfig(**sizes)
        else:
            config = gpt_config(values)
        weights = {} if config_alone else load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not a checkpoint: {Path(error.filename or 'a file').name} is missing") from None
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder} holds a broken checkpoint ({error}): make the stage again") from None
    if "score.weight" in weights:
        raise UserError(f"{folder} holds a reward model, which scores text and cannot write it")
    return config, weights


def new_model(config: GPTConfig | LadderConfig) -> GPT | LadderModel:
    """An untrained model."""
    return GPT(config) if isinstance(config, GPTConfig) else RUNGS[config.rung](config)


def _rename(name: str, table: list[tuple[str, str]]) -> str:
    for pattern, replacement in table:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def _is_conv1d(name: str) -> bool:
    """GPT-2's projections are stored transposed, as transformers' Conv1D."""
    return bool(re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name))
