"""The algorithms of a run beside each other: one table, and one plot of reward against KL.

python -m rlhf.algorithms --run runs/mine

Every model that `python -m rlhf PRESET --algorithm …` has left in the run replies to the held-out prompts, and so
does best-of-n, whose candidates the reward chooses from. The gold judge, the reward and plain counting judge them, as
in `rlhf.compare`. The results are `algorithms.json`, `table.md`, `reward_kl.png` and `samples.md` in RUN/algorithms.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import tyro

from data.console import UserError, run_command
from data.dialogue import Pair
from data.run.folder import open_stage
from data.run.progress import progress_bar
from data.run.record import StageRecord, check_descends, read_parent, read_stage
from data.run.writing import write_samples
from pretrain.checkpoint import load_model
from pretrain.machine import choose_device, process_state
from rlhf.algorithms.best_of_n import Candidates
from rlhf.algorithms.budget import sampled_tokens
from rlhf.algorithms.config import AlignOptions
from rlhf.algorithms.table import SHOWN, learning_path, markdown_table, print_table, reward_kl_plot, sample_section
from rlhf.algorithms.task import Alignment
from rlhf.compare.__main__ import DIVERSITY_WORDS, CompareOptions, choose_pairs, figures
from rlhf.judging.measures import win_rate, word_count
from rlhf.judging.replies import Replies, Writer
from rlhf.ppo.rewards import Scorer, ScoreRules

MODELS = {"rlhf": "PPO", "rlhf-rloo": "RLOO", "rlhf-grpo": "GRPO"}
"""The stages that leave a model, and what they are called."""
BEST_OF_N = "rlhf-best-of-n"
SAME = ("reward", "reward_sha256", "temperature", "missing_eos_rule", "missing_eos_penalty", "score_clip")
"""Settings without which a comparison would not be one."""


@dataclass(kw_only=True)
class AlgorithmsOptions(CompareOptions):
    """Compare the algorithms of a run on held-out prompts."""


@dataclass
class Source:
    """One row of the table: who replied, what it took to learn and what a reply takes."""

    name: str
    replies: Replies
    reply_tokens: float
    """Tokens sampled for one reply: with best-of-n, those of all n."""
    reply_seconds: float
    learning_tokens: int = 0
    learning_seconds: float = 0.0


def read_records(run: Path, sft: StageRecord) -> dict[str, StageRecord]:
    """The records of the algorithms that have been run, after checking that they can be compared (UserError)."""
    found = [name for name in (*MODELS, BEST_OF_N) if (run / name).is_dir()]
    if not found:
        raise UserError(
            f"{run} holds none of {', '.join((*MODELS, BEST_OF_N))}: run `python -m rlhf PRESET --run {run}`, "
            "with --algorithm for others than PPO"
        )
    records = {name: read_stage(run / name, name, command_of(name)) for name in found}
    first = records[found[0]]
    for name, record in records.items():
        check_descends(record, sft, run)
        for setting in SAME:
            values = [each.config.get(setting) for each in (first, record)]
            if values[0] != values[1]:
                raise UserError(
                    f"{run / name} had {setting} {values[1]} and {run / found[0]} {values[0]}: they do not compare; "
                    "run one of them again with the other's"
                )
    return records


def command_of(name: str) -> str:
    """What makes the folder `name` of an algorithm."""
    return AlignOptions(algorithm=name.removeprefix("rlhf").lstrip("-") or "ppo").command  # type: ignore[arg-type]


class Comparison:
    """Has the SFT model, the aligned ones and best-of-n reply to the same prompts, and judges them."""

    def __init__(self, options: AlgorithmsOptions, records: Mapping[str, StageRecord]) -> None:
        config = next(iter(records.values())).config
        self.run, self.records = options.run, records
        self.room = Alignment(AlignOptions(run=options.run, seed=config["seed"], reward=config["reward"],
                                           eval_prompts=config["eval_prompts"]))  # fmt: skip
        rules = ScoreRules(config["missing_eos_rule"], config["missing_eos_penalty"], config["score_clip"])
        self.device = process_state(choose_device(options.device)).device
        self.scorer: Scorer = self.room.scorer(rules, self.device)
        self.pairs: list[Pair] = choose_pairs(self.room.corpus, options)
        lengths, tokenizer = self.room.config, self.room.tokenizer
        self.prompts = self.room.encoded([pair.prompt for pair in self.pairs])
        sft = load_model(options.run / "sft", self.device)
        self.writer = Writer(tokenizer, self.prompts, lengths.response_length, sft, options.seed)

    def sources(self) -> list[Source]:
        """Everybody's replies, judged."""
        models = [name for name in MODELS if name in self.records]
        ns = sorted(map(int, self.records[BEST_OF_N].results)) if BEST_OF_N in self.records else []
        with progress_bar("algorithms", 1 + len(models) + max(ns, default=0)) as bar:

            def judged(source: Source) -> Source:
                gold = self.room.gold
                texts = zip(self.pairs, source.replies.texts, strict=True)
                source.replies.terms = [gold.terms(pair.prompt, text) for pair, text in texts]
                source.replies.gold = [round(gold.score(terms), 6) for terms in source.replies.terms]
                bar.advance(0, f"{source.name}: gold {fmean(source.replies.gold):.3f}")
                return source

            found = [judged(self.from_model("SFT", self.writer.sft, draw=1))]
            bar.advance()
            for number, name in enumerate(models):
                source = self.from_model(MODELS[name], load_model(self.run / name, self.device), draw=2 + 4 * number)
                source.learning_tokens = sampled_tokens(self.run / name)
                source.learning_seconds = self.records[name].wall_seconds
                found.append(judged(source))
                bar.advance()
            candidates, started = (
                Candidates(self.writer, self.scorer, temperature=1.0, first_draw=100),
                time.monotonic(),
            )
            for n in ns:
                while len(candidates.ids) < n:
                    candidates.draw()
                    bar.advance()
                seconds, tokens = time.monotonic() - started, candidates.tokens
                if n > 1:  # the best of one is SFT again
                    count = len(self.pairs)
                    best = Source(f"best of {n}", candidates.best_of(n), tokens / count, seconds / count)
                    found.append(judged(best))
        return found

    def from_model(self, name: str, model: Any, draw: int) -> Source:
        """A model's replies with their KL and reward."""
        started = time.monotonic()
        replies = self.writer.write_more(model, draw)
        seconds = time.monotonic() - started
        replies.kl = 0.0 if model is self.writer.sft else self.writer.kl(model, replies.ids)
        replies.reward = self.scorer(self.prompts, replies.ids).raw.tolist()
        return Source(name, replies, fmean(map(len, replies.ids)), seconds / len(replies.ids))

    def rows(self, sources: Sequence[Source]) -> dict[str, dict[str, Any]]:
        """The figures of every source, by its name; the first is the one that the others are compared with."""
        words = min(DIVERSITY_WORDS, *(word_count(source.replies.texts) for source in sources))
        base = sources[0].replies.gold
        return {
            source.name: figures(source.replies, self.room.gold, words)
            | {
                "beats_sft": win_rate(source.replies.gold, base)._asdict() if source is not sources[0] else None,
                "learning_tokens": source.learning_tokens,
                "learning_seconds": source.learning_seconds,
                "reply_tokens": source.reply_tokens,
                "reply_seconds": source.reply_seconds,
            }
            for source in sources
        }


