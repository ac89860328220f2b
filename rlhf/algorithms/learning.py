"""What a stage that trains shows and leaves: its line on the bar, results, plots and samples."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.run.card import Card
from data.run.folder import StageFolder
from data.run.plots import plot_curves
from data.run.writing import write_samples
from rlhf.algorithms.task import AlignmentTask
from sft.models.loading import context_length

CARD = Card(
    what="A small language model that answers a speech with one reply, aligned: from a fine-tuned model it was changed "
    "so that its replies are preferred (see *made by* for the algorithm). A prompt ends with the heading of whoever "
    "answers, `NAME:` and a line break.",
    metrics={
        "gold_before": "gold judge on held-out prompts, the SFT model",
        "gold": "gold judge on held-out prompts",
        "kl": "KL from the SFT model, nats per reply",
        "stopped": "share of sampled replies that stop by themselves",
        "distinct_2": "distinct-2 of the replies",
        "followed_before": "share of directed prompts whose reply does as asked, the SFT model",
        "followed": "share of directed prompts whose reply does as asked",
        "episodes": "replies learned from",
    },
    limits="The gold judge measures form by rules and not sense. What the model says seldom answers the prompt. It is "
    "for study.",
)
SAMPLED_UPDATES = 6
"""Updates of which samples.md shows responses."""
MEANS = {
    "score": "objective/scores",
    "kl": "objective/kl",
    "entropy": "objective/entropy",
    "stopped": "objective/stopped",
    "response_length": "objective/response_length",
}
"""Results that are means over the last tenth of the rollouts, by the metric."""
LOOKED = {"reward": "eval/reward", "kl": "eval/kl", "stopped": "eval/stopped"}
"""Results of the last look at the held-out prompts, where there are no rollouts to take means over."""
SECONDS = ("rollout", "scoring", "update")
"""Parts of an update whose times are added up."""
PLOTS = (
    (
        "reward.png",
        "What is maximised",
        "score",
        {
            "score": "objective/scores",
            "after the KL penalty": "objective/rlhf_reward",
            "on held-out prompts": "eval/reward",
        },
    ),
    (
        "kl.png",
        "How far the policy has moved",
        "nats per sequence",
        {"KL(policy ‖ SFT)": "objective/kl", "on held-out prompts": "eval/kl"},
    ),
    ("gold.png", "The gold judge on held-out prompts, unseen in training", "gold score", {"gold": "eval/gold"}),
)
"""File, title, label of the y axis, and the curves: name -> metric."""
Lines = Sequence[Mapping[str, Any]]
"""The lines of a stage's metrics.jsonl. An algorithm without rollouts has fewer metrics, and what needs them is left
out; held-out evaluations (`AlignmentTask.evaluate`) must be among them."""


def progress(metrics: Mapping[str, float]) -> str:
    """What the bar shows of a rollout."""
    judged = f" · gold {metrics['eval/gold']:.3f}" if "eval/gold" in metrics else ""
    return f"score {metrics['objective/scores']:+.2f} · KL {metrics['objective/kl']:.1f} nats{judged}"


def conclude(task: AlignmentTask, stage: StageFolder, x: str = "episode") -> None:
    """Leave tokenizer, results, plots (over the metric `x`) and samples next to the model (main process)."""
    task.tokenizer.save(stage.path, context_length(task.sft_model))
    metrics = stage.read_metrics()
    results = stage.results = summarise(metrics)
    stage.card = CARD
    write_plots(stage.path, metrics, x)
    write_samples(stage.path / "samples.md", "Responses while learning", sample_sections(metrics))
    said = {
        "score": "score {:+.2f}" if task.table else "score {:+.2f} (SFT 0)",
        "reward": "reward {:+.2f} (SFT 0)",
        "kl": "KL {:.1f} nats per sequence",
    }
    said["stopped"] = "stops {:.1%}"
    said["followed"] = "does as told {:.1%}"
    parts = [text.format(results[name]) for name, text in said.items() if name in results]
    stage.summary = " · ".join([*parts, f"gold {results['gold_before']:.3f} → {results['gold']:.3f}"])


def summarise(metrics: Lines) -> dict[str, Any]:
    """The last tenth of the rollouts, and the gold judge on held-out prompts at the first and last look."""
    last = metrics[-max(1, len(metrics) // 10) :]
    judged = [line for line in metrics if "eval/gold" in line]
    results: dict[str, Any] = {name: judged[-1][key] for name, key in LOOKED.items() if key in judged[-1]}
    results |= {
        name: round(statistics.fmean(line[key] for line in last), 5) for name, key in MEANS.items() if key in last[0]
    }
    results |= {
        "gold_before": judged[0]["eval/gold_before"],
        "gold": judged[-1]["eval/gold"],
        "distinct_2": judged[-1]["eval/distinct_2"],
    }
    if "eval/followed" in judged[-1]:
        results |= {"followed_before": judged[0]["eval/followed_before"], "followed": judged[-1]["eval/followed"]}
    if "episode" in last[-1]:
        results["episodes"] = int(last[-1]["episode"])
    for part in SECONDS:
        if f"time/{part}" in last[-1]:
            results[f"seconds_{part}"] = round(sum(line[f"time/{part}"] for line in metrics), 2)
    return results


def write_plots(folder: Path, metrics: Lines, x: str = "episode") -> None:
    """reward.png, kl.png and gold.png over the metric `x`, as far as there is what they show."""
    for file, title, ylabel, curves in PLOTS:
        lines = {name: [line for line in metrics if key in line] for name, key in curves.items()}
        drawn = {
            name: ([line[x] for line in found], [line[curves[name]] for line in found])
            for name, found in lines.items()
            if found
        }
        before = next((line["eval/gold_before"] for line in lines.get("gold", [])), None)
        if drawn:
            plot_curves(
                folder / file,
                drawn,
                xlabel=f"{x}s",
                ylabel=ylabel,
                title=title,
                floor=None if before is None else ("SFT", before),
            )


def sample_sections(metrics: Lines) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Responses next to their scores, latest first: a high score over gibberish must be seen."""
    for line in reversed([line for line in metrics if line.get("samples")]):
        texts = []
        for sample in line["samples"]:
            end = "" if sample["stopped"] else ", did not stop"
            texts.append((f"score {sample['score']:+.2f}{end}", f"{sample['prompt']}⟨{sample['response']}⟩"))
        if "update" in line:
            when, score, kl = f"Update {line['update']}", line["objective/scores"], line["objective/kl"]
        else:
            when, score, kl = f"Step {line['step']}", line["eval/reward"], line["eval/kl"]
        yield f"{when}, score {score:+.2f}, KL {kl:.1f}", texts
