"""The comparison at the end: pretrained, SFT, aligned and the play's own reply on held-out prompts.

python -m rlhf.compare --run runs/mine

Every stage writes one reply to every prompt; the gold judge, the reward model and plain counting judge them. The
results are `compare.json`, `samples.md` and `report.html` in RUN/compare.
"""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
import tyro
from rich import box
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from data.console import UserError, console, run_command
from data.corpus import Corpus
from data.dialogue import Pair, encode_prompt, heldout_pairs
from data.run.folder import open_stage, run_corpus
from data.run.options import StageOptions
from data.run.progress import progress_bar
from data.run.record import StageRecord, check_descends, read_parent
from data.run.writing import write_samples
from data.tokenizers import Tokenizer
from pretrain.checkpoint import load_model
from pretrain.machine import choose_device, process_state
from reward.evaluate import evaluate_reward, reliability, score_rankings
from reward.gold.judge import FREE_COPY, GoldJudge
from reward.labeller import rank
from reward.model import RewardModel
from reward.rankings import Ranking
from rlhf.compare.report import write_report
from rlhf.judging.measures import diversity, mean_interval, win_rate, word_count
from rlhf.judging.replies import Replies, Writer
from rlhf.judging.sources import COMPARISONS, SOURCES, STAGES

CANDIDATES = 4
"""Replies a prompt for best-of-n and for the reward model's accuracy on the aligned policy's replies."""
CANDIDATE_PROMPTS = 256
"""Prompts of which so many candidates are sampled: these are controls, and most of the time."""
SHOWN = 10
"""Prompts in samples.md."""
DIVERSITY_WORDS = 4000
"""Words of every source that diversity is measured on, or as many as the shortest source has."""


@dataclass(kw_only=True)
class CompareOptions(StageOptions):
    """Compare the stages of a run on held-out prompts."""

    split: Literal["test", "dev"] = "test"
    """test: read here alone. dev: for tuning."""
    prompts: int | None = None
    """Use only the first so many prompts of the split; by default all."""


class Judge:
    """Scores replies by the gold judge and by the reward model."""

    def __init__(self, gold: GoldJudge, reward: RewardModel, pairs: Sequence[Pair], prompts: list[list[int]]) -> None:
        self.gold, self.reward, self.pairs, self.prompts = gold, reward, pairs, prompts

    def judge(self, replies: Replies) -> Replies:
        """Fill in `gold`, `terms` and `reward`; the replies may be to the first prompts only."""
        replies.terms = [
            self.gold.terms(pair.prompt, text) for pair, text in zip(self.pairs, replies.texts, strict=False)
        ]
        replies.gold = [round(self.gold.score(terms), 6) for terms in replies.terms]
        scores = self.reward.score(list(zip(self.prompts, replies.ids, strict=False)), batch_size=32)
        replies.reward = [round(score, 5) for score in scores.tolist()]
        return replies

    def best_of(self, candidates: Sequence[Replies]) -> Replies:
        """Of several replies to each prompt, the one that the reward model likes best.

        Its KL is the bound log n − (n − 1)/n (Beirami et al., arXiv 2401.01879), near which it lies.
        """
        n = len(candidates)
        best = [max(range(n), key=lambda k: candidates[k].reward[i]) for i in range(len(candidates[0].texts))]
        chosen = Replies([], [], [], kl=math.log(n) - (n - 1) / n)
        for i, k in enumerate(best):
            for name in ("texts", "ids", "stopped", "gold", "terms", "reward"):
                getattr(chosen, name).append(getattr(candidates[k], name)[i])
        return chosen

    def reward_model_figures(
        self, candidates: Sequence[Replies], policy: str, temperature: float, seed: int
    ) -> dict[str, Any]:
        """How well the reward model orders several replies of one policy to each prompt, and its calibration.

        Labels are made as in the reward stage: the gold judge's scores with noise of `temperature`.
        """
        rng, rankings = random.Random(seed), []
        for i, pair in enumerate(self.pairs[: len(candidates[0].texts)]):
            texts, scores = [each.texts[i] for each in candidates], [each.gold[i] for each in candidates]
            rankings.append(
                Ranking(
                    prompt=pair.prompt,
                    completions=texts,
                    stopped=[each.stopped[i] for each in candidates],
                    ranking=rank(scores, temperature, rng, texts),
                    annotator="gold",
                    policy=policy,
                    seed=seed,
                    prompt_ids=self.prompts[i],
                    completion_ids=[each.ids[i] for each in candidates],
                    scores=scores,
                )
            )
        scores_by_ranking = score_rankings(self.reward, rankings).split(len(candidates))
        bins = reliability(self.reward, rankings, scores_by_ranking)
        return evaluate_reward(self.reward, rankings, temperature) | {"calibration": [asdict(each) for each in bins]}


