"""Find bounds for the learning rate: python -m pretrain.lr_range_test PRESET --run RUN

Reads: a corpus (--corpus): a named text or a UTF-8 file of your own.

Does: raises the learning rate from step to step while a preset's model trains from scratch (the range test of Smith,
WACV 2017, arXiv 1506.01186). The loss first hardly changes, then falls, then becomes noisy and rises. The rates between
which it falls are bounds for a cyclical schedule; the upper one is also a fair peak for any other schedule.

Writes: one JSON object to the terminal and RUN/lr_range_test with the plot.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from data.console import UserError, run_command
from data.run.folder import open_stage
from data.run.options import preset_command
from data.run.progress import progress_bar
from pretrain.config import PretrainConfig
from pretrain.machine import start
from pretrain.presets import PRESETS
from pretrain.train import Pretraining

FALLEN = 0.1
"""The lower bound is where the loss has come this share of its whole way down."""


@dataclass(kw_only=True)
class RangeTestConfig(PretrainConfig):
    """Raise the learning rate from `lowest` to `highest` over `steps` steps. The schedule of the preset is not used."""

    steps: int = 500
    """Steps of the test."""
    lowest: float = 1e-6
    """Learning rate of the first step."""
    highest: float = 1.0
    """Learning rate of the last step; Muon's rises in proportion."""
    rise: Literal["exponential", "linear"] = "exponential"
    """exponential: by the same factor every step, for orders of magnitude; linear: as Smith's."""
    smoothing: int = 10
    """Steps before and after a step over which its loss is averaged."""

    def validate(self) -> None:
        super().validate()
        if self.resume:
            raise UserError("a range test cannot be resumed: leave --resume out, it takes minutes")
        if not 0 < self.lowest < self.highest:
            raise UserError(f"lowest must be positive and less than highest, not {self.lowest} and {self.highest}")
        if self.smoothing < 1 or self.steps < 4 * self.smoothing:
            raise UserError(f"smoothing must be at least 1 and at most a quarter of the steps, not {self.smoothing}")

    def rate(self, step: int) -> float:
        """The learning rate of step 0 … steps − 1."""
        share = step / (self.steps - 1)
        if self.rise == "linear":
            return self.lowest + share * (self.highest - self.lowest)
        return self.lowest * (self.highest / self.lowest) ** share


class RangeTest(Pretraining):
    """A run whose learning rate only rises."""

    config: RangeTestConfig

    def lr_factor(self, step: int) -> float:
        return self.config.rate(step) / self.config.learning_rate

    def measure(self) -> list[float]:
        """The batch's training loss at every step, until it is twice the first one or no number (which is left out)."""
        losses: list[float] = []
        with progress_bar("lr_range_test", self.config.steps) as bar:
            while len(losses) < self.config.steps:
                before = self.progress.loss_sum
                self.step()
                loss = self.progress.loss_sum - before
                if not math.isfinite(loss):
                    break
                losses.append(loss)
                if loss > 2 * losses[0]:
                    break
                bar.advance(1, f"rate {self.config.rate(len(losses) - 1):.2g} · loss {loss:.3f}")
        return losses


@dataclass
class Bounds:
    """What a range test suggests."""

    lower: float
    """Learning rate at which the smoothed loss has fallen by a tenth of its whole fall."""
    upper: float
    """Learning rate at which the smoothed loss is lowest: beyond, it rises."""
    loss_first: float
    """Smoothed loss at the first step."""
    loss_lowest: float
    """Smoothed loss at the upper bound."""
    rises_again: bool
    """Whether the test saw the loss rise after its lowest; if not, the upper bound is merely the last rate tested."""


def centred_mean(values: Sequence[float], reach: int) -> list[float]:
    """Each value's mean with up to `reach` neighbours on either side, as many on the one as on the other."""
    means = []
    for index in range(len(values)):
        side = min(reach, index, len(values) - 1 - index)
        window = values[index - side : index + side + 1]
        means.append(math.fsum(window) / len(window))
    return means