def compare_algorithms(options: AlgorithmsOptions) -> Path:
    """Compare the algorithms that were run and leave the result in RUN/algorithms; returns that folder."""
    run = options.run
    sft = read_parent(run, "sft")
    records = read_records(run, sft)
    comparison = Comparison(options, records)
    first = next(iter(records.values()))
    with open_stage(
        "algorithms", options, preset=first.preset, command="python -m rlhf.algorithms", parent=sft
    ) as stage:
        stage.config |= {name: first.config.get(name) for name in SAME}
        stage.announce(f"{', '.join(records)} on {len(comparison.pairs)} held-out prompts ({options.split})")
        if process_state(comparison.device).is_main_process:
            sources = comparison.sources()
            rows = stage.results = comparison.rows(sources)
            samples = [
                {"prompt": pair.prompt} | {source.name: source.replies.texts[i] for source in sources}
                for i, pair in enumerate(comparison.pairs)
            ]
            result: dict[str, Any] = {
                "settings": stage.config | {"prompts": len(comparison.pairs)},
                "algorithms": rows,
                "samples": samples,
                "made": {
                    name: {"config": each.config, "git_commit": each.git_commit} for name, each in records.items()
                },
            }
            text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
            (stage.path / "algorithms.json").write_text(text, "utf-8")
            (stage.path / "table.md").write_text(markdown_table(rows), "utf-8")
            write_samples(
                stage.path / "samples.md",
                "The first held-out prompts, in order, unselected",
                map(sample_section, range(1, SHOWN + 1), samples),
            )
            paths = {MODELS[name]: learning_path(run / name) for name in records if name in MODELS}
            reward_kl_plot(stage.path / "reward_kl.png", rows, paths)
            print_table(rows)
    return stage.final


def main() -> None:
    compare_algorithms(tyro.cli(AlgorithmsOptions, description="Compare the algorithms of a run on held-out prompts."))


if __name__ == "__main__":
    run_command(main)
