"""Measure bits per character over a whole split: python -m pretrain.evaluate --checkpoint RUN/STAGE

Reads: a stage's folder (pretrain, sft or rlhf) and the text in RUN/corpus.txt, or another one (--corpus).

Does: computes the loss of every token of the split once, so the result is the same every time.

Writes: one JSON object to the terminal.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from data.console import UserError, run_command
from data.corpus import load_corpus
from data.run.folder import run_corpus
from data.run.options import command_line
from data.run.record import read_stage
from data.tokenizers import Tokenizer
from pretrain.checkpoint import load_any_model
from pretrain.ladder.models import LadderModel
from pretrain.model import GPT


@torch.inference_mode()
def total_nats(model: GPT | LadderModel, ids: Tensor, context: int, *, stride: int | None = None) -> float:
    """−Σ log p of ids[1:], each predicted once from at most `context` tokens before it.

    Windows of `context` tokens advance by `stride` (default: the whole context, non-overlapping windows).
    With a smaller stride every token but the first window's is predicted from at least `context − stride`.
    """
    stride = stride or context
    targets = len(ids) - 1
    windows = []
    done = 0
    while done < targets:
        end = min(targets, done + (context if done == 0 else stride))
        windows.append((max(0, end - context), done, end))
        done = end
    # At most 64 windows at once, more where they are short, fewer where their logits would take more than 128 MiB.
    batch_size = max(1, min(max(64, 4096 // context), 2**25 // (context * model.config.vocab_size)))
    total = 0.0
    for first in range(0, len(windows), batch_size):
        batch = windows[first : first + batch_size]
        inputs = torch.zeros(len(batch), context, dtype=torch.long)
        expected = torch.full((len(batch), context), -100)
        for row, (start, done, end) in enumerate(batch):
            inputs[row, : end - start] = ids[start:end]
            expected[row, done - start : end - start] = ids[done + 1 : end + 1]
        logits = model(inputs.to(model.device))
        losses = F.cross_entropy(logits.flatten(0, 1), expected.flatten().to(model.device), reduction="sum")
        total += losses.item()
    return total


def evaluate_split(
    model: GPT | LadderModel, tokenizer: Tokenizer, text: str, before: str, *, stride: int | None = None
) -> dict[str, float | int]:
    """`bits_per_char`, `nats_per_char`, `tokens` and `chars` of `text`, every token of it counted.

    `before`, the text that precedes the split, gives the first token something to be predicted from.
    """
    ids = torch.tensor(tokenizer.encode(before[-200:])[-1:] + tokenizer.encode(text))
    was_training = model.training
    model.eval()
    nats = total_nats(model, ids, model.context_length, stride=stride)
    model.train(was_training)
    per_char = nats / len(text)
    return {
        "bits_per_char": per_char / math.log(2),
        "nats_per_char": per_char,
        "tokens": len(ids) - 1,
        "chars": len(text),
    }


@dataclass
class EvaluateOptions:
    """Print one JSON object with a checkpoint's loss over a whole split."""

    checkpoint: Path
    """A stage's folder: pretrain, sft or rlhf."""
    split: Literal["validation", "train"] = "validation"
    """Part of the text to measure."""
    corpus: str | None = None
    """Text to read: auto, tinyshakespeare, complete, pastiche, or a UTF-8 file; default: the checkpoint's."""
    stride: int | None = None
    """Tokens between windows; default the whole context (non-overlapping windows)."""


def main() -> None:
    options = command_line(EvaluateOptions, __doc__)
    if options.stride is not None and options.stride < 1:
        raise UserError(f"stride must be at least 1, not {options.stride}")
    record = read_stage(options.checkpoint)
    run = options.checkpoint.resolve().parent
    corpus = load_corpus(options.corpus) if options.corpus else run_corpus(run, record)
    model, tokenizer = load_any_model(options.checkpoint), Tokenizer.load(options.checkpoint)
    stride = min(options.stride, model.context_length) if options.stride else None
    text, before = (corpus.validation, corpus.train) if options.split == "validation" else (corpus.train, "\n")
    metrics = evaluate_split(model, tokenizer, text, before, stride=stride)
    print(json.dumps({**metrics, "split": options.split}))


if __name__ == "__main__":
    run_command(main)
