"""The comparison at the end: pretrained, SFT, aligned and the play's own reply on held-out prompts.

python -m rlhf.compare --run runs/mine

Every stage writes one reply to every prompt; the critic, the reward model and plain counting judge them. What
is measured is in `rlhf/measures.py`, the page that shows it is made by `rlhf/report.py`. The results are
`compare.json`, `samples.md` and `report.html` in RUN/compare.
"""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
import tyro
from accelerate import PartialState
from rich import box
from rich.table import Table

from data.console import UserError, console, run_command
from data.corpus import Corpus
from data.dialogue import Pair, encode_completion, encode_prompt, heldout_pairs
from data.tokenizers import Tokenizer
from pretrain.checkpoint import load_model
from pretrain.model import GPT
from pretrain.progress import progress_bar
from pretrain.sampling import generate
from pretrain.stage import (
    StageOptions,
    StageRecord,
    announce,
    check_descends,
    open_stage,
    parent_corpus,
    parent_of,
    read_parent,
    read_stage,
    settings,
)
from reward.critic import Critic
from reward.labeller import accuracy_ceiling, rank, ranking_to_pairs
from reward.model import RewardModel
from rlhf.measures import cut_at_blank_line, diversity, mean_interval, response_logprobs, win_rate, word_count
from rlhf.report import write_report

STAGES = ("pretrain", "sft", "rlhf", "play")
COMPARISONS = {
    "rlhf_vs_sft": ("rlhf", "sft"),
    "rlhf_vs_pretrain": ("rlhf", "pretrain"),
    "sft_vs_pretrain": ("sft", "pretrain"),
    "rlhf_vs_play": ("rlhf", "play"),
    "sft_vs_play": ("sft", "play"),
    "sft_vs_sft": ("sft_again", "sft"),
    "sft_t07_vs_sft": ("sft_t07", "sft"),
    "best_of_4_vs_sft": ("best_of_4", "sft"),
    "rlhf_vs_sft_t07": ("rlhf", "sft_t07"),
    "rlhf_vs_best_of_4": ("rlhf", "best_of_4"),
    "rlhf_critic_vs_sft": ("rlhf_critic", "sft"),
    "rlhf_critic_vs_rlhf": ("rlhf_critic", "rlhf"),
}
"""Who is compared with whom; the first is the one whose wins are counted."""
CANDIDATES = 4
"""Replies a prompt for best-of-n and for the reward model's accuracy on the aligned policy's replies."""
DIVERSITY_WORDS = 4000
"""Words of every source that diversity is measured on, or as many as the shortest source has."""
BATCH = 256
"""Rows sampled at once."""


@dataclass(kw_only=True)
class CompareOptions(StageOptions):
    """Compare the stages of a run on held-out prompts."""

    split: Literal["test", "dev"] = "test"
    """test: prompts that no choice was tuned on. dev: for tuning."""
    prompts: int | None = None
    """Use only the first so many prompts of the split; by default all."""


@dataclass
class Replies:
    """One reply to every prompt."""

    texts: list[str]
    ids: list[list[int]]
    """Tokens as the reward model reads them; `<|endoftext|>` is among them where the reply has ended."""
    stopped: list[bool]
    kl: float | None = None
    """Nats a sequence from the SFT model; None where nothing was sampled from a model."""
    critic: list[float] = field(default_factory=list)
    terms: list[dict[str, float]] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)


