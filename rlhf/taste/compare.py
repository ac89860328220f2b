"""What a taste changed: the SFT model, the taste and the run's aligned model on prompts that no stage learned from.

The results are `compare.json`, `samples.md` and `report.html` in RUN/tastes/NAME/compare.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import PreTrainedModel

from data.console import console
from data.corpus import Corpus
from data.dialogue import Pair, encode_prompt
from data.jsonl import read_jsonl
from data.run.folder import announce, open_stage, run_corpus
from data.run.progress import progress_bar
from data.run.record import StageRecord, check_descends, read_parent, read_stage
from data.tokenizers import Tokenizer
from pretrain.machine import choose_device, process_state
from reward.gold.judge import GoldJudge
from reward.model import RewardModel
from reward.tastes import Taste, asks, load_taste
from rlhf.compare.report import one_digit
from rlhf.judging.judge import HeldoutOptions, Judge, choose_pairs, common_words, made_of, metrics_of, write_result
from rlhf.judging.metrics import mean_interval, win_rate
from rlhf.judging.replies import Replies, ReplySampler
from rlhf.judging.sources import SOURCES
from rlhf.judging.words import Estimate, Rate, prior_counts, what_changed
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.model import ModelReward
from rlhf.ppo.rewards.rules import Scorer, ScoreRules
from rlhf.taste.report import write_taste_report
from sft.models.loading import load_causal_lm

TASTE_DRAW = 6
"""Number of the taste's random stream; SFT and the aligned model say what they say in the run's own comparison."""
SCORED_AT_ONCE = 32
"""Rows of one forward pass of the reward model."""


@dataclass(kw_only=True)
class TasteCompareOptions(HeldoutOptions):
    """Compare a taste with the SFT model on held-out prompts."""

    name: str
    """Name of the taste: its stages are in RUN/tastes/NAME."""
    taste: str = ""
    """The built-in taste, or module:function, that the rankings came from; without one, what was liked is not known."""

    @property
    def folder(self) -> Path:
        return self.run / "tastes" / self.name


def compare_taste(options: TasteCompareOptions) -> Path:
    """Compare a taste with the SFT model and leave the report in RUN/tastes/NAME/compare; returns that folder.

    UserError where a stage of the taste is missing, or was made from another SFT model than the run's.
    """
    state, run, folder = process_state(choose_device(options.device)), options.run, options.folder
    command = f"python -m rlhf.taste --name {options.name}"
    rlhf = read_stage(folder / "rlhf", "rlhf", command)
    sft = read_parent(run, "sft", tokenizer_sha256=rlhf.tokenizer_sha256)
    reward = read_stage(folder / "reward", "reward", command)
    for record in (rlhf, reward):
        check_descends(record, sft, run)
    corpus = run_corpus(run, sft)
    pairs = choose_pairs(corpus, options.split, options.prompts)
    options = replace(options, into=folder)
    with open_stage("compare", options, preset=rlhf.preset, command=rlhf.command, parent=rlhf) as stage:
        stage.announce(f"{len(pairs)} held-out prompts ({options.split}) of {corpus.name}")
        stage.config |= {name: sft.config[name] for name in ("prompt_length", "response_length")}
        if state.is_main_process:
            result = {
                "settings": stage.config | {"prompts": len(pairs), "temperature": 1.0},
                "corpus": sft.corpus,
                **TasteGathering(options, sft, corpus, pairs, state.device).results(),
                "rankings": rankings_of(folder / "reward") | {"weights": reward.config.get("weights")},
                "craft": rlhf.config.get("craft", 0.0),
                "made": {"reward": made_of(reward), "rlhf": made_of(rlhf)},
                "seconds": round(stage.seconds, 2),
            }
            stage.results = {name: result[name] for name in ("stages", "win_rates", "words", "own")}
            write_result(stage.path / "compare.json", result, sample_section)
            write_taste_report(stage.path / "report.html", result, folder)
            print_changes(result)
            stage.summary = f"report: {stage.final / 'report.html'}"
    return stage.final


class TasteGathering:
    """Has the models reply to the prompts and be judged."""

    def __init__(
        self,
        options: TasteCompareOptions,
        sft: StageRecord,
        corpus: Corpus,
        pairs: list[Pair],
        device: torch.device,
    ) -> None:
        run, self.pairs, self.corpus, self.device = options.run, pairs, corpus, device
        tokenizer, texts = Tokenizer.load(run / "sft"), [pair.prompt for pair in pairs]
        prompts = [Prompt(encode_prompt(tokenizer, text, sft.config["prompt_length"]), text) for text in texts]
        reward = ModelReward(RewardModel.load(options.folder / "reward", device).model, SCORED_AT_ONCE)
        scorer = Scorer(reward, frozenset([tokenizer.eos_id]), ScoreRules("subtract", 0.0, None))
        self.sft = load_causal_lm(run / "sft", device)
        self.judge = Judge(GoldJudge(corpus.train), scorer, texts, prompts, self.sft)
        self.sampler = ReplySampler(tokenizer, prompts, sft.config["response_length"], options.seed)
        self.taste: Taste | None = load_taste(options.taste) if options.taste else None
        self.folders = {"sft": run / "sft", "taste": options.folder / "rlhf"}
        if has_aligned(run, sft):
            self.folders["rlhf"] = run / "rlhf"

    def results(self) -> dict[str, Any]:
        """The metrics of `compare.json`."""
        replies = {}
        with progress_bar("compare", len(self.folders)) as bar:
            for name, folder in self.folders.items():
                replies[name] = self.reply(name, folder)
                bar.advance(1, f"gold {fmean(replies[name].gold):.3f}")
        words = common_words([*replies.values()])
        order = [name for name in ("sft", "rlhf", "taste") if name in replies]
        changes = what_changed(replies["sft"], replies["taste"], prior_counts(self.corpus), self._has())
        gold = {name: replies[name].gold for name in order}
        own = self._own(replies["sft"], replies["taste"], changes.rates[0])
        return {
            "stages": {name: metrics_of(replies[name], self.judge.gold, words) for name in order},
            "win_rates": {f"taste_vs_{other}": win_rate(gold["taste"], gold[other])._asdict() for other in order[:-1]},
            "diversity_words": words,
            "words": changes.to_json(),
            "own": asdict(own) if own else None,
            "samples": [
                {"prompt": pair.prompt}
                | {name: replies[name].texts[i] for name in order}
                | {"gold": {name: replies[name].gold[i] for name in order}}
                | {"reward": {name: replies[name].reward[i] for name in order}}
                for i, pair in enumerate(self.pairs)
            ],
        }

    def reply(self, name: str, folder: Path) -> Replies:
        """A model's replies to all prompts, judged, and their KL from the SFT model."""
        lm: PreTrainedModel = self.sft if name == "sft" else load_causal_lm(folder, self.device)
        replies = self.sampler.sample(lm, TASTE_DRAW if name == "taste" else SOURCES[name].draw)
        replies.kl = self.judge.kl(lm, replies)
        return self.judge.judge(replies)

    def _has(self) -> dict[str, Callable[[str], bool]]:
        """What the taste likes, as a share of replies by name."""
        if self.taste is None or self.taste.has is None:
            return {}
        return {"ends with a question" if self.taste.has is asks else self.taste.title: self.taste.has}

    def _own(self, before: Replies, after: Replies, first: Rate) -> Rate | None:
        """What the taste's own rule says: the share that has what it likes, the `first` rate, or the mean score."""
        if self.taste is None:
            return None
        if self.taste.has is not None:
            return replace(first, name=self.taste.title)
        texts, score = self.judge.texts, self.taste.score
        means = [Estimate(*mean_interval([*map(score, texts, replies.texts)])) for replies in (before, after)]
        return Rate(self.taste.title, False, *means)


