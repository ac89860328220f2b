"""Make the figures of the course: python scripts/docs/course_figures.py [NAME …]

Without a name, all of them, into docs/course/figures/. They are made from the pastiche and from random numbers with
fixed seeds. `heads` and `positions` need trained models: they train them first, two minutes each on 2 cores, and keep
them in runs/course-figures/.
"""

import argparse
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from data.pastiche import pastiche
from data.tokenizers import Tokenizer, character_tokenizer
from pretrain.attention_map import attention_weights, draw_shares, token_labels
from pretrain.checkpoint import load_model
from pretrain.config import PretrainConfig
from pretrain.model import GPT, GPTConfig
from pretrain.train import pretrain
from pretrain.training.schedules import lr_factor

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "course" / "figures"
RUNS = ROOT / "runs" / "course-figures"


def save(figure: Figure, path: Path) -> None:
    """As a PNG of 128 colours: a third of the size, and no difference to the eye."""
    whole = io.BytesIO()
    figure.savefig(whole, format="png")
    plt.close(figure)
    Image.open(whole).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def trained(family: Any) -> tuple[GPT, Tokenizer]:
    """A model of 0.9 M parameters that has learned the pastiche."""
    run = RUNS / family
    if not (run / "pretrain").exists():
        size: dict[str, Any] = {"gpt2": {"heads": 4, "feed_forward": 512}, "modern": {"heads": 2, "feed_forward": 344}}[
            family
        ]
        config = PretrainConfig(run=run, corpus="pastiche", family=family, width=128, steps=680, overwrite=True, **size)
        pretrain(config, "course-figures")
    return load_model(run / "pretrain"), Tokenizer.load(run / "pretrain")


def averages(path: Path) -> None:
    """Three matrices of shares: even, by distance, by content."""
    words = ["the", "king", ",", "the", "queen", ",", "the", "fool"]
    length = len(words)
    place = torch.arange(length)
    distance = (place[:, None] - place).float()
    vocabulary = sorted(set(words))
    one_hot = torch.eye(len(vocabulary))[[vocabulary.index(word) for word in words]]
    future = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
    scores = {
        "every score 0": torch.zeros(length, length),
        "less with distance": -0.7 * distance,
        "from the tokens: the same word": 3 * one_hot @ one_hot.T,
    }
    figure, panels = plt.subplots(1, 3, figsize=(9.2, 3.4), dpi=100, layout="constrained")
    for axes, (title, values) in zip(panels, scores.items(), strict=True):
        image = draw_shares(axes, values.masked_fill(future, -torch.inf).softmax(-1), words, words, 9)
        axes.set_title(title, fontsize=10)
    bar = figure.colorbar(image, ax=panels, shrink=0.8, ticks=[0, 0.05, 0.25, 0.5, 1])
    bar.set_label("share", fontsize=9)
    save(figure, path)


def saturation(path: Path) -> None:
    """The largest of 16 shares, and the softmax's slope, over the width of a head."""
    torch.manual_seed(0)
    widths = [2**power for power in range(1, 11)]
    found: dict[str, list[tuple[float, float]]] = {"raw": [], "divided by √d": []}
    for width in widths:
        raw = (torch.randn(2000, 1, width) * torch.randn(2000, 16, width)).sum(-1)
        for name, scores in (("raw", raw), ("divided by √d", raw / math.sqrt(width))):
            p = scores.softmax(-1)
            found[name].append((p.amax(1).mean().item(), (p * (1 - p)).mean().item()))
    figure, panels = plt.subplots(1, 2, figsize=(9.2, 3.2), dpi=100, layout="constrained")
    titles = ("the largest of 16 shares", "mean slope of a share p: p (1 - p)")
    for column, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        for name, rows in found.items():
            axes.plot(widths, [row[column] for row in rows], marker="o", markersize=3, label=name)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="width of the head, d", title=title, ylim=(0, None))
        axes.grid(alpha=0.25)
    panels[0].legend(frameon=False)
    save(figure, path)


