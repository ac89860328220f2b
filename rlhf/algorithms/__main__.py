"""Compare the algorithms of a run in one table and one plot of reward against KL: python -m rlhf.algorithms --run RUN

Reads: every model that `python -m rlhf PRESET --algorithm …` has left in the run.

Does: has each of them reply to the held-out prompts, and best-of-n too, whose candidates the reward chooses from. The
gold judge, the reward and plain counts judge the replies, as in `rlhf.compare`.

Writes: `algorithms.json`, `table.md`, `reward_kl.png` and `samples.md` to RUN/algorithms (with --gold, of the models
trained on the gold judge, to RUN/algorithms-gold).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import PreTrainedModel

from data.console import UserError, run_command
from data.run.folder import open_stage
from data.run.options import command_line
from data.run.progress import progress_bar
from data.run.record import StageRecord, check_descends, read_parent, read_stage
from pretrain.machine import choose_device, process_state
from rlhf.algorithms import ALGORITHMS
from rlhf.algorithms.budget import learning_tokens
from rlhf.algorithms.config import AlignOptions
from rlhf.algorithms.table import learning_path, markdown_table, print_table, reward_kl_plot, sample_section
from rlhf.algorithms.task import NO_RULES, AlignmentTask
from rlhf.judging.judge import HeldoutOptions, choose_pairs, common_words, metrics_of, write_result
from rlhf.judging.metrics import win_rate
from rlhf.judging.replies import Replies, ReplySampler
from sft.models.loading import load_causal_lm

SAME = ("reward", "reward_sha256", "temperature", *NO_RULES._fields)
"""Settings in which the algorithms that have them must agree, or a comparison would not be one."""


@dataclass(kw_only=True)
class AlgorithmsOptions(HeldoutOptions):
    """Compare the algorithms of a run on held-out prompts."""

    gold: bool = False
    """Compare what was trained with --reward gold (RUN/rlhf-gold, RUN/rlhf-rloo-gold, …)."""


@dataclass
class Entry:
    """One row of the table: who replied, what it took to learn and what a reply takes."""

    name: str
    replies: Replies
    reply_tokens: float
    """Tokens sampled for one reply: with best-of-n, those of all n."""
    reply_seconds: float
    learning_tokens: int = 0
    learning_seconds: float = 0.0


def read_records(run: Path, sft: StageRecord, gold: bool) -> dict[str, StageRecord]:
    """The records of the algorithms that have been run, by name; UserError if they do not compare."""
    made = {
        name: AlignOptions(algorithm=name, reward="gold" if gold else "model")
        for name, algorithm in ALGORITHMS.items()
        if algorithm.any_reward or not gold
    }
    found = {name: options for name, options in made.items() if (run / options.folder_name).is_dir()}
    if not found:
        raise UserError(
            f"{run} holds none of {', '.join(each.folder_name for each in made.values())}: run `python -m rlhf PRESET "
            f"--run {run}`, with --algorithm for others than PPO{' and --reward gold' if gold else ''}"
        )
    records = {
        name: read_stage(run / options.folder_name, options.folder_name, options.command)
        for name, options in found.items()
    }
    first = next(iter(records.values()))
    for record in records.values():
        check_descends(record, sft, run)
        for setting in SAME:
            if setting in first.config.keys() & record.config.keys():
                ours, theirs = record.config[setting], first.config[setting]
                if ours != theirs:
                    raise UserError(
                        f"{run / record.stage} had {setting} {ours} and {run / first.stage} {theirs}: they do not "
                        "compare; run one of them again with the other's"
                    )
    return records


class Comparison:
    """Has the SFT model, the aligned ones and best-of-n reply to the same prompts, and judges them."""

    def __init__(self, options: AlgorithmsOptions, records: Mapping[str, StageRecord]) -> None:
        self.run, self.records = options.run, records
        config = next(iter(records.values())).config
        self.task = task = AlignmentTask(
            AlignOptions(
                run=options.run,
                device=options.device,
                seed=config["seed"],
                reward=config["reward"],
                prompts=config["prompts"] and Path(config["prompts"]),
            )
        )
        self.pairs = choose_pairs(task.corpus, options.split, options.prompts)
        settings = {name: value for record in records.values() for name, value in record.config.items()}
        rules = NO_RULES._replace(**{name: settings[name] for name in NO_RULES._fields if name in settings})
        self.judge = task.judge([pair.prompt for pair in self.pairs], rules)
        self.sampler = ReplySampler(task.tokenizer, self.judge.prompts, task.config.response_length, options.seed)

    def entries(self) -> list[Entry]:
        """Everybody's replies, judged."""
        models = [name for name in self.records if ALGORITHMS[name].trains]
        ns = [int(n) for name in self.records if not ALGORITHMS[name].trains for n in self.records[name].results]
        found = []
        with progress_bar("algorithms", 1 + len(models) + len(ns)) as bar:
            for entry in chain(
                [self.from_model("SFT", self.judge.sft, draw=1)], self.trained(models), self.best_of(ns)
            ):
                bar.advance(1, f"{entry.name}: gold {fmean(self.judge.judge(entry.replies).gold):.3f}")
                found.append(entry)
        return found

    def trained(self, models: Sequence[str]) -> Iterator[Entry]:
        """The algorithms that left a model."""
        for name in models:
            record, folder = self.records[name], self.run / self.records[name].stage
            lm = load_causal_lm(folder, self.task.device)
            entry = self.from_model(ALGORITHMS[name].title, lm, draw=2 + 4 * list(ALGORITHMS).index(name))
            entry.learning_tokens, entry.learning_seconds = learning_tokens(folder, record), record.wall_seconds
            yield entry

    def best_of(self, ns: Sequence[int]) -> Iterator[Entry]:
        """The best of n by the reward, for every n but 1, which is SFT again."""
        candidates: list[Replies] = []
        started, count = time.monotonic(), len(self.pairs)
        for n in sorted(set(ns) - {1}):
            for draw in range(len(candidates), n):
                candidates.append(self.judge.score(self.sampler.sample(self.judge.sft, draw=100 + draw)))
            tokens = sum(len(ids) for replies in candidates for ids in replies.ids)
            seconds = time.monotonic() - started
            yield Entry(f"best of {n}", self.judge.best_of(candidates), tokens / count, seconds / count)

    def from_model(self, name: str, lm: PreTrainedModel, draw: int) -> Entry:
        """A model's replies with their KL."""
        started = time.monotonic()
        replies = self.sampler.sample(lm, draw)
        seconds = time.monotonic() - started
        replies.kl = self.judge.kl(lm, replies)
        return Entry(name, replies, fmean(map(len, replies.ids)), seconds / len(replies.ids))

    def rows(self, entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
        """The metrics of every entry, by its name; the first is the one that the others are compared with."""
        words, base = common_words([entry.replies for entry in entries]), entries[0].replies.gold
        return {
            entry.name: metrics_of(entry.replies, self.judge.gold, words)
            | {
                "beats_sft": win_rate(entry.replies.gold, base)._asdict() if entry is not entries[0] else None,
                "learning_tokens": entry.learning_tokens,
                "learning_seconds": entry.learning_seconds,
                "reply_tokens": entry.reply_tokens,
                "reply_seconds": entry.reply_seconds,
            }
            for entry in entries
        }


def compare_algorithms(options: AlgorithmsOptions) -> Path:
    """Compare the algorithms that were run and leave the result in RUN/algorithms; returns that folder."""
    state, run = process_state(choose_device(options.device)), options.run
    sft = read_parent(run, "sft")
    records = read_records(run, sft, options.gold)
    comparison = Comparison(options, records)
    first = next(iter(records.values()))
    name, command = "algorithms", "python -m rlhf.algorithms"
    if options.gold:
        name, command = f"{name}-gold", f"{command} --gold"
    with open_stage(name, options, preset=first.preset, command=command, parent=sft) as stage:
        stage.config |= {setting: first.config.get(setting) for setting in SAME}
        made = ", ".join(record.stage for record in records.values())
        stage.announce(f"{made} on {len(comparison.pairs)} held-out prompts ({options.split})")
        if state.is_main_process:
            entries = comparison.entries()
            rows = stage.results = comparison.rows(entries)
            samples = [
                {"prompt": pair.prompt} | {entry.name: entry.replies.texts[i] for entry in entries}
                for i, pair in enumerate(comparison.pairs)
            ]
            result: dict[str, Any] = {
                "settings": stage.config | {"prompts": len(comparison.pairs)},
                "algorithms": rows,
                "samples": samples,
                "made": {
                    each.stage: {"config": each.config, "git_commit": each.git_commit} for each in records.values()
                },
            }
            write_result(stage.path / "algorithms.json", result, sample_section)
            (stage.path / "table.md").write_text(markdown_table(rows), "utf-8")
            paths = {ALGORITHMS[key].title: learning_path(run / each.stage) for key, each in records.items()}
            reward_kl_plot(stage.path / "reward_kl.png", rows, paths)
            print_table(rows)
    return stage.final


def main() -> None:
    compare_algorithms(command_line(AlgorithmsOptions, __doc__))


if __name__ == "__main__":
    run_command(main)