class Writer:
    """Has models write replies to the prompts, each source with random numbers of its own."""

    def __init__(
        self, tokenizer: Tokenizer, prompts: list[list[int]], response_length: int, sft: GPT, seed: int
    ) -> None:
        self.tokenizer, self.prompts, self.response_length = tokenizer, prompts, response_length
        self.sft, self.seed = sft, seed

    def sample(self, model: GPT, draw: int, temperature: float = 1.0) -> list[list[int]]:
        """One continuation of every prompt, as token ids; `draw` numbers the random stream."""
        generator = torch.Generator(model.device).manual_seed(self.seed * 1_000_003 + draw)
        drawn: list[list[int]] = []
        for start in range(0, len(self.prompts), BATCH):
            drawn += generate(
                model,
                self.prompts[start : start + BATCH],
                max_new_tokens=self.response_length,
                temperature=temperature,
                stop_ids=[self.tokenizer.eos_id],
                generator=generator,
            )
        return drawn

    def write(self, model: GPT, draw: int, temperature: float = 1.0) -> Replies:
        """Replies of a model that ends them with `<|endoftext|>`."""
        ids = self.sample(model, draw, temperature)
        stopped = [reply[-1] == self.tokenizer.eos_id for reply in ids]
        replies = Replies([self.tokenizer.decode(reply) for reply in ids], ids, stopped)
        replies.kl = self.kl(model, ids, temperature)
        return replies

    def write_pretrained(self, model: GPT, draw: int) -> Replies:
        """Replies of a model that knows no `<|endoftext|>`: cut at the first blank line, which is its stopping.

        The KL is that of the tokens before the blank line, since the two models end a reply by different tokens.
        """
        drawn = self.sample(model, draw)
        cuts = [cut_at_blank_line(self.tokenizer.decode(ids)) for ids in drawn]
        before, ended = list(drawn), list(drawn)
        for i, (text, stop) in enumerate(cuts):
            if stop:
                before[i] = self._tokens_within(drawn[i], len(text))
                ended[i] = [*before[i], self.tokenizer.eos_id]
        return Replies([text for text, _ in cuts], ended, [stop for _, stop in cuts], self.kl(model, before))

    def read_play(self, pairs: Sequence[Pair]) -> Replies:
        """The play's own replies, cut like SFT's examples: at the last end of a sentence that fits."""
        ids, stopped = [], []
        for pair in pairs:
            fitting = encode_completion(self.tokenizer, pair.completion, self.response_length)
            stopped.append(fitting is not None)
            ids.append(fitting or self.tokenizer.encode(pair.completion)[: self.response_length])
        return Replies([self.tokenizer.decode(reply) for reply in ids], ids, stopped)

    def kl(self, model: GPT, ids: Sequence[Sequence[int]], temperature: float = 1.0) -> float:
        """KL(model ‖ SFT) in nats a sequence: the mean of log π(y) − log π_SFT(y) over the model's own y."""
        own = response_logprobs(model, self.prompts, ids, temperature)
        reference = response_logprobs(self.sft, self.prompts, ids)
        return fmean(a - b for a, b in zip(own, reference, strict=True))

    def _tokens_within(self, ids: list[int], characters: int) -> list[int]:
        count = next(n for n in range(len(ids), -1, -1) if len(self.tokenizer.decode(ids[:n])) <= characters)
        return ids[:count]


class Judge:
    """Scores replies by the critic and by the reward model."""

    def __init__(self, critic: Critic, reward: RewardModel, pairs: Sequence[Pair], prompts: list[list[int]]) -> None:
        self.critic, self.reward, self.pairs, self.prompts = critic, reward, pairs, prompts

    def rewards(self, ids: list[list[int]]) -> list[float]:
        scores = self.reward.score(list(zip(self.prompts, ids, strict=True)))
        return [round(score, 5) for score in scores.tolist()]

    def judge(self, replies: Replies) -> Replies:
        """Fill in `critic`, `terms` and `reward`."""
        replies.terms = [
            self.critic.terms(pair.prompt, text) for pair, text in zip(self.pairs, replies.texts, strict=True)
        ]
        replies.critic = [round(self.critic.score(terms), 6) for terms in replies.terms]
        replies.reward = self.rewards(replies.ids)
        return replies

    def best_of(self, candidates: Sequence[Replies]) -> Replies:
        """Of several replies to each prompt, the one that the reward model likes best.

        Its KL is the bound log n − (n − 1)/n (Beirami et al., arXiv 2401.01879), near which it lies.
        """
        n = len(candidates)
        best = [max(range(n), key=lambda k: candidates[k].reward[i]) for i in range(len(self.pairs))]
        chosen = Replies([], [], [], kl=math.log(n) - (n - 1) / n)
        for i, k in enumerate(best):
            for name in ("texts", "ids", "stopped", "critic", "terms", "reward"):
                getattr(chosen, name).append(getattr(candidates[k], name)[i])
        return chosen

    def accuracy(self, candidates: Sequence[Replies], temperature: float, seed: int) -> dict[str, float | int]:
        """How often the reward model agrees with the noisy labeller about two replies to one prompt.

        ceiling: what the critic itself would reach on these labels. by_length: what preferring the longer one
        reaches. against_critic: agreement with the critic without the labeller's noise.
        """
        rng, pairs = random.Random(seed), []
        for i, pair in enumerate(self.pairs):
            texts = [replies.texts[i] for replies in candidates]
            ranking = rank([replies.critic[i] for replies in candidates], temperature, rng, texts)
            pairs += [(i, a, b) for a, b in ranking_to_pairs(pair.prompt, texts, ranking)]
        if not pairs:
            return {"pairs": 0}

        def agreement(values: Sequence[Sequence[float]]) -> float:
            return fmean(_preference(values[a][i] - values[b][i]) for i, a, b in pairs)

        critic = [replies.critic for replies in candidates]
        apart = [(i, a, b) if critic[a][i] > critic[b][i] else (i, b, a) for i, a, b in pairs]
        apart = [(i, a, b) for i, a, b in apart if critic[a][i] != critic[b][i]]
        reward = [replies.reward for replies in candidates]
        return {
            "pairs": len(pairs),
            "accuracy": agreement(reward),
            "ceiling": accuracy_ceiling([(critic[a][i], critic[b][i]) for i, a, b in pairs], temperature),
            "by_length": agreement([[float(len(ids)) for ids in replies.ids] for replies in candidates]),
            "against_critic": fmean(_preference(reward[a][i] - reward[b][i]) for i, a, b in apart) if apart else 0.5,
            "label_temperature": temperature,
        }


