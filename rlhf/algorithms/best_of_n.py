"""Best-of-n: no training. The SFT model writes n responses to a prompt, and the reward chooses one.

Its KL from the SFT model has a known bound (`rlhf.judging.judge.kl_bound`). So it shows what the reward can give at a
KL, and any algorithm that trains against the same reward should come near it.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from data.run.folder import StageFolder, open_stage
from data.run.plots import plot_curves
from data.run.progress import progress_bar
from data.run.writing import write_samples
from pretrain.machine import process_state
from rlhf.algorithms.budget import token_budget
from rlhf.algorithms.config import BestOfNConfig
from rlhf.algorithms.task import AlignmentTask, rules_of
from rlhf.judging.replies import Replies

SHOWN = 6
"""Prompts in samples.md."""


def choose_best(config: BestOfNConfig, preset: str) -> Path:
    """Measure best-of-n for n = 1, 2, 4, … while the budget lasts and leave it in RUN/rlhf-best-of-n."""
    task = AlignmentTask(config)
    config.check()
    state, budget = process_state(task.device), token_budget(config, task.sft)
    judge = task.judge(task.heldout, rules_of(config))
    with open_stage(config.folder_name, config, preset=preset, command=config.command, parent=task.sft) as stage:
        stage.config |= task.settings | {"token_budget": budget}
        stage.announce(f"{len(task.heldout)} held-out prompts · {budget:,} sampled tokens · {config.reward}")
        if state.is_main_process:
            stage.truncate_metrics(after=0, key="n")  # a stopped one begins again: it is a matter of seconds
            drawn: list[Replies] = []
            with progress_bar(config.folder_name, budget) as bar:
                while sampled(drawn) * 2 <= budget:  # the next n needs as many again
                    before = sampled(drawn)
                    for draw in range(len(drawn), max(1, 2 * len(drawn))):
                        drawn.append(judge.score(task.sampler.sample(task.sft_model, draw, config.temperature)))
                    metrics = measure(task, judge.best_of(drawn))
                    stage.log(n=len(drawn), **metrics, sampled_tokens=sampled(drawn))
                    bar.advance(sampled(drawn) - before, f"n {len(drawn)} · score {metrics['objective/scores']:+.2f}")
            conclude(task, stage, {"The first": drawn[0], f"The best of {len(drawn)}": judge.best_of(drawn)})
    return stage.final


def sampled(drawn: list[Replies]) -> int:
    """Response tokens of all these replies."""
    return sum(len(ids) for replies in drawn for ids in replies.ids)


def measure(task: AlignmentTask, best: Replies) -> dict[str, float]:
    """The metrics of the chosen responses, by the names of PPO's log."""
    metrics = {
        "objective/kl": best.kl or 0.0,
        "objective/reward_scores": fmean(best.reward),
        "objective/scores": fmean(best.scores),
        "objective/stopped": fmean(best.stopped),
        "objective/response_length": fmean(map(len, best.ids)),
        **task.heldout_metrics(best),
    }
    return {name: round(value, 6) for name, value in metrics.items()}


def conclude(task: AlignmentTask, stage: StageFolder, shown: dict[str, Replies]) -> None:
    """Leave results, reward.png, gold.png (what the best of n are worth at their KL) and samples in the stage."""
    metrics = stage.read_metrics()
    stage.results = {str(line["n"]): {name: line[name] for name in line.keys() - {"n"}} for line in metrics}
    kl = [line["objective/kl"] for line in metrics]
    for name, key, label in (
        ("reward", "objective/reward_scores", "reward (SFT: 0 ± 1)"),
        ("gold", "eval/gold", "gold score"),
    ):
        plot_curves(
            stage.path / f"{name}.png",
            {"best of n": (kl, [line[key] for line in metrics])},
            xlabel="KL to the SFT model, nats per response (upper bound)",
            ylabel=label,
            title="Best of n = " + ", ".join(str(line["n"]) for line in metrics),
        )
    *_, title = shown
    write_samples(
        stage.path / "samples.md",
        f"{title} responses to held-out prompts, in order, unselected",
        sample_sections(task.heldout[:SHOWN], shown),
    )


def sample_sections(prompts: list[str], shown: dict[str, Replies]) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """The first response to some prompts, and the best of n next to it."""
    for i, prompt in enumerate(prompts):
        texts = []
        for title, replies in shown.items():
            end = "" if replies.stopped[i] else ", did not stop"
            texts.append((f"{title}: score {replies.reward[i]:+.2f}{end}", f"{prompt}⟨{replies.texts[i]}⟩"))
        yield str(i + 1), texts
