"""The reward stage: responses of the SFT model → rankings → a model that scores responses."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from data.console import UserError
from data.dialogue import Pair, encode_completion, encode_prompt, heldout_pairs
from data.jsonl import read_texts
from data.run.card import Card
from data.run.folder import StageFolder, open_stage, run_corpus
from data.run.options import settings
from data.run.plots import curve, plot_curves
from data.run.record import read_parent
from data.run.writing import write_samples
from data.tokenizers import Tokenizer
from pretrain.machine import choose_device, compute_dtype, process_state
from reward.collect import choose_prompts, collect_rankings
from reward.config import RankingOptions, RewardModelConfig
from reward.evaluate import (
    evaluate_reward,
    judge_pairs,
    longer_wins,
    reliability,
    score_rankings,
)
from reward.gold.judge import GoldJudge
from reward.labeller import ScoreFunction, load_score_function
from reward.model import REWARD_CARD, RewardModel
from reward.rankings import (
    Ranking,
    ReadRankings,
    read_collected,
    read_rankings,
    split_by_prompt,
    write_pairs,
    write_rankings,
)
from reward.report import details, extremes, length_correlation, write_report
from reward.training.batches import JudgeBeginnings, Loss
from reward.training.fit import train_on_rankings
from sft.models.loading import load_causal_lm, quiet
from sft.models.sampling import sampler
from sft.pairs import corpus_pairs, split_prompts

SHOWN = 6
"""Prompts in samples.md."""
SCALE_PROMPTS = 96
"""Held-out prompts that are enough for the scale of the scores, within 4 %, where no held-out rankings are made."""

Options = TypeVar("Options", bound=RankingOptions)


class Rankings(NamedTuple):
    """What the stage learns from and is judged on."""

    training: list[Ranking]
    samples: list[Ranking]
    """SFT samples on held-out prompts, of the validation text (dev) or the user's file: the scale of the scores."""
    heldout: list[Ranking]
    """What the model is judged on: the user's own of a tenth of their prompts, after the samples unless replaced."""


