"""README.md of a stage's folder: a model card in the form of the Hugging Face Hub.

The metadata are the Hub's (huggingface.co/docs/hub/model-cards); nothing in a card names a place on this machine.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from data.run.record import StageRecord
from data.run.writing import table

GENERATE = """from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

set_seed(1)
folder = "."  # this folder, or the name that it has on the Hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
batch = tokenizer({prompt}, return_tensors="pt")
written = model.generate(**batch, max_new_tokens=48, do_sample=True)
print(tokenizer.decode(written[0, batch["input_ids"].shape[1] :], skip_special_tokens=True))
"""
SCORE = """import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "."  # this folder, or the name that it has on the Hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder)
prompt, reply = {prompt}, "Good morrow to you."
# Prompt and reply are tokenized apart; the end-of-text token stands where a reply ends by itself.
ids = tokenizer(prompt)["input_ids"] + tokenizer(reply)["input_ids"] + [tokenizer.eos_token_id]
with torch.no_grad():
    score = model(torch.tensor([ids])).logits[0, 0].item()
print((score - model.config.reward_mean) / model.config.reward_std)
"""
PROMPT = '"PAGE:\\nGood morrow, cousin.\\n\\nROMEO:\\n"'
CORPORA = {
    "tinyshakespeare": "tinyshakespeare, one megabyte of Shakespeare's plays (from Karpathy's char-rnn)",
    "complete": "`complete`, Shakespeare's plays (see docs/design.md of the project)",
    "pastiche": "the project's pastiche, plays that a seeded grammar writes: no line of it is Shakespeare's",
}
MODEL, ENGLISH = "model.safetensors", ("tinyshakespeare", "complete", "pastiche")
PROJECT = "shakespeare-rlhf"


@dataclass(frozen=True)
class Card:
    """What a stage says of its model, besides what its record says."""

    what: str
    """What the model is, in a sentence or two."""
    metrics: Mapping[str, str]
    """Results that the card shows, by their name in the record: what they are. Those that are missing are left out."""
    limits: str
    """What the model cannot do, and what its metrics do not say."""
    scores: bool = False
    """Whether it is a sequence classifier rather than a language model."""
    prompt: str = PROMPT
    """Prompt of the example, as Python source."""


def write_card(folder: Path, record: StageRecord, card: Card) -> None:
    """Write README.md for the model in `folder`, whose stage has this record."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    page = f"---\n{_metadata(record, card, config)}---\n\n{_text(folder, record, card, config)}"
    (folder / "README.md").write_text(page, "utf-8")


def _metadata(record: StageRecord, card: Card, config: Mapping[str, Any]) -> str:
    """The YAML at the head of a card."""
    values: dict[str, Any] = {"tags": [PROJECT, record.stage]}
    if _is_plain(config):
        values |= {
            "library_name": "transformers",
            "pipeline_tag": "text-classification" if card.scores else "text-generation",
        }
    if record.corpus["name"] in ENGLISH:
        values["language"] = ["en"]
    # JSON is YAML: strings are quoted, whatever is in them.
    return "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in sorted(values.items()))


def _is_plain(config: Mapping[str, Any]) -> bool:
    """Whether transformers loads the model: it knows no rung of the ladder."""
    return config["model_type"] != "ladder"


def _text(folder: Path, record: StageRecord, card: Card, config: Mapping[str, Any]) -> str:
    corpus, entropy = record.corpus, record.corpus.get("entropy_bits_per_char")
    text = CORPORA.get(corpus["name"], f"`{corpus['name']}`")
    data = f"Text: {text}; SHA-256 `{corpus['sha256']}`."
    if entropy:
        data += f" The grammar that wrote it has an entropy of {entropy:.3f} bits per character."
    parent = record.parent
    made = {
        "made by": f"`{record.command}`, seed {record.seed}",
        "model": f"{config['model_type']}, {parameters(folder):,} parameters",
        "starts from": f"{parent['stage']}, weights with SHA-256 `{parent['sha256']}`" if parent else "random weights",
        "weights": f"SHA-256 `{record.weights_sha256}`",
        "time": f"{record.wall_seconds:.0f} s on {record.device}",
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
    }
    found = [(what, record.results.get(name)) for name, what in card.metrics.items()]
    metrics = table(
        ["metric", "value"],
        [
            (what, f"{value:,}" if isinstance(value, int) else f"{value:.4g}")
            for what, value in found
            if value is not None
        ],
    )
    usage = (SCORE if card.scores else GENERATE).format(prompt=card.prompt)
    loading = (
        f"With transformers alone, started in this folder:\n\n```python\n{usage}```"
        if _is_plain(config)
        else "No library knows this architecture. In a run folder of the project: "
        "`python -m pretrain.sample --checkpoint RUN/pretrain`."
    )
    parts = [
        f"# {PROJECT}: {record.stage}",
        card.what,
        "## How to load it",
        loading,
        "## Data",
        data,
        "## Metrics",
        metrics,
        "## Limits",
        f"{card.limits} No licence is set: choose one before you publish the weights.",
        "## How it was made",
        table(["", ""], made.items()),
        "`stage.json` has every setting, and may name files of the machine it was made on: look at it before you "
        "publish the folder.",
    ]
    return "\n\n".join(parts) + "\n"


def parameters(folder: Path) -> int:
    """Number of weights in model.safetensors; tied ones count once."""
    with safe_open(folder / MODEL, framework="numpy") as file:
        sizes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    return sum(math.prod(size) for size in sizes)
