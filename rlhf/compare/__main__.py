"""Compare the stages of a run on held-out prompts: python -m rlhf.compare --run RUN

Reads: RUN/pretrain, RUN/sft, RUN/reward, RUN/rlhf and the held-out dialogue of RUN/corpus.txt; votes (--votes).

Does: has every source (`rlhf.judging.sources`) write one reply to every prompt. The gold judge, the reward model and
plain counts judge them, and people's votes are counted where --votes gives some.

Writes: `compare.json`, `samples.md`, `report.html` and, for readers on paper, `blind.md` with its key to RUN/compare.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich import box
from rich.table import Table

from data.console import console, run_command
from data.dialogue import dialogue_pairs
from data.run.folder import open_stage, run_corpus
from data.run.options import command_line
from data.run.progress import progress_bar
from pretrain.machine import choose_device, process_state
from reward.evaluate import evaluate_reward, reliability
from reward.labeller import rank
from reward.rankings import Ranking
from rlhf.compare.blind import write_blind
from rlhf.compare.report import write_report
from rlhf.compare.votes import tally_votes, title_of
from rlhf.judging.directed import Asking
from rlhf.judging.directed_panel import print_directions
from rlhf.judging.judge import HeldoutOptions, choose_pairs, common_words, made_of, metrics_of, write_result
from rlhf.judging.metrics import win_rate
from rlhf.judging.replies import Replies
from rlhf.judging.sources import COMPARISONS, SOURCES, STAGES, Source
from rlhf.judging.stages import Stages, read_chain
from rlhf.judging.votes import read_votes
from rlhf.judging.words import prior_counts, what_changed
from sft.directions import run_directions, usable_directions

CANDIDATES = 4
"""Replies per prompt for best-of-n and for the reward model's accuracy on a policy's replies."""
CANDIDATE_PROMPTS = 256
"""Prompts of which so many candidates are sampled: these are controls, and most of the time."""
POLICIES = {"sft": "sft_again", "rlhf": "rlhf"}
"""Policies on whose replies the reward model is evaluated, and the source of the first of them. None of SFT's is a
reply that best-of-4 is compared with."""
WITHOUT_DIRECTIONS: dict[str, Any] = {"directions": None, "directed_samples": []}
"""What compare.json says of directions in a run that has none."""


@dataclass(kw_only=True)
class CompareOptions(HeldoutOptions):
    """Compare the stages of a run on held-out prompts."""

    votes: tuple[str, ...] = ()
    """JSONL files of people's votes to count, such as RUN/votes.jsonl of `python -m rlhf.play`."""