def find_bounds(rates: Sequence[float], smoothed: Sequence[float]) -> Bounds:
    """The bounds from the smoothed loss at each rate. UserError where it never falls."""
    first, lowest = smoothed[0], min(smoothed)
    bottom = smoothed.index(lowest)
    fall = first - lowest
    if fall <= 0.01 * first:
        raise UserError(
            f"the loss does not fall at rates from {rates[0]:g} to {rates[-1]:g}: lower --lowest, or raise --highest"
        )
    start = next(index for index, loss in enumerate(smoothed) if loss <= first - FALLEN * fall)
    return Bounds(
        lower=rates[start],
        upper=rates[bottom],
        loss_first=first,
        loss_lowest=lowest,
        rises_again=max(smoothed[bottom:]) > lowest + FALLEN * fall,
    )


def plot_range(path: Path, rates: Sequence[float], losses: Sequence[float], config: RangeTestConfig, b: Bounds) -> None:
    """The loss over the learning rate, raw and smoothed, and the bounds."""
    figure = Figure(figsize=(6.4, 3.8), dpi=120, layout="tight")
    axes = figure.subplots()
    axes.plot(rates, losses, color="0.75", linewidth=1, label="a batch's loss")
    axes.plot(rates, centred_mean(losses, config.smoothing), linewidth=1.8, label="smoothed")
    for name, rate in (("lower", b.lower), ("upper", b.upper)):
        axes.axvline(rate, color="tab:red", linestyle="--", linewidth=1)
        axes.annotate(f"{name} bound\n{rate:.2g}", (rate, 0.97), (4, 0), xycoords=("data", "axes fraction"),
                      textcoords="offset points", va="top", fontsize=8, color="tab:red")  # fmt: skip
    axes.axvspan(b.lower, b.upper, color="tab:red", alpha=0.06)
    axes.set(
        xscale="log" if config.rise == "exponential" else "linear",
        xlabel="learning rate",
        ylabel="training loss, nats per token",
        title="Learning-rate range test",
    )
    # What the loss does once it has exploded would flatten all the rest.
    axes.set_ylim(b.loss_lowest - 0.1 * b.loss_first, min(max(losses), 1.25 * b.loss_first))
    axes.grid(alpha=0.25)
    axes.legend(framealpha=0.9, edgecolor="none", fontsize=9, loc="lower left")
    figure.savefig(path)


def lr_range_test(config: RangeTestConfig, preset: str) -> dict[str, Any]:
    """Run the test, leave RUN/lr_range_test whole, and return what the command prints."""
    run = RangeTest(config)
    with open_stage(
        "lr_range_test",
        config,
        preset=preset,
        command="python -m pretrain.lr_range_test PRESET",
        corpus=run.corpus,
        resumable=False,
    ) as stage:
        stage.announce(f"{run.describe()} · learning rate {config.lowest:g} to {config.highest:g}")
        losses = run.measure()
        rates = [config.rate(step) for step in range(len(losses))]
        smoothed = centred_mean(losses, config.smoothing)
        bounds = find_bounds(rates, smoothed)
        for step, (rate, loss, mean) in enumerate(zip(rates, losses, smoothed, strict=True)):
            stage.log(step=step, learning_rate=rate, loss=round(loss, 5), smoothed_loss=round(mean, 5))
        plot_range(stage.path / "lr_range_test.png", rates, losses, config, bounds)
        stage.results = {
            "preset": preset,
            **asdict(bounds),
            "how": f"lower: the smoothed loss has come {FALLEN:.0%} of its way down; upper: it is at its lowest",
            "options": f"--learning-rate {bounds.upper:.2g} --base-fraction {bounds.lower / bounds.upper:.2g}",
            "steps": len(losses),
            "plot": str(stage.final / "lr_range_test.png"),
        }
    return stage.results


def main() -> None:
    start()
    presets = {}
    for name, (description, config) in PRESETS.items():
        values = {**asdict(config), "steps": RangeTestConfig.steps, "schedule": "constant", "warmup_fraction": 0.0}
        presets[name] = (description, RangeTestConfig(**values))
    print(json.dumps(lr_range_test(*preset_command(presets, __doc__)), indent=2))


if __name__ == "__main__":
    run_command(main)