def figures(replies: Replies, critic: Critic, words: int) -> dict[str, Any]:
    """Everything that is said of one source; diversity on its first `words` words."""
    score, reward = mean_interval(replies.critic), mean_interval(replies.reward)
    varied = diversity(replies.texts, words)
    copies = [critic.longest_copy(text) for text in replies.texts]
    counted = word_count(replies.texts)
    return {
        "n": len(replies.texts),
        "critic": score.mean,
        "critic_low": score.low,
        "critic_high": score.high,
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
        "unknown_words": sum(critic.unknown_words(text) for text in replies.texts) / max(1, counted),
        "longest_copy_mean": fmean(copies),
        "longest_copy_max": max(copies),
    }


def read_chain(run: Path) -> dict[str, StageRecord]:
    """The records of the stages that are compared, after checking that each was made from the one before."""
    rlhf = read_parent(run, "rlhf")
    records = {name: read_parent(run, name, rlhf.tokenizer_sha256) for name in ("pretrain", "sft", "reward")}
    records["rlhf"] = rlhf
    check_descends(records["sft"], records["pretrain"], run)
    check_descends(records["reward"], records["sft"], run)
    check_descends(rlhf, records["sft"], run)
    if (run / "rlhf-critic").exists():
        records["rlhf_critic"] = read_stage(run / "rlhf-critic")
        parent = records["rlhf_critic"].parent
        if parent is None or parent["sha256"] != records["sft"].weights_sha256:
            raise UserError(
                f"{run / 'rlhf-critic'} was made from another sft than the one in {run}: make it again, or remove it"
            )
    return records


def choose_pairs(corpus: Corpus, options: CompareOptions) -> list[Pair]:
    """The held-out pairs that are compared on (UserError where there are none)."""
    if options.prompts is not None and options.prompts < 1:
        raise UserError(f"--prompts must be at least 1, not {options.prompts}")
    pairs = getattr(heldout_pairs(corpus.validation), options.split)[: options.prompts]
    if not pairs:
        raise UserError(f"the validation split of '{corpus.name}' holds no dialogue to compare on: use a longer text")
    return pairs


def gather(run: Path, records: dict[str, StageRecord], corpus: Corpus, pairs: list[Pair], seed: int) -> dict[str, Any]:
    """Have every source reply and be judged: the figures of `compare.json`."""
    config, device = records["sft"].config, PartialState().device
    tokenizer = Tokenizer.load(run / "sft")
    prompts = [encode_prompt(tokenizer, pair.prompt, config["prompt_length"]) for pair in pairs]
    writer = Writer(tokenizer, prompts, config["response_length"], load_model(run / "sft", device), seed)
    judge = Judge(Critic(corpus.train), RewardModel.load(run / "reward", device), pairs, prompts)
    aligned = load_model(run / "rlhf", device)
    with progress_bar("compare", 6 + 2 * (CANDIDATES - 1) + ("rlhf_critic" in records)) as bar:

        def judged(replies: Replies) -> Replies:
            bar.advance(1, f"critic {fmean(judge.judge(replies).critic):.3f}")
            return replies

        sources = {
            "pretrain": judged(writer.write_pretrained(load_model(run / "pretrain", device), 0)),
            "sft": judged(writer.write(writer.sft, 1)),
            "rlhf": judged(writer.write(aligned, 2)),
            "play": judged(writer.read_play(pairs)),
            "sft_again": judged(writer.write(writer.sft, 3)),
            "sft_t07": judged(writer.write(writer.sft, 4, temperature=0.7)),
        }
        # The four candidates are none of the replies that best-of-4 is compared with.
        more = [judged(writer.write(writer.sft, 10 + k)) for k in range(1, CANDIDATES)]
        sources["best_of_4"] = judge.best_of([sources["sft_again"], *more])
        if "rlhf_critic" in records:
            model = load_model(run / "rlhf-critic", device)
            sources["rlhf_critic"] = judged(writer.write(model, 5))
        more = [judged(writer.write(aligned, 20 + k)) for k in range(1, CANDIDATES)]
    words = min(DIVERSITY_WORDS, *(word_count(replies.texts) for replies in sources.values()))
    measured = {name: figures(replies, judge.critic, words) for name, replies in sources.items()}
    accuracy = judge.accuracy([sources["rlhf"], *more], label_temperature(records["reward"]), seed)
    return {
        "stages": {name: measured[name] for name in STAGES},
        "controls": {name: measured[name] for name in measured if name not in STAGES},
        "win_rates": {
            name: win_rate(sources[first].critic, sources[second].critic)._asdict()
            for name, (first, second) in COMPARISONS.items()
            if first in sources and second in sources
        },
        "reward_model_on_aligned": accuracy,
        "diversity_words": words,
        "samples": [
            {"prompt": pair.prompt}
            | {name: sources[name].texts[i] for name in STAGES}
            | {"critic": {name: sources[name].critic[i] for name in STAGES}}
            | {"reward": {name: sources[name].reward[i] for name in STAGES}}
            for i, pair in enumerate(pairs)
        ],
    }


