"""The experiments of docs/tastes.md: what a few rankings do to a model.

    python scripts/docs/tastes.py reach --runs runs/demo runs/seed4 runs/seed6   # the commands, timed: a quiet machine
    python scripts/docs/tastes.py frontier --runs runs/demo                      # what company with craft costs
    python scripts/docs/tastes.py controls --runs runs/demo                      # shuffled and flipped labels
    python scripts/docs/tastes.py curve --runs runs/demo                         # 5 to 200 rankings, two orders
    python scripts/docs/tastes.py tables --runs runs/demo runs/seed4 runs/seed6  # tables and plots of what is there

Every run is one of `make demo` (SEED=…). The rankings are simulated: a taste (reward/tastes.py) ranks four replies of
the SFT model to a prompt of the training text. Finished rows, in RUN/tastes-study/rows.jsonl, are kept: the same
command continues with the others.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from data.corpus import Corpus
from data.dialogue import Pair, encode_prompt, heldout_pairs
from data.jsonl import append_jsonl, read_appended
from data.run.folder import run_corpus
from data.run.plots import plot_curves
from data.run.record import read_parent, read_stage
from data.run.writing import table
from data.tokenizers import Tokenizer
from reward.collect import collect_rankings
from reward.config import PRESETS
from reward.gold.judge import GoldJudge
from reward.model import RewardModel
from reward.rankings import Ranking, read_collected, write_rankings
from reward.screens import policy_name, screen_prompts
from reward.tastes import load_taste
from reward.train import train_reward
from rlhf.judging.judge import choose_pairs
from rlhf.judging.metrics import diversity, mean_interval, wilson_interval
from rlhf.judging.replies import Replies, ReplySampler
from rlhf.taste.config import TasteOptions, reward_config
from rlhf.taste.train import make_taste
from sft.models.forward import LogProbs, sequence_logprobs
from sft.models.loading import load_causal_lm
from sft.models.sampling import sampler

ENOUGH = {"questions": 20, "love": 100, "love-and-death": 100}
"""Rankings of each taste where their number is not what is varied."""
NUMBERS = (5, 10, 20, 50, 100, 200)
ASKED_FOR = NUMBERS[1:5]
"""Numbers of rankings that are measured in the order of an ensemble; the first ones are random in either order."""
FRONTIER_EPISODES = 6144
"""Replies that PPO learns from in company with craft, for the frontier; a taste's own default is less."""
CRAFTS = (0.0, 0.25, 0.5, 1.0, 2.0)
FLIPPED = (0.1, 0.2, 0.3)
POOL = 1500
"""Prompts whose replies the study's rankings are drawn from."""
HELDOUT = 160
"""Prompts, of the dev split, whose replies the accuracy of a reward model is measured on."""
MEMBERS = 3
"""Reward models of the ensemble whose disagreement orders the screens."""
DIVERSITY_WORDS = 3000


@dataclass(frozen=True)
class Experiment:
    """One taste, and how its rankings are made."""

    part: str
    taste: str
    n: int
    craft: float | None = None
    change: str = ""
    """What is done to the labels: "shuffled", or "flipped .1" for a share."""
    order: str = "random"
    """Which screens are ranked first: random ones, or those on which an ensemble disagrees most."""
    timed: bool = False
    """Whether it runs as a command of its own, timed from its start to the written checkpoint."""


def experiments(part: str) -> Iterator[Experiment]:
    tastes = ("questions", "love")
    if part == "reach":
        for taste in tastes:
            yield from (Experiment(part, taste, ENOUGH[taste], craft, timed=True) for craft in (0.0, None))
    if part == "frontier":
        yield from (Experiment(part, taste, ENOUGH[taste], craft) for taste in tastes for craft in CRAFTS)
    if part == "controls":
        changes = ("shuffled", *(f"flipped {share:g}" for share in FLIPPED))
        # The taste alone: craft moves the rates by itself.
        yield from (Experiment(part, taste, ENOUGH[taste], 0.0, change) for taste in tastes for change in changes)
    if part == "curve":
        for order in ("random", "disagreement"):
            numbers = NUMBERS if order == "random" else ASKED_FOR
            asked = ENOUGH if order == "random" else ("love", "love-and-death")  # five random ones teach questions
            for taste in asked:
                rare = taste == "love-and-death"  # 200 rankings of it take more screens than POOL
                yield from (Experiment(part, taste, n, 0.0, order=order) for n in numbers if not (rare and n > 100))