class RankingStage(Generic[Options]):
    """A run of a stage that has replies ranked and trains a reward model on them: the parent, the text, the course."""

    card: Card
    loss: Loss = "pairs"
    judge: JudgeBeginnings | None = None
    beginnings_coef = 0.0
    in_order = False
    score: ScoreFunction
    """What the replies that are sampled are ranked by."""

    def __init__(self, config: Options) -> None:
        config.validate()
        self.state = process_state(choose_device(config.device))
        self.device = self.state.device
        self.parent = read_parent(config.run, "sft")
        self.parent_folder = config.run / "sft"
        self.dtype = compute_dtype(config.precision, self.device)
        policy: Any = load_causal_lm(self.parent_folder, self.device, role="sft model")
        self.policy = sampler(policy)  # how the model is to be read is found out in float32
        # On a CPU bfloat16 samples no faster, and its kernels for every size of a shrinking batch take gigabytes.
        if self.device.type != "cpu":
            policy.to(self.dtype)
        self.config = config.resolved(self.parent, self.policy.context_length)
        self.config.micro_batches(self.state.num_processes)  # what cannot be divided is refused before anything is made
        self.tokenizer = Tokenizer.load(self.parent_folder)
        self.corpus = run_corpus(config.run, self.parent)
        self.heldout = heldout_pairs(self.corpus.validation)

    def describe(self) -> str:
        """What is learned from, in a line."""
        raise NotImplementedError

    def collect(self, folder: StageFolder) -> Rankings:
        """Sample and rank, or read what an earlier process collected."""
        raise NotImplementedError

    def evaluate(self, folder: StageFolder, model: RewardModel, rankings: Rankings) -> dict[str, Any]:
        """Set the scale of the scores, judge the model on the held-out rankings, write plots and samples."""
        raise NotImplementedError

    def summary(self, results: dict[str, Any]) -> str:
        """What came out, in a few words."""
        raise NotImplementedError

    def make(self, name: str, preset: str, command: str | None = None, **settled: Any) -> Path:
        """The stage from beginning to end, left in the folder `name`; `settled`: more for the record's settings."""
        with open_stage(name, self.config, preset=preset, command=command, parent=self.parent) as stage:
            stage.config = settings(self.config) | settled
            stage.announce(f"{self.describe()} · {self._circumstances()}")
            times = [stage.seconds]
            rankings = self.collect(stage)
            times.append(stage.seconds)
            model = self.train(stage, rankings.training, rankings.heldout)
            times.append(stage.seconds)
            if self.state.is_main_process:
                results = stage.results = self.evaluate(stage, model, rankings)
                times.append(stage.seconds)
                # Of this process, where the stage was resumed.
                parts = zip(("collect", "train", "evaluate"), pairwise(times), strict=True)
                results["seconds"] = {part: round(end - begin, 1) for part, (begin, end) in parts}
                with quiet():
                    model.model.save_pretrained(stage.path)
                self.tokenizer.save(stage.path, self.policy.context_length)
                stage.summary, stage.card = self.summary(results), self.card
        return stage.final

    def _circumstances(self) -> str:
        prompt, response = self.config.lengths
        return (
            f"{self.corpus.name} · prompts {prompt} + responses {response} tokens (as sft) · "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        )

    def sample(self, pairs: Sequence[Pair], seed: int, play_score: ScoreFunction | None = None) -> list[Ranking]:
        """Ranked responses of the SFT model to the prompts of `pairs`."""
        name = f"sft {self.parent.weights_sha256[:12]}"
        return collect_rankings(self.policy, self.tokenizer, pairs, self.config, self.score, name, seed, play_score)

    def write(self, folder: StageFolder, rankings: Rankings) -> Rankings:
        """The rankings, written as files of the stage; none that is trained on is of a prompt kept for testing."""
        kept_out = {r.prompt for r in rankings.heldout} | {pair.prompt for pair in self.heldout.test}
        assert kept_out.isdisjoint(r.prompt for r in rankings.training), "a held-out prompt is trained on"
        if self.state.is_main_process:
            write_rankings(folder.path / "rankings.jsonl", rankings.training)
            write_pairs(folder.path / "pairs.jsonl", rankings.training)
            write_rankings(folder.path / "heldout.jsonl", rankings.heldout)
        self.state.wait_for_everyone()
        return rankings

    def train(self, folder: StageFolder, rankings: Sequence[Ranking], heldout: Sequence[Ranking] = ()) -> RewardModel:
        """Train from the SFT checkpoint, or from the trainer's last state if the folder has one.

        heldout: rankings that the model is judged on while it learns, if any.
        """
        return train_on_rankings(
            folder,
            self.parent_folder,
            self.config,
            rankings,
            heldout,
            loss=self.loss,
            judge=self.judge,
            beginnings_coef=self.beginnings_coef,
            in_order=self.in_order,
            state=self.state,
            dtype=self.dtype,
        )

    def write_figures(
        self, folder: StageFolder, heldout: Sequence[Ranking], by_ranking: Sequence[torch.Tensor]
    ) -> None:
        """Plots and samples. `by_ranking`: the scores of the held-out."""
        metrics, pairs = folder.read_metrics(), self.loss != "plackett-luce"
        plot_curves(
            folder.path / "loss.png",
            {
                f"loss (nats per {'pair' if pairs else 'response'})": curve(metrics, "step", "loss"),
                "pairs ordered right": curve(metrics, "step", "accuracy"),
            },
            xlabel="optimizer step",
            ylabel="on the batch, before its step",
            title="Training the reward model",
            floor=("loss of a coin", math.log(2)) if pairs else None,
        )
        write_samples(
            folder.path / "samples.md",
            "Held-out responses, as labelled and as the reward model scores them",
            map(sample_section, heldout[:SHOWN], by_ranking[:SHOWN]),
        )


