"""Best-of-n: no training. The SFT model writes n responses to a prompt, and the reward chooses one.

Its distribution lies within log n − (n − 1)/n nats of the SFT model (used by Stiennon et al., arXiv 2009.01325; an
upper bound, Beirami et al., arXiv 2401.01879, which is met where no two responses are the same). So it shows what
the reward can give at a KL that is known, and any algorithm that trains against the same reward should come near it.
"""

import math
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from pretrain.plots import plot_curves
from pretrain.progress import progress_bar
from pretrain.stage import StageRecord, announce, open_stage, parent_of, settings
from rlhf.alignment import Alignment, Scored, ScoreRules
from rlhf.budget import token_budget
from rlhf.group_config import BestOfNConfig

SHOWN = 6
"""Prompts in samples.md."""


def kl_bound(n: int) -> float:
    """Nats a response between the best of n and the model that wrote them, at most."""
    return math.log(n) - (n - 1) / n


class Candidates:
    """More and more responses of the SFT model to the held-out prompts, all scored."""

    def __init__(self, run: Alignment, config: BestOfNConfig) -> None:
        self.run, self.temperature = run, config.temperature
        rules = ScoreRules(config.missing_eos_rule, config.missing_eos_penalty, config.score_clip)
        self.scorer = run.scorer(rules, torch.device("cpu"))
        self.ids: list[list[list[int]]] = []
        self.scored: list[Scored] = []
        self.tokens = 0

    def draw(self) -> None:
        """One more response to every prompt."""
        writer = self.run.writer
        ids = writer.sample(writer.sft, draw=len(self.ids), temperature=self.temperature)
        self.ids.append(ids)
        self.scored.append(self.scorer(writer.prompts, ids))
        self.tokens += sum(map(len, ids))

    def best_of(self, n: int) -> list[int]:
        """For every prompt, which of its first n responses has the highest score."""
        return torch.stack([scored.scores for scored in self.scored[:n]]).argmax(0).tolist()

    def figures(self, n: int) -> dict[str, float]:
        """What the best of n are like, by the names of PPO's log."""
        best, tokenizer = self.best_of(n), self.run.tokenizer
        prompts = range(len(best))
        chosen = [self.ids[best[i]][i] for i in prompts]

        def mean(name: str) -> float:
            return sum(float(getattr(self.scored[best[i]], name)[i]) for i in prompts) / len(best)

        texts = [tokenizer.decode(ids) for ids in chosen]
        stopped = [bool(self.scored[best[i]].stopped[i]) for i in prompts]
        return {
            "objective/kl": kl_bound(n),
            "objective/reward_scores": mean("raw"),
            "objective/scores": mean("scores"),
            "objective/stopped": mean("stopped"),
            "objective/response_length": sum(map(len, chosen)) / len(chosen),
            **self.run.judge(texts, stopped),
        }


def choose_best(config: BestOfNConfig, preset: str) -> Path:
    """Measure best-of-n for n = 1, 2, 4, … while the budget lasts and leave it in RUN/rlhf-best-of-n."""
    config.check()
    run = Alignment(config)
    budget = token_budget(config, run.sft)
    folder = open_stage(config.folder_name, config)
    announce(config.folder_name, f"{len(run.heldout)} held-out prompts · {budget:,} sampled tokens · {config.reward}")
    state = PartialState()
    results: dict[str, Any] = {}
    if state.is_main_process:
        folder.keep_metrics(lambda line: False)  # a stopped one begins again: it is a matter of seconds
        candidates, n = Candidates(run, config), 1
        with progress_bar(config.folder_name, budget) as bar:
            while True:
                before = candidates.tokens
                while len(candidates.ids) < n:
                    candidates.draw()
                figures = candidates.figures(n)
                folder.log(
                    n=n,
                    **{name: round(value, 6) for name, value in figures.items()},
                    sampled_tokens=candidates.tokens,
                    seconds=round(folder.seconds, 2),
                )
                bar.advance(candidates.tokens - before, f"n {n} · score {figures['objective/scores']:+.2f}")
                if 2 * candidates.tokens > budget:  # the next n needs as many again
                    break
                n *= 2
        metrics = folder.read_metrics()
        results = {str(line["n"]): {name: line[name] for name in line.keys() - {"n"}} for line in metrics}
        write_plots(folder.path, metrics)
        write_samples(folder.path / "samples.md", candidates, n)
    record = StageRecord(
        stage=config.folder_name,
        preset=preset,
        config=settings(config)
        | {"token_budget": budget, "reward_sha256": run.reward_record and run.reward_record.weights_sha256},
        parent=parent_of(run.sft, config.run),
        corpus=run.sft.corpus,
        seed=config.seed,
        results=results,
    )
    folder.finish(record)
    announce(config.folder_name, f"{record.wall_seconds:.0f} s → {folder.final}")
    return folder.final


def write_plots(folder: Path, metrics: list[dict[str, Any]]) -> None:
    """reward.png and critic.png: what the best of n are worth at their KL."""
    kl = [line["objective/kl"] for line in metrics]
    for name, key, label in (
        ("reward", "objective/scores", "score (SFT: 0 ± 1)"),
        ("critic", "eval/critic", "critic's score"),
    ):
        plot_curves(
            folder / f"{name}.png",
            {"best of n": (kl, [line[key] for line in metrics])},
            xlabel="KL to the SFT model, nats a response (upper bound)",
            ylabel=label,
            title="n = " + ", ".join(str(line["n"]) for line in metrics),
        )


def write_samples(path: Path, candidates: Candidates, n: int) -> None:
    """The first response to some prompts, and the best of n beside it."""
    run, best = candidates.run, candidates.best_of(n)
    parts = [f"# The best of {n} responses to held-out prompts, in order, unselected\n"]
    for i, prompt in enumerate(run.heldout[:SHOWN]):
        parts.append(f"## {i + 1}\n")
        for title, k in (("The first", 0), (f"The best of {n}", best[i])):
            scored = candidates.scored[k]
            end = "" if scored.stopped[i] else ", did not stop"
            text = (prompt + "⟨" + run.tokenizer.decode(candidates.ids[k][i]) + "⟩").replace("```", "'''")
            parts.append(f"{title}: score {float(scored.raw[i]):+.2f}{end}\n\n```text\n{text}\n```\n")
    path.write_text("\n".join(parts), "utf-8")