class RememberingRewardModel(RewardModel):
    """A reward model that scores no reply twice: the same ones are judged, picked from and evaluated on."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self.known: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}

    def score(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int = 64, normalise: bool = True
    ) -> Tensor:
        """See `RewardModel.score`."""
        if not normalise:
            return super().score(sequences, batch_size, normalise)
        keys = [(tuple(prompt), tuple(response)) for prompt, response in sequences]
        new = [key for key in dict.fromkeys(keys) if key not in self.known]
        if new:
            self.known |= zip(new, super().score(new, batch_size).tolist(), strict=True)
        return torch.tensor([self.known[key] for key in keys])


def figures(replies: Replies, gold: GoldJudge, words: int) -> dict[str, Any]:
    """Everything that is said of one source; diversity on its first `words` words.

    copying: share of replies with more than FREE_COPY words in a row as they stand in the training text.
    """
    score, reward = mean_interval(replies.gold), mean_interval(replies.reward)
    varied = diversity(replies.texts, words)
    copies = [gold.longest_copy(text) for text in replies.texts]
    counted = word_count(replies.texts)
    return {
        "n": len(replies.texts),
        "gold": score.mean,
        "gold_low": score.low,
        "gold_high": score.high,
        "terms": {name: fmean(terms[name] for terms in replies.terms) for name in replies.terms[0]},
        "reward": reward.mean,
        "reward_low": reward.low,
        "reward_high": reward.high,
        "kl_to_sft": replies.kl,
        "tokens": fmean(len(ids) for ids in replies.ids),
        "words": counted / len(replies.texts),
        "stopped": fmean(replies.stopped),
        "distinct_1": varied.distinct_1,
        "distinct_2": varied.distinct_2,
        "vocabulary": varied.vocabulary,
        "unknown_words": sum(gold.unknown_words(text) for text in replies.texts) / max(1, counted),
        "longest_copy_mean": fmean(copies),
        "longest_copy_max": max(copies),
        "copying": fmean(copy > FREE_COPY for copy in copies),
    }


def read_chain(run: Path) -> dict[str, StageRecord]:
    """The records of the stages that are compared, after checking that each was made from the one before."""
    rlhf = read_parent(run, "rlhf")
    tokenizer = rlhf.tokenizer_sha256
    records = {name: read_parent(run, name, tokenizer_sha256=tokenizer) for name in ("pretrain", "sft", "reward")}
    records["rlhf"] = rlhf
    check_descends(records["sft"], records["pretrain"], run)
    check_descends(records["reward"], records["sft"], run)
    check_descends(rlhf, records["sft"], run)
    if (run / "rlhf-gold").exists():
        records["rlhf_gold"] = read_parent(run, "rlhf-gold", "python -m rlhf PRESET --reward gold")
        check_descends(records["rlhf_gold"], records["sft"], run)
    return records


def choose_pairs(corpus: Corpus, options: CompareOptions) -> list[Pair]:
    """The held-out pairs that are compared on (UserError where there are none)."""
    if options.prompts is not None and options.prompts < 1:
        raise UserError(f"--prompts must be at least 1, not {options.prompts}")
    pairs = getattr(heldout_pairs(corpus.validation), options.split)[: options.prompts]
    if not pairs:
        raise UserError(f"the validation split of '{corpus.name}' holds no dialogue to compare on: use a longer text")
    return pairs


def gather(
    options: CompareOptions, records: dict[str, StageRecord], corpus: Corpus, pairs: list[Pair], device: torch.device
) -> dict[str, Any]:
    """Have every source reply and be judged: the figures of `compare.json`."""
    run, config = options.run, records["sft"].config
    tokenizer = Tokenizer.load(run / "sft")
    prompts = [encode_prompt(tokenizer, pair.prompt, config["prompt_length"]) for pair in pairs]
    writer = Writer(tokenizer, prompts, config["response_length"], load_model(run / "sft", device), options.seed)
    judge = Judge(GoldJudge(corpus.train), RememberingRewardModel.load(run / "reward", device), pairs, prompts)
    aligned = load_model(run / "rlhf", device)
    some = min(CANDIDATE_PROMPTS, len(pairs))
    with progress_bar("compare", 6 + 2 * (CANDIDATES - 1) + ("rlhf_gold" in records)) as bar:

        def judged(replies: Replies) -> Replies:
            bar.advance(1, f"gold {fmean(judge.judge(replies).gold):.3f}")
            return replies

        sources = {
            "pretrain": judged(writer.write_pretrained(load_model(run / "pretrain", device), 0)),
            "sft": judged(writer.write(writer.sft, 1)),
            "rlhf": judged(writer.write(aligned, 2)),
            "original": judged(writer.read_original(pairs)),
            "sft_again": judged(writer.write(writer.sft, 3)),
            "sft_t07": judged(writer.write(writer.sft, 4, temperature=0.7)),
        }
        # None of the candidates is a reply that best-of-4 is compared with.
        candidates = {}
        for number, (name, model, one) in enumerate((("sft", writer.sft, "sft_again"), ("rlhf", aligned, "rlhf"))):
            more = [judged(writer.write_more(model, 10 * (number + 1) + k, count=some)) for k in range(1, CANDIDATES)]
            candidates[name] = [sources[one].first(some), *more]
        sources["best_of_4"] = judge.best_of(candidates["sft"])
        if "rlhf_gold" in records:
            model = load_model(run / "rlhf-gold", device)
            sources["rlhf_gold"] = judged(writer.write(model, 5))
    words = min(DIVERSITY_WORDS, *(word_count(replies.texts) for replies in sources.values()))
    measured = {name: figures(replies, judge.gold, words) for name, replies in sources.items()}
    temperature = float(records["reward"].config["label_temperature"])
    return {
        "stages": {name: measured[name] for name in STAGES},
        "controls": {name: measured[name] for name in measured if name not in STAGES},
        "win_rates": {
            name: _win_rate(sources[each.first].gold, sources[each.second].gold)
            for name, each in COMPARISONS.items()
            if each.first in sources and each.second in sources
        },
        "reward_model": {
            name: judge.reward_model_figures(replies, name, temperature, options.seed)
            for name, replies in candidates.items()
        },
        "diversity_words": words,
        "samples": [
            {"prompt": pair.prompt}
            | {name: sources[name].texts[i] for name in STAGES}
            | {"gold": {name: sources[name].gold[i] for name in STAGES}}
            | {"reward": {name: sources[name].reward[i] for name in STAGES}}
            for i, pair in enumerate(pairs)
        ],
    }


def compare(options: CompareOptions) -> Path:
    """Compare the stages of a run and leave the report in RUN/compare; returns that folder."""
    state, run = process_state(choose_device(options.device)), options.run
    records = read_chain(run)
    rlhf = records["rlhf"]
    corpus = run_corpus(run, rlhf)
    pairs = choose_pairs(corpus, options)
    with open_stage("compare", options, preset=rlhf.preset, command="python -m rlhf.compare", parent=rlhf) as stage:
        stage.announce(f"{len(pairs)} held-out prompts ({options.split}) of {corpus.name}")
        stage.config |= {name: records["sft"].config[name] for name in ("prompt_length", "response_length")}
        if state.is_main_process:
            result = {
                "settings": stage.config | {"prompts": len(pairs), "temperature": 1.0, "candidates": CANDIDATES},
                "corpus": rlhf.corpus,
                **gather(options, records, corpus, pairs, state.device),
                "made": {name: _made(each) for name, each in records.items()},
                "seconds": round(stage.seconds, 2),
            }
            stage.results = {"win_rates": result["win_rates"], "stages": result["stages"]}
            text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
            (stage.path / "compare.json").write_text(text, "utf-8")
            write_samples(
                stage.path / "samples.md",
                "The first held-out prompts, in order, unselected",
                map(sample_section, range(1, SHOWN + 1), result["samples"]),
            )
            write_report(stage.path / "report.html", result, run)
            print_table(result)
            stage.summary = f"report: {stage.final / 'report.html'}"
    return stage.final


def sample_section(number: int, sample: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """A prompt and every stage's reply to it, with its scores."""
    texts = [("", sample["prompt"])]
    for name in STAGES:
        scores = f"gold {sample['gold'][name]:.2f}, reward {sample['reward'][name]:+.2f}"
        texts.append((f"**{SOURCES[name].title}** ({scores})", sample[name]))
    return str(number), texts


def print_table(result: dict[str, Any]) -> None:
    """The figures that matter, on the terminal."""
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
    for name, rate in result["win_rates"].items():
        console.print(f"  {name:22} {rate['rate']:.3f}  [{rate['low']:.3f}, {rate['high']:.3f}]")


def _made(record: StageRecord) -> dict[str, Any]:
    """How a stage was made, for the report."""
    values = asdict(record)
    kept = (
        "preset", "seed", "parent", "weights_sha256", "wall_seconds", "peak_memory_gib", "device", "git_commit",
        "versions", "results",
    )  # fmt: skip
    return {name: values[name] for name in kept}


def _win_rate(first: list[float], second: list[float]) -> dict[str, Any]:
    """On the prompts that both have answered: best-of-4 answers fewer."""
    n = min(len(first), len(second))
    return win_rate(first[:n], second[:n])._asdict()


def main() -> None:
    compare(tyro.cli(CompareOptions, description="Compare the stages of a run on held-out prompts."))


if __name__ == "__main__":
    run_command(main)
