"""Best-of-n: no training. The SFT model writes n responses to a prompt, and the reward chooses one.

Its distribution lies within log n − (n − 1)/n nats of the SFT model (used by Stiennon et al., arXiv 2009.01325; an
upper bound, Beirami et al., arXiv 2401.01879, which is met where no two responses are the same). So it shows what
the reward can give at a KL that is known, and any algorithm that trains against the same reward should come near it.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from data.run.folder import StageFolder, open_stage
from data.run.plots import plot_curves
from data.run.progress import progress_bar
from data.run.writing import write_samples
from pretrain.machine import choose_device, process_state
from rlhf.algorithms.budget import token_budget
from rlhf.algorithms.group_config import BestOfNConfig
from rlhf.algorithms.task import Alignment
from rlhf.judging.replies import Replies, Writer
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards import Scored, Scorer, ScoreRules

SHOWN = 6
"""Prompts in samples.md."""


def kl_bound(n: int) -> float:
    """Nats a response between the best of n and the model that wrote them, at most."""
    return math.log(n) - (n - 1) / n


class Candidates:
    """More and more responses of the SFT model to a writer's prompts, all scored."""

    def __init__(self, writer: Writer, scorer: Scorer, temperature: float, first_draw: int = 0) -> None:
        self.writer, self.scorer, self.temperature, self.first_draw = writer, scorer, temperature, first_draw
        self.ids: list[list[list[int]]] = []
        self.scored: list[Scored] = []
        self.tokens = 0
        """Response tokens sampled so far."""

    def draw(self) -> None:
        """One more response to every prompt."""
        number = self.first_draw + len(self.ids)
        ids = self.writer.sample(self.writer.sft, draw=number, temperature=self.temperature)
        self.ids.append(ids)
        self.scored.append(self.scorer([Prompt(prompt) for prompt in self.writer.prompts], ids))
        self.tokens += sum(map(len, ids))

    def choose(self, n: int) -> list[int]:
        """For every prompt, which of its first n responses has the highest score."""
        best: list[int] = torch.stack([scored.scores for scored in self.scored[:n]]).argmax(0).tolist()
        return best

    def best_of(self, n: int) -> Replies:
        """The best of the first n responses to every prompt, with the bound as their KL."""
        best = self.choose(n)
        ids = [self.ids[k][i] for i, k in enumerate(best)]
        return Replies(
            texts=[self.writer.tokenizer.decode(response) for response in ids],
            ids=ids,
            stopped=[bool(self.scored[k].stopped[i]) for i, k in enumerate(best)],
            kl=kl_bound(n),
            reward=[float(self.scored[k].raw[i]) for i, k in enumerate(best)],
        )

    def score(self, n: int) -> float:
        """Mean score, after the rules, of the best of n."""
        return float(torch.stack([scored.scores for scored in self.scored[:n]]).amax(0).mean())


def choose_best(config: BestOfNConfig, preset: str) -> Path:
    """Measure best-of-n for n = 1, 2, 4, … while the budget lasts and leave it in RUN/rlhf-best-of-n."""
    config.check()
    state = process_state(choose_device(config.device))
    run = Alignment(config)
    budget = token_budget(config, run.sft)
    with open_stage(config.folder_name, config, preset=preset, command=config.command, parent=run.sft) as stage:
        stage.config |= {
            "token_budget": budget,
            "reward_sha256": run.reward_record and run.reward_record.weights_sha256,
        }
        stage.announce(f"{len(run.heldout)} held-out prompts · {budget:,} sampled tokens · {config.reward}")
        stage.truncate_metrics(after=0, key="n")  # a stopped one begins again: it is a matter of seconds
        if state.is_main_process:
            spend(run, config, budget, stage)
    return stage.final


def spend(run: Alignment, config: BestOfNConfig, budget: int, stage: StageFolder) -> None:
    """Double n while the budget lasts, measure each, and leave results, plots and samples in the stage."""
    rules = ScoreRules(config.missing_eos_rule, config.missing_eos_penalty, config.score_clip)
    candidates, n = Candidates(run.writer, run.scorer(rules, torch.device("cpu")), config.temperature), 1
    with progress_bar(config.folder_name, budget) as bar:
        while True:
            before = candidates.tokens
            while len(candidates.ids) < n:
                candidates.draw()
            best = candidates.best_of(n)
            figures = {
                "objective/kl": kl_bound(n),
                "objective/reward_scores": fmean(best.reward),
                "objective/scores": candidates.score(n),
                "objective/stopped": fmean(best.stopped),
                "objective/response_length": fmean(map(len, best.ids)),
                **run.judge(best.texts, best.stopped),
            }
            stage.log(
                n=n,
                **{name: round(value, 6) for name, value in figures.items()},
                sampled_tokens=candidates.tokens,
            )
            bar.advance(candidates.tokens - before, f"n {n} · score {figures['objective/scores']:+.2f}")
            if 2 * candidates.tokens > budget:  # the next n needs as many again
                break
            n *= 2
    metrics = stage.read_metrics()
    stage.results = {str(line["n"]): {name: line[name] for name in line.keys() - {"n"}} for line in metrics}
    write_plots(stage.path, metrics)
    write_samples(
        stage.path / "samples.md",
        f"The best of {n} responses to held-out prompts, in order, unselected",
        sample_sections(run, candidates, n),
    )


def write_plots(folder: Path, metrics: list[dict[str, Any]]) -> None:
    """reward.png and gold.png: what the best of n are worth at their KL."""
    kl = [line["objective/kl"] for line in metrics]
    for name, key, label in (
        ("reward", "objective/reward_scores", "reward (SFT: 0 ± 1)"),
        ("gold", "eval/gold", "gold score"),
    ):
        plot_curves(
            folder / f"{name}.png",
            {"best of n": (kl, [line[key] for line in metrics])},
            xlabel="KL to the SFT model, nats a response (upper bound)",
            ylabel=label,
            title="Best of n = " + ", ".join(str(line["n"]) for line in metrics),
        )


def sample_sections(run: Alignment, candidates: Candidates, n: int) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The first response to some prompts, and the best of n next to it."""
    shown = {"The first": candidates.best_of(1), f"The best of {n}": candidates.best_of(n)}
    for i, prompt in enumerate(run.heldout[:SHOWN]):
        texts = []
        for title, replies in shown.items():
            end = "" if replies.stopped[i] else ", did not stop"
            texts.append((f"{title}: score {replies.reward[i]:+.2f}{end}", f"{prompt}⟨{replies.texts[i]}⟩"))
        yield str(i + 1), texts
