"""Make the pictures of docs/metrics.md: PPO as it should go, and made ill in four ways.

    python scripts/docs/sick_runs.py --run runs/demo

Every run is preset `laptop` on the models of RUN with one thing changed; one to three minutes each on 2 cores. They are
kept in runs/sick, and the same command continues with those that are missing. Prints the table of docs/metrics.md.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from course_figures import save
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures"
HEALTHY = "healthy"
CASES = {
    HEALTHY: "",
    "kl-too-low": "--kl-coef 0",
    "kl-too-high": "--kl-coef 3",
    "reward-hacking": "--reward sick_runs:kind",
    "collapsed-entropy": "--learning-rate 0.01",
}
KIND = {"dear", "fair", "gentle", "good", "gracious", "kind", "love", "noble", "sweet", "thank", "thanks"}
PANELS = {
    "objective/scores": "score",
    "eval/gold": "gold on held-out prompts",
    "objective/kl": "KL from SFT, nats per sequence",
    "policy/entropy_avg": "entropy, nats per token",
    "objective/response_length": "tokens per response",
    "eval/distinct_2": "distinct pairs of words",
    "policy/clipfrac_avg": "share of tokens clipped",
    "val/explained_variance": "explained variance of the values",
}


def kind(prompt: str, response: str) -> float:
    """A reward with a hole: the share of the words that are kind. It says nothing of what they are for."""
    words = re.findall(r"[a-z']+", response.lower())
    return sum(word in KIND for word in words) / max(1, len(words))


def run_case(name: str, models: Path, folder: Path, preset: str) -> list[dict[str, Any]]:
    """The metrics of a case, after training it if it is not there yet."""
    run = folder / name
    if not (run / "rlhf" / "stage.json").exists():
        for stage in ("sft", "reward"):
            shutil.copytree(models / stage, run / stage, dirs_exist_ok=True)
        options = ["--run", str(run), "--eval-every", "4", "--overwrite", *CASES[name].split()]
        importable = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"}  # `kind`
        subprocess.run([sys.executable, "-m", "rlhf", preset, *options], check=True, env=importable)
    lines = (run / "rlhf" / "metrics.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def draw(case: list[dict[str, Any]], healthy: list[dict[str, Any]] | None) -> Figure:
    """All panels of a run, with the healthy run's curves behind."""
    figure, panels = plt.subplots(2, 4, figsize=(12, 4.6), dpi=110, layout="constrained")
    for axes, (metric, title) in zip(panels.flat, PANELS.items(), strict=True):
        for metrics, style in ((healthy, {"color": "0.72", "label": "healthy"}), (case, {"color": "C3"})):
            if metrics is not None:
                points = [(line["episode"], line[metric]) for line in metrics if metric in line]
                axes.plot(*zip(*points, strict=True), linewidth=1.6, **(style if healthy else {"color": "C0"}))
        axes.set_title(title, fontsize=10)
        axes.text(0.02, 0.98, metric, transform=axes.transAxes, fontsize=7, va="top", color="0.4")
        axes.margins(y=0.18)
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_locator(plt.MaxNLocator(4))
        axes.tick_params(labelsize=8)
    for axes in panels[1]:
        axes.set_xlabel("episodes", fontsize=9)
    if healthy is not None:
        panels[0, 0].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def row(name: str, metrics: list[dict[str, Any]]) -> str:
    """A line of the table: the means of the last tenth of the updates, and the last look at held-out prompts."""
    last = metrics[-max(1, len(metrics) // 10) :]
    judged = [line for line in metrics if "eval/gold" in line]

    def mean(metric: str) -> float:
        return statistics.fmean(line[metric] for line in last)

    return (
        f"| {name} | `{CASES[name] or 'laptop'}` | {mean('objective/scores'):.2f} | {judged[-1]['eval/gold']:.3f} | "
        f"{mean('objective/kl'):.1f} | {mean('policy/entropy_avg'):.2f} | {mean('objective/response_length'):.0f} | "
        f"{mean('objective/stopped'):.2f} | {judged[-1]['eval/distinct_2']:.2f} | {mean('policy/clipfrac_avg'):.3f} | "
        f"{mean('val/explained_variance'):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run folder with the stages sft and reward")
    parser.add_argument("--preset", default="laptop", help="of python -m rlhf")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "sick", help="where the runs are kept")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="where the pictures go")
    chosen = parser.parse_args()
    chosen.figures.mkdir(parents=True, exist_ok=True)
    runs = {name: run_case(name, chosen.run.resolve(), chosen.folder.resolve(), chosen.preset) for name in CASES}
    for name, metrics in runs.items():
        figure = draw(metrics, None if name == HEALTHY else runs[HEALTHY])
        save(figure, chosen.figures / f"ppo-{name}.png")
    print("| run | changed | score | gold | KL | entropy | length | stopped | distinct-2 | clipped | expl. var. |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, metrics in runs.items():
        print(row(name, metrics))


if __name__ == "__main__":
    main()