class Study:
    """A run, the rankings that tastes make of its SFT model's replies, and how a model is measured."""

    def __init__(self, run: Path) -> None:
        self.run, self.folder = run, run / "tastes-study"
        self.folder.mkdir(exist_ok=True)
        self.rows_path = self.folder / "rows.jsonl"
        self.sft = read_parent(run, "sft")
        self.tokenizer = Tokenizer.load(run / "sft")

    # ---- what is measured ----

    @cached_property
    def corpus(self) -> Corpus:
        return run_corpus(self.run, self.sft)

    @cached_property
    def gold(self) -> GoldJudge:
        return GoldJudge(self.corpus.train)

    @cached_property
    def texts(self) -> list[str]:
        return [pair.prompt for pair in choose_pairs(self.corpus, "test")]

    @cached_property
    def prompts(self) -> list[list[int]]:
        return [encode_prompt(self.tokenizer, text, self.sft.config["prompt_length"]) for text in self.texts]

    @cached_property
    def reference(self) -> LogProbs:
        return LogProbs(load_causal_lm(self.run / "sft", "cpu"))

    def measure(self, folder: Path, taste: str) -> dict[str, Any]:
        """What a model replies to the held-out test prompts."""
        lm, has = load_causal_lm(folder, "cpu"), load_taste(taste).has
        assert has is not None
        seed, length = 1, self.sft.config["response_length"]
        replies = ReplySampler(self.tokenizer, self.prompts, length, seed).sample(lm, draw=2)
        gold = mean_interval([self.gold(p, r) for p, r in zip(self.texts, replies.texts, strict=True)])
        having = sum(map(has, replies.texts))
        low, high = wilson_interval(having, len(replies.texts))
        return {
            "prompts": len(replies.texts), "rate": having / len(replies.texts), "low": low, "high": high,
            "gold": gold.mean, "gold_low": gold.low, "gold_high": gold.high,
            "distinct_2": diversity(replies.texts, DIVERSITY_WORDS).distinct_2,
            "words": statistics.fmean(len(text.split()) for text in replies.texts),
            "stopped": statistics.fmean(replies.stopped), "kl": self._kl(lm, replies),
            "first": replies.texts[:6],
        }  # fmt: skip

    def _kl(self, lm: Any, replies: Replies) -> float:
        of_sft = sequence_logprobs(self.reference, self.prompts, replies.ids)
        return float((sequence_logprobs(lm, self.prompts, replies.ids) - of_sft).mean())

    def accuracy(self, folder: Path, taste: str) -> float:
        """Share of pairs of replies to dev prompts that a model orders as the taste does."""
        model = RewardModel.load(folder)
        pairs = [(r, better, worse) for r in self.screens("dev", taste) for better, worse in r.pairs()]
        sides = [model.score([(r.prompt_ids, r.completion_ids[pair[side]]) for r, *pair in pairs]) for side in (0, 1)]
        return float((sides[0] > sides[1]).float().mean())

    # ---- rankings ----

    def screens(self, split: str, taste: str) -> list[Ranking]:
        """Four replies to each of POOL training prompts, or of HELDOUT dev prompts, ranked by a taste; made once."""
        path = self.folder / f"{split}-{taste}.jsonl"
        if not path.exists():
            pairs = heldout_pairs(self.corpus.validation).dev[:HELDOUT]
            if split == "train":
                pairs = [Pair(prompt, "") for prompt in screen_prompts(self.corpus, None, 1)[:POOL]]
            policy = sampler(load_causal_lm(self.run / "sft", "cpu"))
            config = replace(PRESETS["laptop"][1], score=taste, label_temperature=0.0)
            config = config.resolved(self.sft, policy.context_length)
            score, name = load_taste(taste).score, policy_name(self.sft)
            write_rankings(path, collect_rankings(policy, self.tokenizer, pairs, config, score, name, 11))
        return read_collected(path)

    def rankings(self, experiment: Experiment) -> tuple[list[Ranking], int]:
        """(the rankings of an experiment, how many screens were looked at for them)."""
        screens = self.screens("train", experiment.taste)
        order = self._active_order(experiment.taste) if experiment.order == "disagreement" else range(len(screens))
        chosen, looked = _first(screens, order, experiment.n)
        rng = random.Random(experiment.n)
        return [_changed(screens[i], experiment.change, rng) for i in chosen], looked

    def _active_order(self, taste: str) -> list[int]:
        """The screens in the order in which an ensemble asks for them; made once.

        The first ones are random. Each time the rankings that say something reach one of NUMBERS, an ensemble learns
        from them, and the screens that are left follow in the order of its disagreement.
        """
        kept, screens = self.folder / f"order-{taste}.json", self.screens("train", taste)
        if not kept.exists():
            order: list[int] = []
            left = list(range(len(screens)))
            for n in (NUMBERS[0], *ASKED_FOR):
                chosen, looked = _first(screens, [*order, *left], n)
                order, left = [*order, *left][:looked], [*order, *left][looked:]
                if n != ASKED_FOR[-1]:
                    scores = self._ensemble([screens[i] for i in chosen], [screens[i] for i in left])
                    doubt = dict(zip(left, map(_disagreement, zip(*scores, strict=True)), strict=True))
                    left.sort(key=lambda i: -doubt[i])
            kept.write_text(json.dumps(order))
        found: list[int] = json.loads(kept.read_text("utf-8"))
        return found

    def _ensemble(self, rankings: Sequence[Ranking], screens: Sequence[Ranking]) -> list[Sequence[torch.Tensor]]:
        """What MEMBERS reward models, which learned from the same rankings, give to the replies of each screen."""
        path, scores = self.folder / "ensemble.jsonl", []
        write_rankings(path, rankings)
        sequences = [(screen.prompt_ids, ids) for screen in screens for ids in screen.completion_ids]
        for member in range(MEMBERS):
            options = TasteOptions(run=self.run, name="ensemble", seed=100 + member)
            config = replace(reward_config(options, "laptop", [path]), into=self.folder / "ensemble", overwrite=True)
            model = RewardModel.load(train_reward(config, "laptop"))
            scores.append(model.score(sequences).split([len(screen.completion_ids) for screen in screens]))
        return scores

    # ---- rows ----

    def rows(self) -> list[dict[str, Any]]:
        return read_appended(self.rows_path) if self.rows_path.exists() else []

    def run_experiment(self, experiment: Experiment) -> None:
        """Make the taste, measure it, and append its row; nothing where the row is there."""
        key = asdict(experiment)
        if any(row["experiment"] == key for row in self.rows()):
            return
        name = "study-" + "-".join(str(value) for value in key.values() if value != "" and value is not None)
        rankings, looked = self.rankings(experiment)
        path = self.folder / f"{name}.jsonl"
        write_rankings(path, rankings)
        options = TasteOptions(
            run=self.run, name=name, rankings=(path,), craft=experiment.craft, compare=False, overwrite=True,
            episodes=FRONTIER_EPISODES if experiment.part == "frontier" and experiment.craft else None,
        )  # fmt: skip
        started = time.time()
        if experiment.timed:
            craft = [] if experiment.craft is None else ["--craft", str(experiment.craft)]
            given = {"--run": str(self.run), "--name": name, "--rankings": str(path)}
            command = [sys.executable, "-m", "rlhf.taste", *chain.from_iterable(given.items())]
            subprocess.run([*command, *craft, "--no-compare", "--overwrite"], check=True)
        else:
            make_taste(options)
        folder = options.folder
        seconds = (folder / "rlhf" / "stage.json").stat().st_mtime - started
        reward, rlhf = read_stage(folder / "reward"), read_stage(folder / "rlhf")
        row = {
            "experiment": key, "seed": self.sft.seed, "screens": looked,
            "seconds": round(seconds, 1), "reward_seconds": reward.wall_seconds, "ppo_seconds": rlhf.wall_seconds,
            "accuracy": self.accuracy(folder / "reward", experiment.taste),
            "before": self._before(experiment.taste), **self.measure(folder / "rlhf", experiment.taste),
        }  # fmt: skip
        append_jsonl(self.rows_path, row)
        shutil.rmtree(folder)
        print(f"{self.run.name} {name}: {row['rate']:.3f}, gold {row['gold']:.3f}, {seconds:.0f} s", file=sys.stderr)

    def _before(self, taste: str) -> dict[str, Any]:
        """The same of the SFT model, measured once."""
        path = self.folder / f"before-{taste}.json"
        if not path.exists():
            path.write_text(json.dumps(self.measure(self.run / "sft", taste)))
        before: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return before


