"""Who judges replies to held-out prompts: the gold judge, the reward, and how far a model has moved from SFT."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from transformers import PreTrainedModel

from data.console import UserError
from data.corpus import Corpus
from data.dialogue import Pair, heldout_pairs
from data.run.options import StageOptions
from data.run.record import StageRecord
from data.run.writing import write_samples
from reward.gold.judge import FREE_COPY, GoldJudge
from rlhf.judging.metrics import diversity, mean_interval, word_count
from rlhf.judging.replies import Replies, choose
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.rules import Scorer
from sft.models.forward import LogProbs, sequence_logprobs
from sft.models.tokens import without_stop

DIVERSITY_WORDS = 4000
"""Words of every source that diversity is measured on, or as many as the shortest source has."""
SHOWN = 10
"""Prompts in samples.md."""


@dataclass(kw_only=True)
class HeldoutOptions(StageOptions):
    """What a comparison on held-out prompts takes."""

    split: Literal["test", "dev"] = "test"
    """Held-out prompts to use. test: only comparisons read them. dev: for tuning."""
    prompts: int | None = None
    """Use only the first so many prompts of the split; by default all."""


def choose_pairs(corpus: Corpus, split: str, count: int | None = None) -> list[Pair]:
    """The first `count` held-out pairs of a split (default: all); UserError where there are none."""
    if count is not None and count < 1:
        raise UserError(f"--prompts must be at least 1, not {count}")
    pairs: list[Pair] = getattr(heldout_pairs(corpus.validation), split)[:count]
    if not pairs:
        raise UserError(f"the validation split of '{corpus.name}' holds no dialogue to judge on: use a longer text")
    return pairs


def write_result(
    path: Path, result: dict[str, Any], section: Callable[[int, dict[str, Any]], tuple[str, list[tuple[str, str]]]]
) -> None:
    """A comparison as JSON, and the first of its samples, each a `section`, as samples.md next to it.

    `directed_samples`, where there are some, are before `samples`.
    """
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    write_samples(
        path.with_name("samples.md"),
        "The first held-out prompts, in order, unselected",
        [
            section(number, sample)
            for name in ("directed_samples", "samples")
            for number, sample in enumerate(result.get(name, [])[:SHOWN], 1)
        ],
    )


def made_of(record: StageRecord) -> dict[str, Any]:
    """How a stage was made, for a report."""
    kept = (
        "preset", "seed", "parent", "weights_sha256", "wall_seconds", "peak_memory_gib", "device", "git_commit",
        "versions", "results",
    )  # fmt: skip
    return {name: getattr(record, name) for name in kept}


def kl_bound(n: int) -> float:
    """Nats per response between the best of n and the model that wrote them, at most.

    log n − (n − 1)/n (used by Stiennon et al., arXiv 2009.01325; an upper bound, Beirami et al., arXiv 2401.01879,
    which is met where no two responses are the same).
    """
    return math.log(n) - (n - 1) / n


class Judge:
    """Judges replies to the same prompts. What is known of a reply is not computed again."""

    def __init__(
        self, gold: GoldJudge, scorer: Scorer, texts: Sequence[str], prompts: Sequence[Prompt], sft: PreTrainedModel
    ) -> None:
        """texts: the prompts as the gold judge reads them; prompts: the same as the models do."""
        self.gold, self.scorer, self.texts, self.prompts, self.sft = gold, scorer, texts, prompts, sft
        self._reference = LogProbs(sft)

    def score(self, replies: Replies) -> Replies:
        """Fill in `reward` and `scores`; the replies may be to the first prompts only."""
        if not replies.reward:
            scored = self.scorer(self.prompts[: len(replies.ids)], replies.ids)
            replies.reward = [round(score, 5) for score in scored.raw.tolist()]
            replies.scores = [round(score, 5) for score in scored.scores.tolist()]
        return replies

    def judge(self, replies: Replies) -> Replies:
        """`score` and `judge_gold`."""
        return self.score(self.judge_gold(replies))

    def judge_gold(self, replies: Replies) -> Replies:
        """Fill in `gold` and `terms`."""
        if not replies.gold:
            pairs = zip(self.texts, replies.texts, strict=False)
            replies.terms = [self.gold.terms(prompt, text) for prompt, text in pairs]
            replies.gold = [round(self.gold.score(terms), 6) for terms in replies.terms]
        return replies

    @staticmethod
    def best_of(candidates: Sequence[Replies]) -> Replies:
        """Of several scored replies to each prompt the one of the highest score, with the bound as their KL."""
        columns = zip(*(each.scores for each in candidates), strict=True)
        best = choose(candidates, [column.index(max(column)) for column in columns])
        best.kl = kl_bound(len(candidates))
        return best

    def kl(self, lm: PreTrainedModel, replies: Replies, temperature: float = 1.0, end: bool = True) -> float:
        """KL(model ‖ SFT) in nats per reply: the mean of log π(y) − log π_SFT(y) over the model's own replies y.

        end: whether the token that ends a reply counts; a model that ends replies by another one has none.
        """
        if lm is self.sft and temperature == 1:
            return 0.0
        ids = replies.ids if end else [without_stop(each, self.scorer.stop_ids) for each in replies.ids]
        own = sequence_logprobs(lm, self.prompts, ids, temperature)
        return float((own - sequence_logprobs(self._reference, self.prompts, ids)).mean())


def common_words(sources: Sequence[Replies]) -> int:
    """How many words of each source the diversity of all is measured on."""
    return min(DIVERSITY_WORDS, *(word_count(replies.texts) for replies in sources))


def metrics_of(replies: Replies, gold: GoldJudge, words: int) -> dict[str, Any]:
    """Everything that is said of one source: `craft_of`, and what its replies earn."""
    reward = mean_interval(replies.reward)
    earned = {"reward": reward.mean, "reward_low": reward.low, "reward_high": reward.high}
    return craft_of(replies, gold, words) | earned


def craft_of(replies: Replies, gold: GoldJudge, words: int) -> dict[str, Any]:
    """What is said of one source without a reward model; diversity on its first `words` words.

    copying: share of replies with more than FREE_COPY words in a row as they stand in the training text.
    """
    score = mean_interval(replies.gold)
    varied = diversity(replies.texts, words)
    copies = [gold.longest_copy(text) for text in replies.texts]
    counted = word_count(replies.texts)
    return {
        "n": len(replies.texts),
        "gold": score.mean,
        "gold_low": score.low,
        "gold_high": score.high,
        "terms": {name: fmean(terms[name] for terms in replies.terms) for name in replies.terms[0]},
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
