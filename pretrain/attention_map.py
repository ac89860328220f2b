"""Draw what a trained model attends to: python -m pretrain.attention_map --checkpoint RUN/STAGE --text TEXT

Reads: a stage's folder: pretrain, sft or rlhf.

Does: runs the text through the model and keeps the attention weights.

Writes: one picture per layer, with a panel per head, to RUN/attention/STAGE.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor, nn

from data.console import UserError, console, run_command
from data.jsonl import write_whole
from data.run.options import command_line
from data.run.record import read_stage
from data.tokenizers import Tokenizer
from pretrain.checkpoint import load_model
from pretrain.model import GPT, Attention

VISIBLE = {" ": "·", "\n": r"\n", "\t": r"\t", "\r": r"\r"}


@torch.inference_mode()
def attention_weights(model: GPT, ids: Tensor) -> Tensor:
    """Shares (layers, H, T, T) of ids (T,): row t says how much position t takes from each position.

    The shares are made again, by the layers' own methods, from what each attention layer was given: on a GPU the
    fused kernel never has them in memory. T may not exceed the context.
    """
    found: list[Tensor] = []

    def note(attention: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(attention, Attention)
        x, bias, rotation = given
        q, k, _ = attention.project(x, rotation)
        found.append(attention.weights(q, k, bias)[0].float().cpu())

    layers = [module for module in model.modules() if isinstance(module, Attention)]
    hooks = [attention.register_forward_pre_hook(note) for attention in layers]
    was_training = model.training
    try:
        model.eval()(ids[None].to(model.device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return torch.stack(found)


def token_labels(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Each token as one can read it: spaces and line ends as signs, half a character as its bytes."""
    labels = []
    for id in ids:
        token = tokenizer.encoding.decode_single_token_bytes(id)
        try:
            labels.append("".join(VISIBLE.get(char, char) for char in token.decode("utf-8")))
        except UnicodeDecodeError:
            labels.append("".join(f"\\x{byte:02x}" for byte in token))
    return labels


def draw_shares(axes: Axes, shares: Tensor, rows: Sequence[str], columns: Sequence[str], size: float) -> AxesImage:
    """One head: shares (T, S), who looks in the rows, at whom in the columns, labels of `size` points."""
    # The root of a share is drawn: in a long text most shares are small, and would all look white.
    image = axes.imshow(shares.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0.0, 1.0), interpolation="nearest")
    style: dict[str, Any] = {"fontsize": size, "family": "monospace", "parse_math": False}
    axes.set_xticks(range(len(columns)), columns, rotation=90, **style)
    axes.set_yticks(range(len(rows)), rows, **style)
    axes.tick_params(length=0, pad=1)
    return image


def layer_picture(layer: int, shares: Tensor, labels: Sequence[str]) -> bytes:
    """A PNG of one layer's heads, shares (H, T, T), side by side; `layer` counts from 1."""
    # Inches a panel: room for every label, up to a size that a screen can still show.
    heads, side = len(shares), min(max(2.2, 0.125 * len(labels) + 0.8), 20.0)
    size = min(7.0, 54 * (side - 0.8) / len(labels))
    down = -(-heads // max(1, int(16 / side)))
    across = -(-heads // down)
    figure = Figure(figsize=(side * across + 0.8, side * down + 0.5), dpi=120, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False)
    for head, axes in enumerate(panels.flat):
        if head >= heads:
            axes.axis("off")
            continue
        image = draw_shares(axes, shares[head], labels, labels, size)
        axes.set_title(f"layer {layer}, head {head + 1}", fontsize=9)
    bar = figure.colorbar(image, ax=panels, shrink=0.7, aspect=25, pad=0.01, ticks=[0, 0.05, 0.25, 0.5, 1])
    bar.set_label("share of the row's attention", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    written = BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


@dataclass
class AttentionOptions:
    """Draw what every head of a checkpoint attends to: rows look, columns are looked at."""

    checkpoint: Path
    """A stage's folder: pretrain, sft or rlhf."""
    text: str
    """What the model reads; a line or two, at most the model's context."""
    out: Path | None = None
    """Folder of the pictures, layer-1.png and so on; default RUN/attention/STAGE."""


def main() -> None:
    options = command_line(AttentionOptions, __doc__)
    if not options.text:
        raise UserError("--text is empty: give at least one character")
    read_stage(options.checkpoint)
    model, tokenizer = load_model(options.checkpoint), Tokenizer.load(options.checkpoint)
    ids = tokenizer.encode(options.text)
    if len(ids) > model.context_length:
        raise UserError(
            f"--text has {len(ids)} tokens and the model's context holds {model.context_length}: give a shorter one"
        )
    folder = options.out or options.checkpoint.parent / "attention" / options.checkpoint.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--out {folder}: a file is in the way, name another folder") from None
    for layer, shares in enumerate(attention_weights(model, torch.tensor(ids)), start=1):
        write_whole(folder / f"layer-{layer}.png", layer_picture(layer, shares, token_labels(tokenizer, ids)))
        console.print(f"{folder / f'layer-{layer}.png'}", soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
