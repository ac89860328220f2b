"""What every algorithm of the alignment stage starts from: the run's models, prompts, reward and judge."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel

from data.console import UserError
from data.corpus import Corpus
from data.dialogue import dialogue_pairs, encode_prompt, heldout_pairs
from data.jsonl import read_jsonl
from data.run.folder import run_corpus
from data.run.record import check_descends, read_parent
from data.tokenizers import Tokenizer
from pretrain.checkpoint import build_model, gpt_config, load_model
from pretrain.machine import full_precision_matmul
from pretrain.model import GPT
from reward.gold.judge import GoldJudge
from reward.labeller import load_score_function
from rlhf.algorithms.config import AlignOptions
from rlhf.judging.measures import diversity
from rlhf.judging.replies import Writer
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards import PolicyTokens, RewardFunction, Scorer, ScoreRules, build_reward
from sft.train import quiet_libraries

EVAL_WORDS = 1000
"""distinct-2 falls as a text grows: it is measured on so many words each time."""
SCORED_AT_ONCE = 64
"""Rows of one forward pass of the reward model."""


class Alignment:
    """One run: the SFT model and what belongs to it, and the gold judge's view of replies to held-out prompts."""

    def __init__(self, config: AlignOptions) -> None:
        quiet_libraries()
        self.config, run = config, config.run
        self.sft = read_parent(run, "sft")
        config.inherit(self.sft)
        self.tokenizer = Tokenizer.load(run / "sft")
        self.reward_record = None
        if config.reward == "model" or (run / "reward").exists():
            self.reward_record = read_parent(run, "reward", tokenizer_sha256=self.sft.tokenizer_sha256)
            check_descends(self.reward_record, self.sft, run)
        self.corpus = run_corpus(run, self.sft)
        self.gold = GoldJudge(self.corpus.train)
        self.prompts = load_prompts(config, self.corpus)
        heldout = [pair.prompt for pair in heldout_pairs(self.corpus.validation).dev[: config.eval_prompts]]
        self.writer = Writer(
            self.tokenizer,
            self.encoded(heldout),
            config.response_length,
            load_model(run / "sft"),
            config.seed,
        )
        self.heldout = heldout
        self.before = self.writer.write(self.writer.sft, draw=0).texts
        """The SFT model's replies to the held-out prompts."""
        self._gold_before = self.mean_gold(self.before)
        self.reward = self._reward()

    def encoded(self, prompts: Sequence[str]) -> list[Prompt]:
        """The prompts as the policy reads them, the last `prompt_length` tokens; each keeps its whole text."""
        length = self.config.prompt_length
        return [Prompt(encode_prompt(self.tokenizer, prompt, length), prompt) for prompt in prompts]

    def scorer(self, rules: ScoreRules, device: torch.device) -> Scorer:
        """The reward and the rules on its scores, as every algorithm but PPO (which has its own) calls them."""
        config, ours = self.config, self.tokenizer
        tokenizer = AutoTokenizer.from_pretrained(config.run / "sft")
        length = config.prompt_length + config.response_length
        tokens = PolicyTokens(tokenizer, ours.vocab_size, frozenset([ours.eos_id]), length)
        reward, _ = build_reward(self.reward, tokens, SCORED_AT_ONCE, device)
        return Scorer(reward, tokens.stop_ids, rules)

    def judge(self, texts: list[str], stopped: Sequence[bool]) -> dict[str, float]:
        """What the gold judge, which no algorithm sees, says of replies to the held-out prompts."""
        return {
            "eval/gold": self.mean_gold(texts),
            "eval/gold_before": self._gold_before,
            "eval/distinct_2": diversity(texts, EVAL_WORDS).distinct_2,
            "eval/stopped": statistics.fmean(stopped),
            "eval/unknown_words": statistics.fmean(self.gold.unknown_words(text) for text in texts),
        }

    def judge_policy(self, lm: PreTrainedModel) -> dict[str, float]:
        """`judge` of the replies that a policy, as it is now, writes to the held-out prompts."""
        with full_precision_matmul():
            replies = self.writer.write(as_gpt(lm), draw=0)
        return self.judge(replies.texts, replies.stopped)

    def mean_gold(self, texts: list[str]) -> float:
        return statistics.fmean(self.gold(prompt, text) for prompt, text in zip(self.heldout, texts, strict=True))

    def _reward(self) -> Path | RewardFunction:
        """The run's reward model, or what --reward names, as a function of texts in the same units."""
        if self.config.reward == "model":
            return self.config.run / "reward"
        if self.config.reward == "gold":
            return self._normalised(self.gold)
        return self._normalised(load_score_function(self.config.reward))

    def _normalised(self, score: Callable[[str, str], float]) -> RewardFunction:
        """`score(prompt, response)` in the units of a reward model: 0 and 1 are mean and deviation of the SFT model."""
        scores = [score(prompt, text) for prompt, text in zip(self.heldout, self.before, strict=True)]
        mean, deviation = statistics.fmean(scores), statistics.pstdev(scores)
        if not deviation > 0:
            raise UserError(f"--reward {self.config.reward} gives every response {mean}: there is nothing to learn")

        def reward(prompts: list[str], responses: list[str]) -> list[float]:
            return [(score(p, r) - mean) / deviation for p, r in zip(prompts, responses, strict=True)]

        return reward


def as_gpt(lm: PreTrainedModel) -> GPT:
    """A copy of a policy as it is now, as the GPT that the other stages sample from."""
    return build_model(lm.state_dict(), gpt_config(lm.config.to_dict())).to(lm.device).eval()


def load_prompts(config: AlignOptions, corpus: Corpus) -> list[str]:
    """The user's prompts, or every prompt of the training text."""
    if config.prompts is not None:
        return [row["prompt"] for row in read_jsonl(config.prompts, {"prompt": str})]
    prompts = [pair.prompt for pair in dialogue_pairs(corpus.train)]
    if not prompts:
        raise UserError(f"corpus '{corpus.name}' holds no dialogue: give --prompts FILE")
    return prompts