def has_aligned(run: Path, sft: StageRecord) -> bool:
    """Whether the run has an aligned model of this SFT model; one of another is said and left out."""
    if not (run / "rlhf").exists():
        return False
    rlhf = read_parent(run, "rlhf")
    fits = rlhf.parent is not None and rlhf.parent["sha256"] == sft.weights_sha256
    if not fits:
        announce("compare", f"{run / 'rlhf'} was made from another sft, so it is left out")
    return fits


def rankings_of(reward: Path) -> dict[str, Any]:
    """How many rankings a reward stage learned from or was judged by, and whose; `telling` ones have an order."""
    files = [path for path in (reward / "rankings.jsonl", reward / "heldout.jsonl") if path.exists()]
    rows = [row for path in files if path.stat().st_size for row in read_jsonl(path, {"ranking": list[list[int]]})]
    annotators = Counter(str(row.get("annotator", "unknown")) for row in rows)
    telling = sum(len(row["ranking"]) > 1 for row in rows)
    return {"count": len(rows), "telling": telling, "annotators": dict(annotators.most_common())}


def sample_section(number: int, sample: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """A prompt and every model's reply to it, with its scores."""
    texts = [("", sample["prompt"])]
    for name, gold in sample["gold"].items():
        title = "the taste" if name == "taste" else SOURCES[name].title
        scores = f"gold {gold:.2f}, the taste's reward {sample['reward'][name]:+.2f}"
        texts.append((f"**{title}** ({scores})", sample[name]))
    return str(number), texts


def print_changes(result: Mapping[str, Any]) -> None:
    """What changed, on the terminal."""
    sft, taste, words = result["stages"]["sft"], result["stages"]["taste"], result["words"]
    for kind in ("more", "less"):
        if words[kind]:
            console.print(f"  {kind} often: " + "  ".join(use["word"] for use in words[kind][:12]), markup=False)
    if own := result["own"]:
        console.print(f"  {own['name']}: {own['before']['value']:.3f} → {own['after']['value']:.3f}", markup=False)
    console.print(
        f"  gold {sft['gold']:.3f} → {taste['gold']:.3f} · distinct-2 {sft['distinct_2']:.3f} → "
        f"{taste['distinct_2']:.3f} · words {sft['words']:.1f} → {taste['words']:.1f} · "
        f"KL {one_digit(taste['kl_to_sft'])}"
    )