class RewardStage(RankingStage[RewardModelConfig]):
    """One run of the stage."""

    card = REWARD_CARD

    def __init__(self, config: RewardModelConfig) -> None:
        super().__init__(config)
        self.loss = config.loss
        self.gold = GoldJudge(self.corpus.train)
        self.score = self.gold if config.score == "gold" else load_score_function(config.score)
        self.play_score = self._score_of_play if config.score == "gold" else self.score
        self.training, self.dev = self._choose_prompts()
        kept_out = frozenset(pair.prompt for pair in (*self.dev, *self.heldout.dev, *self.heldout.test))
        self.own, self.own_training, self.own_heldout = own_rankings(
            self.config, self.config.lengths, self.tokenizer, kept_out
        )

    @property
    def replaced(self) -> bool:
        """Whether the user's own rankings take the place of scored ones."""
        return bool(self.config.rankings) and self.config.rankings_use == "replace"

    def describe(self) -> str:
        config = self.config
        play = " and the play's own" if config.include_play and config.prompts is None else ""
        prompts = f"{len(self.training)} prompts" + (f" of {config.prompts}" if config.prompts else "")
        source = f"{config.responses} responses{play} to {prompts}, ranked by {config.score}"
        if config.rankings:
            own = (
                f"{len(self.own_training) + len(self.own_heldout)} rankings of your own "
                f"({self.own.cut} replies cut, {self.own.dropped} left out, {self.own.repeated} judgements repeated)"
            )
            source = own if config.rankings_use == "replace" else f"{source}, and {own}"
        return source

    def collect(self, folder: StageFolder) -> Rankings:
        """Sample and rank, or read what an earlier process collected."""
        config = self.config
        kept = folder.resume_path / "collected"
        if not (kept / ("dev.jsonl" if self.replaced else "training.jsonl")).exists():
            dev = self.sample(self.dev[:SCALE_PROMPTS] if self.replaced else self.dev, config.seed + 1)
            kept_out = {ranking.prompt for ranking in self.own_heldout}
            wanted = [] if self.replaced else [pair for pair in self.training if pair.prompt not in kept_out]
            training = self.sample(wanted, config.seed + 2, self.play_score if config.include_play else None)
            if self.state.is_main_process:
                kept.mkdir(parents=True, exist_ok=True)
                write_rankings(kept / "dev.jsonl", dev)
                if training:
                    write_rankings(kept / "training.jsonl", training)
                folder.save_seconds()
        else:
            dev = read_collected(kept / "dev.jsonl")
            training = [] if self.replaced else read_collected(kept / "training.jsonl")
        heldout = self.own_heldout if self.replaced else dev + self.own_heldout
        return self.write(folder, Rankings(training + self.own_training, dev, heldout))

    def evaluate(self, folder: StageFolder, model: RewardModel, rankings: Rankings) -> dict[str, Any]:
        """Set the scale of the scores, judge the model on the held-out rankings, write plots and samples."""
        config = self.config
        of_samples = score_rankings(model, rankings.samples, normalise=False)
        model.set_normalisation(of_samples.mean().item(), of_samples.std().item())
        of_own = score_rankings(model, self.own_heldout)
        scores = of_own if self.replaced else torch.cat([model.normalised(of_samples), of_own])
        metrics = evaluate_reward(
            model, rankings.heldout, config.label_temperature, longer_wins(rankings.training), scores
        )
        terms = [self.gold.terms(r.prompt, text) for r in rankings.samples for text in r.completions]
        prompt, response = config.lengths
        play = [
            (encode_prompt(self.tokenizer, pair.prompt, prompt), reply.ids)
            for pair in self.dev[: len(rankings.samples)]
            if pair.completion and (reply := encode_completion(self.tokenizer, pair.completion, response))
        ]
        metrics |= {
            "prompts": len({r.prompt for r in rankings.training}),
            "completions": sum(len(r.completions) for r in rankings.training),
            "pairs": sum(len(r.pairs()) for r in rankings.training),
            "replies_cut": self.own.cut,
            "replies_dropped": self.own.dropped,
            "rankings_repeated": self.own.repeated,
            "heldout_rankings": metrics.pop("rankings"),
            "heldout_pairs": metrics.pop("pairs"),
            "reward_mean": model.mean,
            "reward_std": model.std,
            "play_score": round(model.score(play).mean().item(), 5) if play else None,
            "stopped": round(fmean(stop for r in rankings.samples for stop in r.stopped), 5),
            "gold": {name: round(fmean(term[name] for term in terms), 5) for name in terms[0]}
            | {"score": round(fmean(self.gold.score(term) for term in terms), 5)},
        }
        by_ranking = scores.split([len(r.completions) for r in rankings.heldout])
        self.write_figures(folder, rankings.heldout, by_ranking)
        self._write_report(folder, model, rankings, by_ranking, model.normalised(of_samples), metrics)
        return metrics

    def _write_report(
        self,
        folder: StageFolder,
        model: RewardModel,
        rankings: Rankings,
        by_ranking: Sequence[torch.Tensor],
        of_samples: torch.Tensor,
        metrics: dict[str, Any],
    ) -> None:
        """report.html, and what it shows more than `metrics`, which get it. `by_ranking`: scores of the held-out."""
        judged = judge_pairs(rankings.heldout, [each.tolist() for each in by_ranking])
        lengths = [len(ids) for r in rankings.samples for ids in r.completion_ids]
        test_prompts = frozenset(pair.prompt for pair in self.heldout.test)
        ceiling = metrics["accuracy_ceiling"]
        metrics["length_correlation"] = length_correlation(of_samples.tolist(), lengths)
        metrics["details"] = details(judged, rankings.training, rankings.heldout, test_prompts, ceiling, self.gold)
        rewards = [each.tolist() for each in of_samples.split([len(r.completions) for r in rankings.samples])]
        write_report(
            folder.path / "report.html",
            metrics,
            self.parent.corpus,
            reliability(model, rankings.heldout, by_ranking),
            folder.read_metrics(),
            extremes(rankings.samples, rewards, self.gold),
        )

    def summary(self, results: dict[str, Any]) -> str:
        if not results["heldout_pairs"]:
            return "too few rankings to hold any out: nothing says how good the model is"
        ceiling = results["accuracy_ceiling"]
        return (
            f"{results['heldout_accuracy']:.3f} of {results['heldout_pairs']} held-out pairs right"
            f"{f' where {ceiling:.3f} is the most that the labels allow' if ceiling else ''} · "
            f"length alone {results['length_baseline']:.3f}"
        )

    def _score_of_play(self, prompt: str, reply: str) -> float:
        """The gold judge's score without its gate against copying: the play's reply *is* in the training text."""
        return self.gold.score(self.gold.terms(prompt, reply) | {"originality": 1.0})

    def _choose_prompts(self) -> tuple[list[Pair], list[Pair]]:
        """(training, held out): of the user's file, without replies, or of the corpus's dialogue."""
        config = self.config
        if config.prompts is None:
            pairs, dev = corpus_pairs(self.corpus, "prompts with --prompts FILE.jsonl")
        else:
            parts = split_prompts(
                config.prompts, read_texts(config.prompts, "prompt", check=self.tokenizer.check), config.seed
            )
            pairs, dev = ([Pair(prompt, "") for prompt in part] for part in parts)
        kept_out = frozenset(pair.prompt for pair in (*self.heldout.dev, *self.heldout.test))
        training = choose_prompts(pairs, config.n_prompts, config.seed, kept_out)
        if not training:
            raise UserError(f"{config.prompts}: all prompts are held out, for the comparison of the stages: add others")
        return training, dev[: config.n_heldout]


