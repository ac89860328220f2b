"""The stages of a run that are compared: their records, and their models in front of the same held-out prompts."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from transformers import PreTrainedModel

from data.corpus import Corpus
from data.dialogue import Pair, encode_prompt
from data.run.record import StageRecord, check_descends, read_parent
from data.tokenizers import Tokenizer
from reward.gold.judge import GoldJudge
from reward.model import RewardModel
from rlhf.judging.judge import Judge
from rlhf.judging.replies import ReplySampler
from rlhf.judging.sources import SOURCES, Source
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.model import ModelReward
from rlhf.ppo.rewards.rules import Scorer, ScoreRules
from sft.models.loading import load_causal_lm

FOLLOWING = "following"
"""Folder of the reward model that learned to tell whether replies do as they are told."""
SCORED_AT_ONCE = 32
"""Rows of one forward pass of a reward model."""


def read_chain(run: Path) -> dict[str, StageRecord]:
    """The records of the stages that are compared, after checking that each was made from the one before."""
    rlhf = read_parent(run, "rlhf")
    tokenizer = rlhf.tokenizer_sha256
    records = {name: read_parent(run, name, tokenizer_sha256=tokenizer) for name in ("pretrain", "sft", "reward")}
    check_descends(records["sft"], records["pretrain"], run)
    check_descends(records["reward"], records["sft"], run)
    if (run / FOLLOWING).exists():
        records[FOLLOWING] = read_parent(run, FOLLOWING, tokenizer_sha256=tokenizer)
        check_descends(records[FOLLOWING], records["sft"], run)
    records["rlhf"] = rlhf
    check_descends(rlhf, records["sft"], run)
    for key, source in SOURCES.items():
        if source.folder and source.folder not in records and (run / source.folder).exists():
            records[key] = read_parent(run, source.folder, source.command)
            check_descends(records[key], records["sft"], run)
    return records


class Stages:
    """The models of a run, loaded when they are first asked, held-out prompts, and who judges the replies."""

    def __init__(
        self,
        run: Path,
        records: Mapping[str, StageRecord],
        corpus: Corpus,
        pairs: Sequence[Pair],
        seed: int,
        device: torch.device,
    ) -> None:
        """records: of `read_chain`."""
        self.run, self.records, self.corpus, self.pairs, self.seed = run, records, corpus, pairs, seed
        self.device, lengths = device, records["sft"].config
        self.tokenizer = Tokenizer.load(run / "sft")
        self.prompt_length, self.response_length = lengths["prompt_length"], lengths["response_length"]
        self.model: Callable[[str], PreTrainedModel] = cache(lambda folder: load_causal_lm(run / folder, device))
        self.reward_model = RewardModel.load(run / "reward", device)
        texts = [pair.prompt for pair in pairs]
        self.sampler = self.sampler_of(texts)
        scorer = self.scorer(self.reward_model)
        self.judge = Judge(GoldJudge(corpus.train), scorer, texts, self.encoded(texts), self.model("sft"))
        made = {record.stage for record in records.values()}
        self.sources: dict[str, Source] = {
            key: source for key, source in SOURCES.items() if not source.folder or source.folder in made
        }

    def encoded(self, texts: Sequence[str]) -> list[Prompt]:
        """Prompts as the models read them."""
        return [Prompt(encode_prompt(self.tokenizer, text, self.prompt_length), text) for text in texts]

    def sampler_of(self, texts: Sequence[str]) -> ReplySampler:
        """Who samples replies to these prompts."""
        return ReplySampler(self.tokenizer, self.encoded(texts), self.response_length, self.seed)

    def scorer(self, model: RewardModel) -> Scorer:
        """The scores of a reward model as they are."""
        reward = ModelReward(model.model, SCORED_AT_ONCE)
        return Scorer(reward, frozenset([self.tokenizer.eos_id]), ScoreRules("subtract", 0.0, None))