class Gathering:
    """Has every source reply to the prompts and be judged."""

    def __init__(self, stages: Stages, asking: Asking | None) -> None:
        """asking: asks them for what directions say; None in a run without directions."""
        self.stages, self.asking = stages, asking
        self.pairs, self.judge, self.sampler, self.sources = stages.pairs, stages.judge, stages.sampler, stages.sources
        self.usual = prior_counts(stages.corpus)
        self.temperature = float(stages.records["reward"].config["label_temperature"])

    def results(self) -> dict[str, Any]:
        """The metrics of `compare.json`."""
        asking, steps = self.asking, len(self.sources) + len(POLICIES) * (CANDIDATES - 1)
        with progress_bar("compare", steps + (asking.steps + len(asking.sources) if asking else 0)) as bar:

            def judged(replies: Replies) -> Replies:
                bar.advance(1, f"gold {fmean(self.judge.judge(replies).gold):.3f}")
                return replies

            replies = {key: judged(self.reply(each)) for key, each in self.sources.items() if not each.best_of}
            candidates = {}
            for first in POLICIES.values():
                more = [judged(each) for each in self.more(self.sources[first])]
                candidates[first] = [replies[first].first(CANDIDATE_PROMPTS), *more]
            best = {key: each.best_of for key, each in self.sources.items() if each.best_of}
            replies |= {key: judged(self.judge.best_of(candidates[first])) for key, first in best.items()}
            told = asking.first_figures(lambda: bar.advance(1)) if asking else WITHOUT_DIRECTIONS
        words = common_words([*replies.values()])
        measured = {key: metrics_of(replies[key], self.judge.gold, words) for key in self.sources}
        return {
            "stages": {key: measured[key] for key in STAGES},
            "controls": {key: measured[key] for key in measured if key not in STAGES},
            "win_rates": {
                key: _win_rate(replies[each.first].gold, replies[each.second].gold)
                for key, each in COMPARISONS.items()
                if each.first in replies and each.second in replies
            },
            "reward_model": {
                policy: self.reward_model_metrics(candidates[first], policy) for policy, first in POLICIES.items()
            },
            **told,
            "diversity_words": words,
            "words": what_changed(replies["sft"], replies["rlhf"], self.usual).to_json(),
            "samples": [
                {"prompt": pair.prompt}
                | {key: replies[key].texts[i] for key in STAGES}
                | {"gold": {key: replies[key].gold[i] for key in STAGES}}
                | {"reward": {key: replies[key].reward[i] for key in STAGES}}
                for i, pair in enumerate(self.pairs)
            ],
        }

    def reply(self, source: Source) -> Replies:
        """A source's replies to all prompts, and their KL from the SFT model."""
        if not source.folder:
            return self.sampler.original(self.pairs)
        lm = self.stages.model(source.folder)
        sample = self.sampler.sample if source.ends else self.sampler.sample_pretrained
        replies = sample(lm, source.draw, source.temperature)
        replies.kl = self.judge.kl(lm, replies, source.temperature, source.ends)
        return replies

    def more(self, source: Source) -> list[Replies]:
        """Further replies of a source to the first prompts."""
        lm, count = self.stages.model(source.folder), min(CANDIDATE_PROMPTS, len(self.pairs))
        return self.sampler.several(lm, 10 * source.draw, CANDIDATES - 1, source.temperature, count)

    def reward_model_metrics(self, candidates: Sequence[Replies], policy: str) -> dict[str, Any]:
        """How well the reward model orders several replies of one policy to each prompt, and its calibration.

        Labels are made as in the reward stage: the gold judge's scores with noise of its `label_temperature`.
        """
        rng, rankings = random.Random(self.stages.seed), []
        for i, pair in enumerate(self.pairs[: len(candidates[0].texts)]):
            texts, scores = [each.texts[i] for each in candidates], [each.gold[i] for each in candidates]
            rankings.append(
                Ranking(
                    prompt=pair.prompt,
                    completions=texts,
                    stopped=[each.stopped[i] for each in candidates],
                    ranking=rank(scores, self.temperature, rng, texts),
                    annotator="gold",
                    policy=policy,
                    seed=self.stages.seed,
                    prompt_ids=list(self.judge.prompts[i]),
                    completion_ids=[each.ids[i] for each in candidates],
                    scores=scores,
                )
            )
        rewards = torch.tensor([each.reward for each in candidates]).T
        bins = reliability(self.stages.reward_model, rankings, [*rewards])
        metrics = evaluate_reward(self.stages.reward_model, rankings, self.temperature, scores=rewards.reshape(-1))
        return metrics | {"calibration": [each._asdict() for each in bins]}