def own_rankings(
    config: RewardModelConfig, lengths: tuple[int, int], tokenizer: Tokenizer, kept_out: frozenset[str]
) -> tuple[ReadRankings, list[Ranking], list[Ranking]]:
    """(all, for training, held out) of the rankings in the files of `config`; no prompt of `kept_out` is trained on.

    lengths: of the longest prompt and response. UserError for files from which nothing can be learned.
    """
    if not config.rankings:
        return ReadRankings([], 0, 0), [], []
    own = read_rankings(config.rankings, tokenizer, *lengths, config.weights)
    files = " ".join(config.rankings)
    if not any(ranking.pairs() for ranking in own.rankings):
        raise UserError(
            f"{files}: none of {len(own.rankings)} rankings says anything, since no reply is placed above another: "
            "rank replies without ties"
        )
    training, held_out = split_by_prompt(own.rankings, kept_out)
    if config.rankings_use == "replace" and not any(ranking.pairs() for ranking in training):
        raise UserError(
            f"{files}: all rankings that say something are of prompts that the run keeps for testing: rank replies to "
            "other prompts, or add --rankings-use mix"
        )
    return own, training, held_out


def train_reward(config: RewardModelConfig, preset: str, command: str | None = None) -> Path:
    """Make the reward model of RUN/sft and leave it in RUN/reward; returns that folder.

    `command` makes the stage, where that is not `python -m reward PRESET`.
    """
    return RewardStage(config).make("reward", preset, command)


def sample_section(ranking: Ranking, rewards: torch.Tensor) -> tuple[str, list[tuple[str, str]]]:
    """A prompt with its responses: the label's place, the annotator's score, the reward model's."""
    texts = [("", ranking.prompt)]
    places = {index: f"place {place}" for place, group in enumerate(ranking.ranking, 1) for index in group}
    places |= {index: "not placed" for index in range(len(ranking.completions)) if index not in places}
    for index, place in places.items():
        gold = f" · {ranking.annotator} {ranking.scores[index]:.3f}" if ranking.scores else ""
        end = "" if ranking.stopped[index] else " · did not stop"
        caption = f"**{place}**{gold} · reward {rewards[index].item():+.2f}{end}"
        texts.append((caption, ranking.completions[index]))
    return "Prompt", texts
