"""The stage: replies under directions → rankings by the rule → a model that scores doing as told."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data.console import UserError
from data.dialogue import Pair
from data.directions.headings import directed, directions_of, last_speaker, split_prompt
from data.run.folder import StageFolder
from reward.collect import choose_prompts
from reward.evaluate import evaluate_reward, longer_wins, score_rankings
from reward.following.config import FollowingConfig
from reward.following.evaluate import agreement, by_kind, fit_probability, log_loss
from reward.following.rankings import PLAY, PlayRankings, draw_directions, follows, play_rankings
from reward.model import FOLLOWING_CARD, RewardModel
from reward.rankings import Ranking, read_collected, write_rankings
from reward.train import Rankings, RankingStage
from sft.directions import run_directions, usable_directions
from sft.pairs import corpus_pairs

STAGE, COMMAND = "following", "python -m reward.following PRESET"
KEPT = ("training", "samples", "play")
"""Files of what was collected, for a process that resumes."""


class FollowingStage(RankingStage[FollowingConfig]):
    """One run of the stage."""

    card = FOLLOWING_CARD
    loss = "calibrated"
    in_order = True  # so that a step sees the same replies under both prompts

    def __init__(self, config: FollowingConfig) -> None:
        super().__init__(config)
        self.beginnings_coef = config.beginnings_coef
        table = run_directions(self.parent)
        pairs, dev = corpus_pairs(self.corpus, "a text that has some, when pretraining")
        directions = usable_directions([spec for spec in table if spec.trained], pairs)
        if directions is None:
            raise UserError(
                f"{self.parent_folder} learned no directions, so there is nothing to follow: run "
                f"`{self.parent.command} --run {config.run} --directions built-in --overwrite` first"
            )
        self.directions, self.specs = directions, directions.specs
        kept_out = frozenset(pair.prompt for pair in (*self.heldout.dev, *self.heldout.test))
        pairs, dev = ([pair for pair in part if split_prompt(pair.prompt, ())[1]] for part in (pairs, dev))
        pairs = choose_prompts(pairs, len(pairs), config.seed, kept_out)
        self.replies = [pair.completion for pair in pairs]
        self.asked, self.training = pairs[: config.n_prompts], pairs[config.n_prompts :] or pairs
        self.dev = dev[: config.n_heldout]

    def score(self, prompt: str, reply: str) -> float:
        """1 for a reply that does all that the prompt asks, by the rule; 0 for any other."""
        return float(follows(directions_of(prompt, self.specs), reply))

    def judge(self, ranking: Ranking, ids: Sequence[int]) -> list[bool]:
        """Of each token of a reply whether the reply would follow if it ended there."""
        asked = directions_of(ranking.prompt, self.specs)
        return [follows(asked, self.tokenizer.decode([*ids[:end]])) for end in range(1, len(ids) + 1)]

    def describe(self) -> str:
        config = self.config
        sampled = f", {config.responses} responses to {len(self.asked)} prompts" if self.asked else ""
        return f"{config.n_play} rankings of {config.of_play} replies of the play{sampled}, by the rule"

    def collect(self, folder: StageFolder) -> Rankings:
        """Sample, make and rank, or read what an earlier process collected."""
        kept = folder.resume_path / "collected"
        if (kept / f"{KEPT[-1]}.jsonl").exists():
            training, samples, play = (read_collected(kept / f"{name}.jsonl") for name in KEPT)
        else:
            training, samples, play = self._new_rankings()
            if self.state.is_main_process:
                kept.mkdir(parents=True, exist_ok=True)
                for name, rankings in zip(KEPT, (training, samples, play), strict=True):
                    write_rankings(kept / f"{name}.jsonl", rankings)
                folder.save_seconds()
        heldout = [ranking for ranking in samples if ranking.pairs()] + play
        return self.write(folder, Rankings(training, samples, heldout))

    def _new_rankings(self) -> tuple[list[Ranking], list[Ranking], list[Ranking]]:
        """(training, SFT samples on held-out prompts, replies of the held-out play)."""
        config, seed = self.config, self.config.seed
        samples = self.sample(self.asking(self.dev, seed + 1), seed + 1)
        heldout = PlayRankings(
            self.directions, [pair.completion for pair in self.dev], self.tokenizer, config.lengths, seed + 2
        )
        play = play_rankings(heldout, self.dev, len(self.dev), config.of_play)
        maker = PlayRankings(self.directions, self.replies, self.tokenizer, config.lengths, seed, config.short_prompt)
        training = play_rankings(maker, self.training, config.n_play, config.of_play)
        if self.asked:
            sampled = self.sample(self.asking(self.asked, seed + 3), seed + 3)
            training = mixed(training, [ranking for ranking in sampled if ranking.pairs()], seed)
        return training, samples, play

    def asking(self, pairs: list[Pair], seed: int) -> list[Pair]:
        """The prompts with directions, drawn at random."""
        rng = random.Random(f"{seed} asking")
        return [
            Pair(directed(pair.prompt, draw_directions(self.directions, rng, last_speaker(pair.prompt))), "")
            for pair in pairs
        ]

    def evaluate(self, folder: StageFolder, model: RewardModel, rankings: Rankings) -> dict[str, Any]:
        """Set the scale of the scores and of the probability, judge the model, write plots and samples."""
        raw = score_rankings(model, rankings.samples, normalise=False)
        model.set_normalisation(raw.mean().item(), raw.std().item())
        of_samples, followed = model.normalised(raw), self._followed(rankings.samples)
        scale, bias = fit_probability(of_samples.tolist(), followed)
        model.set_probability(scale, bias)
        play = [ranking for ranking in rankings.heldout if ranking.policy == PLAY]
        telling = [ranking for ranking in rankings.heldout if ranking.policy != PLAY]
        scores = {name: score_rankings(model, part) for name, part in (("samples", telling), ("play", play))}
        of_heldout = torch.cat([*scores.values()])
        by_ranking = of_heldout.split([len(r.completions) for r in rankings.heldout])
        whole = evaluate_reward(model, rankings.heldout, None, longer_wins(rankings.training), of_heldout)
        agreed = {
            "samples": agreement(model.probability(of_samples), followed),
            "play": agreement(model.probability(scores["play"]), self._followed(play)),
        }
        parts = {
            name: evaluate_reward(model, part, scores=scores[name])
            for name, part in (("samples", telling), ("play", play))
        }
        self.write_figures(folder, rankings.heldout, by_ranking)
        return {
            "heldout_accuracy": whole["heldout_accuracy"],
            "length_baseline": whole["length_baseline"],
            "by_source": {name: part["heldout_accuracy"] for name, part in parts.items()},
            "by_kind": by_kind(rankings.heldout, by_ranking, self.specs),
            "agreement": {name: round(share, 5) for name, share in agreed.items()},
            "log_loss": round(log_loss(model.probability(of_samples), followed), 5),
            "followed": round(sum(followed) / len(followed), 5),
            "follow_scale": scale,
            "follow_bias": bias,
            "rankings": len(rankings.training),
            "prompts": len({r.prompt for r in rankings.training}),
            "completions": sum(len(r.completions) for r in rankings.training),
            "pairs": sum(len(r.pairs()) for r in rankings.training),
            "heldout_rankings": whole["rankings"],
            "heldout_pairs": whole["pairs"],
            "reward_mean": model.mean,
            "reward_std": model.std,
        }

    def _followed(self, rankings: Sequence[Ranking]) -> list[bool]:
        """What the rule says of every reply, in order."""
        return [bool(self.score(ranking.prompt, text)) for ranking in rankings for text in ranking.completions]

    def summary(self, results: dict[str, Any]) -> str:
        agreed = results["agreement"]["samples"]
        return (
            f"{results['heldout_accuracy']:.3f} of {results['heldout_pairs']} held-out pairs right · says as the rule "
            f"does of {agreed:.3f} of SFT's replies, of which {results['followed']:.2f} follow"
        )


def mixed(twins: list[Ranking], others: list[Ranking], seed: int) -> list[Ranking]:
    """The other rankings in random places among the twins, which stay together."""
    parts = [*(twins[place : place + 2] for place in range(0, len(twins), 2)), *([other] for other in others)]
    random.Random(f"{seed} order").shuffle(parts)
    return [ranking for part in parts for ranking in part]


def train_following(config: FollowingConfig, preset: str) -> Path:
    """Make the model of doing as told for RUN/sft and leave it in RUN/following; returns that folder."""
    stage = FollowingStage(config)
    return stage.make(STAGE, preset, COMMAND, directions=stage.parent.config["directions"])