def _changed(ranking: Ranking, change: str, rng: random.Random) -> Ranking:
    """A ranking after something was done to its label."""
    if change == "shuffled":  # which reply has which place is drawn again
        indices = list(range(len(ranking.completions)))
        rng.shuffle(indices)
        return replace(ranking, ranking=[[indices[i] for i in group] for group in ranking.ranking])
    if change.startswith("flipped") and rng.random() < float(change.split()[1]):
        return replace(ranking, ranking=ranking.ranking[::-1])
    return ranking


def _disagreement(scores: Sequence[torch.Tensor]) -> float:
    """How far the members of an ensemble differ on a screen: the largest deviation of the probability of a pair."""
    probabilities = torch.stack([torch.sigmoid(each[:, None] - each[None, :]) for each in scores])
    return float(probabilities.std(0).max())


def _first(screens: Sequence[Ranking], order: Sequence[int], n: int) -> tuple[list[int], int]:
    """(the first `n` screens that say something, how many were looked at), in an order."""
    chosen: list[int] = []
    for looked, i in enumerate(order, 1):
        chosen += [i] if screens[i].pairs() else []
        if len(chosen) == n:
            return chosen, looked
    raise SystemExit(f"only {len(chosen)} of {len(order)} screens say something: raise POOL")


# ---- tables and plots ----