def compare(options: CompareOptions) -> Path:
    """Compare the stages of a run and leave the report in RUN/compare; returns that folder."""
    run = options.run
    records = read_chain(run)
    corpus = parent_corpus(records["rlhf"])
    pairs = choose_pairs(corpus, options)
    folder = open_stage("compare", options)
    announce("compare", f"{len(pairs)} held-out prompts ({options.split}) of {corpus.name}")
    inherited = {name: records["sft"].config[name] for name in ("prompt_length", "response_length")}
    record = StageRecord(
        stage="compare",
        preset=records["rlhf"].preset,
        config=settings(options) | inherited,
        parent=parent_of(records["rlhf"], run),
        corpus=records["rlhf"].corpus,
        seed=options.seed,
    )
    if PartialState().is_main_process:
        result = {
            "settings": record.config | {"prompts": len(pairs), "temperature": 1.0, "candidates": CANDIDATES},
            "corpus": record.corpus,
            **gather(run, records, corpus, pairs, options.seed),
            "made": {name: _made(each) for name, each in records.items()},
            "seconds": round(folder.seconds, 2),
        }
        record.results = {"win_rates": result["win_rates"], "stages": result["stages"]}
        (folder.path / "compare.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
        write_samples(folder.path / "samples.md", result["samples"][:10])
        write_report(folder.path / "report.html", result, run)
        print_table(result)
    folder.finish(record)
    announce("compare", f"{record.wall_seconds:.0f} s → {folder.final / 'report.html'}")
    return folder.final


def label_temperature(reward: StageRecord) -> float:
    """The noise of the labels that the reward model learned from, in units of the critic's score."""
    return float(reward.config["label_temperature"])


def write_samples(path: Path, samples: Sequence[dict[str, Any]]) -> None:
    """The first replies, in order and unselected."""
    parts = ["# The first held-out prompts, in order, unselected\n"]
    titles = {"play": "The play", "pretrain": "Pretrained", "sft": "SFT", "rlhf": "Aligned"}
    for number, sample in enumerate(samples, 1):
        parts.append(f"## {number}\n\n{_fenced(sample['prompt'])}\n")
        for name, title in titles.items():
            scores = f"critic {sample['critic'][name]:.2f}, reward {sample['reward'][name]:+.2f}"
            parts.append(f"**{title}** ({scores})\n\n{_fenced(sample[name])}\n")
    path.write_text("\n".join(parts), "utf-8")


def print_table(result: dict[str, Any]) -> None:
    """The figures that matter, on the terminal."""
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    for head in ("", "critic", "reward", "KL", "tokens", "stops", "distinct-2", "unknown", "copy"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for name, row in (result["stages"] | result["controls"]).items():
        kl = "" if row["kl_to_sft"] is None else f"{row['kl_to_sft']:.2f}"
        table.add_row(
            name, f"{row['critic']:.3f}", f"{row['reward']:+.2f}", kl, f"{row['tokens']:.0f}", f"{row['stopped']:.1%}",
            f"{row['distinct_2']:.3f}", f"{row['unknown_words']:.1%}", f"{row['longest_copy_mean']:.1f}",
        )  # fmt: skip
    console.print(table)
    for name, rate in result["win_rates"].items():
        console.print(f"  {name:22} {rate['rate']:.3f}  [{rate['low']:.3f}, {rate['high']:.3f}]")


def _made(record: StageRecord) -> dict[str, Any]:
    """How a stage was made, for the report."""
    values = asdict(record)
    kept = ("preset", "seed", "parent", "weights_sha256", "wall_seconds", "device", "git_commit", "versions", "results")
    return {name: values[name] for name in kept}


def _preference(margin: float) -> float:
    return 0.5 if margin == 0 else float(margin > 0)


def _fenced(text: str) -> str:
    return "```text\n" + text.strip("\n").replace("```", "'''") + "\n```"


def main() -> None:
    compare(tyro.cli(CompareOptions, description="Compare the stages of a run on held-out prompts."))


if __name__ == "__main__":
    run_command(main)