def compare(options: CompareOptions) -> Path:
    """Compare the stages of a run and leave the report in RUN/compare; returns that folder."""
    state, run = process_state(choose_device(options.device)), options.run
    records = read_chain(run)
    rlhf = records["rlhf"]
    votes = [vote for path in options.votes for vote in read_votes(path)]
    corpus = run_corpus(run, rlhf)
    pairs = choose_pairs(corpus, options.split, options.prompts)
    with open_stage("compare", options, preset=rlhf.preset, command="python -m rlhf.compare", parent=rlhf) as stage:
        stage.announce(f"{len(pairs)} held-out prompts ({options.split}) of {corpus.name}")
        stage.config |= {name: records["sft"].config[name] for name in ("prompt_length", "response_length")}
        if state.is_main_process:
            stages = Stages(run, records, corpus, pairs, options.seed, state.device)
            directions = usable_directions(run_directions(records["sft"]), dialogue_pairs(corpus.train))
            gathering = Gathering(stages, Asking(stages, directions) if directions else None)
            if directions:
                stage.config["reward_following"] = rlhf.config.get("reward_following", "none")
            result = {
                "settings": stage.config | {"prompts": len(pairs), "temperature": 1.0, "candidates": CANDIDATES},
                "corpus": rlhf.corpus,
                **gathering.results(),
                "votes": tally_votes(votes, stages.judge.gold, directions.specs if directions else ())
                if votes
                else None,
                "made": {name: made_of(each) for name, each in records.items()},
                "seconds": round(stage.seconds, 2),
            }
            stage.results = {"win_rates": result["win_rates"], "stages": result["stages"]}
            if result["directions"]:
                stage.results["directions"] = {name: result["directions"][name] for name in ("one", "wrong")}
            write_result(stage.path / "compare.json", result, sample_section)
            write_blind(stage.path, result["samples"], options.seed, result["directed_samples"])
            write_report(stage.path / "report.html", result, run)
            print_table(result)
            stage.summary = f"report: {stage.final / 'report.html'}"
    return stage.final


def sample_section(number: int, sample: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """A prompt and every stage's reply to it, with its scores, or with whether it does as told."""
    texts = [("", sample["prompt"])]
    for name in filter(sample["gold"].__contains__, STAGES):
        said = f"gold {sample['gold'][name]:.2f}"
        if "reward" in sample:
            said += f", reward {sample['reward'][name]:+.2f}"
        else:
            said += f", {'does' if sample['followed'][name] else 'does not do'} as told"
        texts.append((f"**{SOURCES[name].title}** ({said})", sample[name]))
    return f"{number}, as directed" if "followed" in sample else str(number), texts


def print_table(result: dict[str, Any]) -> None:
    """The metrics that matter, on the terminal."""
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    for head in ("", "gold", "reward", "KL", "tokens", "stops", "distinct-2", "unknown", "copy"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for name, row in (result["stages"] | result["controls"]).items():
        kl = "" if row["kl_to_sft"] is None else f"{round(row['kl_to_sft'], 2) + 0.0:.2f}"
        table.add_row(
            name, f"{row['gold']:.3f}", f"{row['reward']:+.2f}", kl, f"{row['tokens']:.0f}", f"{row['stopped']:.1%}",
            f"{row['distinct_2']:.3f}", f"{row['unknown_words']:.1%}", f"{row['longest_copy_mean']:.1f}",
        )  # fmt: skip
    console.print(table)
    if result["directions"]:
        print_directions(result["directions"])
    for name, rate in result["win_rates"].items():
        console.print(f"  {name:22} {rate['rate']:.3f}  [{rate['low']:.3f}, {rate['high']:.3f}]")
    for pair in result["votes"]["pairs"] if result["votes"] else []:
        who = (
            f"{title_of(pair['first'])} against {title_of(pair['second'])}{', as directed' if pair['directed'] else ''}"
        )
        shown = f"people: {who} {pair['rate']:.3f}  [{pair['low']:.3f}, {pair['high']:.3f}]  {pair['n']} votes"
        console.print(f"  {shown}", markup=False)


def _win_rate(first: list[float], second: list[float]) -> dict[str, Any]:
    """On the prompts that both have answered: best-of-4 answers fewer."""
    n = min(len(first), len(second))
    return win_rate(first[:n], second[:n])._asdict()


def main() -> None:
    compare(command_line(CompareOptions, __doc__))


if __name__ == "__main__":
    run_command(main)