def masks(path: Path) -> None:
    """Who may look at whom: encoder, decoder, cross-attention."""
    source, target = [f"source {n}" for n in range(1, 7)], [f"target {n}" for n in range(1, 5)]
    panels_of = {
        "encoder: all see all": (torch.ones(6, 6), source, source),
        "decoder: causal": (torch.ones(4, 4).tril(), target, target),
        "cross-attention": (torch.ones(4, 6), target, source),
    }
    figure, panels = plt.subplots(1, 3, figsize=(9.2, 3.2), dpi=100, width_ratios=[6, 4, 6], layout="constrained")
    for axes, (title, (allowed, rows, columns)) in zip(panels, panels_of.items(), strict=True):
        draw_shares(axes, 0.4 * allowed, rows, columns, 9)
        axes.set_xticks([n - 0.5 for n in range(1, len(columns))], minor=True)
        axes.set_yticks([n - 0.5 for n in range(1, len(rows))], minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="minor", length=0)
        axes.set_title(title, fontsize=10)
    save(figure, path)


def heads(path: Path) -> None:
    """Of two trained models, the heads that look most at the speaker, at the sentence's beginning, at what is asked."""
    text = "FABRIZEL:\nWhat moth, what bear, what rival sleeps in prison?\n\nMOTLEY:\nThy prince, friend."
    panels_of: list[tuple[str, Tensor, list[str]]] = []
    for family, looks in (("modern", ("who spoke",)), ("gpt2", ("where the sentence began", "the question word"))):
        model, tokenizer = trained(family)
        ids = tokenizer.encode(text)
        labels = token_labels(tokenizer, ids)
        shares = attention_weights(model, torch.tensor(ids))
        question, began, asked = labels.index("?"), 0, 0
        sentence, word = [], []
        for place, label in enumerate(labels):
            if label in ("What", "·what"):
                asked = place
            elif asked and place < question:
                word.append((place, asked))
            if label in (":", "?"):
                began = place
            elif began:
                sentence.append((place, began))
        pairs = {
            "who spoke": [(question + 2, 0)],  # the blank line, and the first token
            "where the sentence began": sentence,
            "the question word": word,
        }
        for name in looks:
            liking = torch.stack([shares[:, :, row, column] for row, column in pairs[name]]).mean(0)
            layer, head = divmod(int(liking.argmax()), shares.shape[1])
            title = f"{name}: {liking.max():.2f}\n{family}, layer {layer + 1}, head {head + 1}"
            panels_of.append((title, shares[layer, head], labels))
    figure, panels = plt.subplots(1, 3, figsize=(14, 5), dpi=100, layout="constrained")
    for axes, (title, shares, labels) in zip(panels, panels_of, strict=True):
        image = draw_shares(axes, shares, labels, labels, 8)
        axes.set_title(title, fontsize=10)
    bar = figure.colorbar(image, ax=panels, shrink=0.8, ticks=[0, 0.05, 0.25, 0.5, 1])
    bar.set_label("share of the row's attention", fontsize=9)
    save(figure, path)


def depth(path: Path) -> None:
    """Gradient at the bottom of stacks of layers: plain, with norms, with residuals, with both."""
    width, depths = 64, (1, 2, 4, 8, 16, 32, 64)

    def gradient(layers: int, residual: bool, norm: bool) -> float:
        torch.manual_seed(0)
        x = start = torch.randn(256, width, requires_grad=True)
        for _ in range(layers):
            parts = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)]
            layer = nn.Sequential(nn.LayerNorm(width), *parts) if norm else nn.Sequential(*parts)
            x = x + layer(x) if residual else layer(x)
        x.backward(torch.randn(256, width))
        assert start.grad is not None
        return start.grad.norm().item() / math.sqrt(start.numel())

    figure, axes = plt.subplots(figsize=(6.4, 3.6), dpi=100, layout="constrained")
    for name, residual, norm in (
        ("residual", True, False),
        ("residual and norm", True, True),
        ("norm", False, True),
        ("plain", False, False),
    ):
        axes.plot(depths, [gradient(layers, residual, norm) or math.nan for layers in depths], marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="layers", ylabel="gradient at the bottom, 1 at the top", xticks=depths, xticklabels=depths)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    save(figure, path)