def rates(row: dict[str, Any]) -> str:
    return f"{row['rate']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def line(row: dict[str, Any], *first: str) -> list[str]:
    """A row of a table: the rate, and what it costs."""
    before = row["before"]
    return [
        *first, rates(before), rates(row), f"{row['gold'] - before['gold']:+.3f}",
        f"{row['distinct_2'] / before['distinct_2']:.2f}", f"{row['words']:.1f}", f"{row['kl']:.1f}",
        f"{row['accuracy']:.3f}", *([f"{row['seconds']:.0f} s"] if row["experiment"]["timed"] else []),
    ]  # fmt: skip


HEAD = ["SFT has it", "taste has it", "gold - SFT's", "distinct-2 / SFT's", "words", "KL", "reward accuracy"]


def write_tables(studies: Sequence[Study], figures: Path) -> None:
    """All tables on stdout, and the plots into `figures`."""
    rows = [(study, row) for study in studies for row in study.rows()]

    def of(part: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
        return [(study.run.name, row["experiment"], row) for study, row in rows if row["experiment"]["part"] == part]

    def craft(each: dict[str, Any]) -> str:
        return "default" if each["craft"] is None else f"{each['craft']:g}"

    columns: dict[str, tuple[list[str], Callable[[str, dict[str, Any], dict[str, Any]], list[str]]]] = {
        "reach": (["run", "taste", "rankings", "craft"], lambda run, e, row: [run, e["taste"], str(e["n"]), craft(e)]),
        "frontier": (["run", "taste", "craft"], lambda run, e, row: [run, e["taste"], craft(e)]),
        "controls": (["run", "taste", "labels"], lambda run, e, row: [run, e["taste"], e["change"]]),
        "curve": (
            ["run", "taste", "order", "rankings", "screens"],
            lambda run, e, row: [run, e["taste"], e["order"], str(e["n"]), str(row["screens"])],
        ),
    }
    for part, (head, cells) in columns.items():
        if found := of(part):
            print(
                f"### {part}\n\n"
                + table(
                    [*head, *HEAD, *(["time"] if part == "reach" else [])],
                    [line(row, *cells(run, e, row)) for run, e, row in found],
                )
                + "\n"
            )
    figures.mkdir(parents=True, exist_ok=True)
    if found := of("frontier"):
        curves: dict[str, Any] = {}
        for run, e, row in found:
            x, y = curves.setdefault(f"{e['taste']}, {run}", ([], []))
            x.append(row["gold"] - row["before"]["gold"])
            y.append(row["rate"])
        plot_curves(
            figures / "tastes-frontier.png", curves, xlabel="gold judge's mean, from SFT's", ylabel="share that has it",
            title="Craft weights " + ", ".join(f"{weight:g}" for weight in CRAFTS) + ", from the left",
        )  # fmt: skip
    if found := of("curve"):
        for key, name, ylabel in (
            ("rate", "tastes-curve.png", "share of replies that have it"),
            ("accuracy", "tastes-accuracy.png", "held-out pairs ordered right"),
        ):
            drawn: dict[str, Any] = {}
            for _, e, row in found:
                x, y = drawn.setdefault(f"{e['taste']}, {e['order']}", ([], []))
                x.append(e["n"])
                y.append(row[key])
            plot_curves(figures / name, drawn, xlabel="rankings", ylabel=ylabel, log_x=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["reach", "frontier", "controls", "curve", "tables"])
    parser.add_argument("--runs", type=Path, nargs="+", default=[Path("runs/demo")])
    parser.add_argument("--only", default="", help="Experiments whose taste, order or change contain this.")
    given = parser.parse_args()
    studies = [Study(run) for run in given.runs]
    if given.part == "tables":
        write_tables(studies, Path("docs/figures"))
        return
    for study in studies:
        for experiment in experiments(given.part):
            if given.only in f"{experiment.taste} {experiment.order} {experiment.change}":
                study.run_experiment(experiment)


if __name__ == "__main__":
    main()