def positions(path: Path) -> None:
    """Learned positions of a trained model compared; the rotary score of equal query and key over distance."""
    model, _ = trained("gpt2")
    table = model.positions.weight.detach()
    table = nn.functional.normalize(table - table.mean(0), dim=1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.7), dpi=90, layout="constrained")
    image = left.imshow((table @ table.T).numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    left.set(xlabel="position", ylabel="position", title="learned: likeness of two positions")
    figure.colorbar(image, ax=left, shrink=0.85)
    half, distance = 32, torch.arange(129).float()
    turns = (distance[:, None] * 10_000.0 ** (-torch.arange(half) / half)).cos()
    for pair, length in ((0, 6), (8, 63), (16, 628)):
        right.plot(distance, turns[:, pair], linewidth=0.9, label=f"the pair that turns in {length}")
    right.plot(distance, turns.mean(1), linewidth=2, color="black", label="mean of all 32 pairs")
    right.set(xlabel="distance", title="rotary: score of equal query and key", ylim=(-1.8, 1.1))
    right.grid(alpha=0.25)
    right.legend(frameon=False, fontsize=8, loc="lower center", ncols=2)
    save(figure, path)


def overfitting(path: Path) -> None:
    """A small text learned by heart, with three rates of dropout."""
    text = pastiche(characters=40_000).text
    tokenizer = character_tokenizer(text)
    ids, context = torch.tensor(tokenizer.encode(text)), 32
    parts = {"training": ids[:6_000], "validation": ids[-6_000:]}

    def loss_on(model: GPT, part: Tensor) -> float:
        windows = part[: len(part) // context * context - context]
        targets = part[1 : len(windows) + 1]
        with torch.no_grad():
            return model.eval()(windows.view(-1, context), targets.view(-1, context)).item()

    figure, axes = plt.subplots(figsize=(6.8, 3.9), dpi=100, layout="constrained")
    for colour, rate in enumerate((0.0, 0.3, 0.5)):
        torch.manual_seed(1)
        shape: dict[str, Any] = {
            "vocab_size": tokenizer.vocab_size,
            "context_length": context,
            "width": 64,
            "layers": 2,
            "heads": 2,
        }
        model = GPT(GPTConfig(family="modern", feed_forward=256, dropout=rate, **shape))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
        curves: dict[str, list[float]] = {name: [] for name in parts}
        for step in range(801):
            if step and step % 50 == 0:
                for name, part in parts.items():
                    curves[name].append(loss_on(model, part))
            places = torch.randint(len(parts["training"]) - context, (16, 1)) + torch.arange(context + 1)
            batch = parts["training"][places]
            optimizer.zero_grad()
            model.train()(batch[:, :-1], batch[:, 1:]).backward()
            optimizer.step()
        for name, style in (("validation", "-"), ("training", "--")):
            label = f"dropout {rate:g}, validation" if name == "validation" else None
            axes.plot(range(50, 801, 50), curves[name], style, color=f"C{colour}", label=label)
    axes.plot([], [], "--", color="grey", label="on the training text")
    axes.set(xlabel="step", ylabel="nats per character", ylim=(0.0, 3.4))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    save(figure, path)


def schedules(path: Path) -> None:
    """Six courses of the learning rate over 1,000 steps."""
    figure, panels = plt.subplots(1, 2, figsize=(9.2, 2.9), dpi=100, layout="constrained", sharey=True)
    halves: Any = (("constant", "linear", "cosine"), ("triangular", "triangular2", "exp_range"))
    for axes, names, warmup in zip(panels, halves, (0.1, 0.0), strict=True):
        for name in names:
            config = PretrainConfig(schedule=name, steps=1000, warmup_fraction=warmup, step_size=125, gamma=0.998)
            axes.plot([lr_factor(step, config) for step in range(1000)], label=name)
        axes.set(xlabel="step", ylim=(0, 1.3))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, ncols=3, fontsize=9, loc="upper center")
    panels[0].set_ylabel("share of the peak rate")
    save(figure, path)


DRAWN: dict[str, Callable[[Path], None]] = {
    figure.__name__: figure for figure in (averages, saturation, masks, heads, depth, positions, overfitting, schedules)
}
"""Every figure by the name of its file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DRAWN))
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder; default docs/course/figures")
    options = parser.parse_args()
    if unknown := set(options.names) - set(DRAWN):
        parser.error(f"no figure is called {', '.join(sorted(unknown))}; there are {', '.join(DRAWN)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or DRAWN:
        DRAWN[name](options.out / f"{name}.png")
        print(options.out / f"{name}.png")


if __name__ == "__main__":
    main()
