"""What every algorithm of the alignment stage starts from: the run's models, prompts, reward and judge."""

import random
import statistics
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedModel

from data.console import UserError
from data.dialogue import dialogue_pairs, encode_prompt
from data.directions.drawing import Directions
from data.directions.headings import directions_of
from data.directions.specs import NONE
from data.jsonl import read_texts
from data.run.folder import run_corpus
from data.run.record import check_descends, read_parent
from data.tokenizers import Tokenizer
from pretrain.machine import choose_device
from reward.gold.judge import GoldJudge
from reward.labeller import load_score_function
from reward.model import RewardModel
from rlhf.algorithms.config import AlignOptions, BudgetOptions
from rlhf.asked.prompts import mixed_prompts
from rlhf.asked.reward import AsDirected, Learned, Rule
from rlhf.judging.judge import Judge, choose_pairs
from rlhf.judging.metrics import diversity
from rlhf.judging.replies import Replies, ReplySampler
from rlhf.judging.stages import FOLLOWING
from rlhf.ppo.prompts import Prompt, PromptOrder
from rlhf.ppo.rewards.base import PolicyTokens, RewardFunction
from rlhf.ppo.rewards.build import build_reward
from rlhf.ppo.rewards.rules import Scorer, ScoreRules
from sft.directions import Request, draw_requests, run_directions, share_followed, usable_directions
from sft.models.loading import load_causal_lm
from sft.models.tokens import load_tokenizer

EVAL_WORDS = 1000
"""distinct-2 falls as a text grows: it is measured on so many words each time."""
SCORED_AT_ONCE = 64
"""Rows of one forward pass of the reward model."""
NORMALISED_ON = 256
"""Replies of the SFT model whose scores by a reward function become mean 0 and deviation 1."""
NO_RULES = ScoreRules("subtract", 0.0, None)
"""Scores are what the reward gives."""


def rules_of(config: BudgetOptions) -> ScoreRules:
    """What becomes of a score before it is maximised."""
    return ScoreRules(config.missing_eos_rule, config.missing_eos_penalty, config.score_clip)


class AlignmentTask:
    """One run: the SFT model and what belongs to it, the prompts, the reward, and the view of held-out prompts.

    Records are read and the lengths of the SFT stage are taken at once; models when they are needed.
    """

    def __init__(self, config: AlignOptions) -> None:
        if config.eval_prompts < 1:
            raise UserError(f"eval_prompts is {config.eval_prompts}: it must be at least 1")
        self.config, run = config, config.run
        self.device = choose_device(config.device)
        self.sft = read_parent(run, "sft")
        config.inherit(self.sft)
        self.tokenizer = Tokenizer.load(run / "sft")
        self.reward_record = None
        if config.reward == "model" or (run / "reward").exists():
            self.reward_record = read_parent(run, "reward", tokenizer_sha256=self.sft.tokenizer_sha256)
            check_descends(self.reward_record, self.sft, run)
        self.corpus = run_corpus(run, self.sft)
        config.check_balance()
        self.following_record = None
        if config.reward_following == "model" and self.table:
            self.following_record = read_parent(run, FOLLOWING, tokenizer_sha256=self.sft.tokenizer_sha256)
            check_descends(self.following_record, self.sft, run)

    # ---- prompts ----

    @cached_property
    def table(self) -> Directions | None:
        """What prompts may ask for; None where nothing is asked: as when the user's own prompts ask for nothing."""
        if self.config.reward_following == "none":
            return None
        table = usable_directions(run_directions(self.sft), dialogue_pairs(self.corpus.train))
        if table and self.config.prompts and not any(directions_of(each, table.specs) for each in self.plain_prompts):
            return None
        return table

    @cached_property
    def plain_prompts(self) -> list[str]:
        """The user's prompts as they are, or every prompt of the training text, which asks for nothing."""
        if self.config.prompts is not None:
            rows = read_texts(self.config.prompts, "prompt", check=self.tokenizer.check)
            prompts = [row["prompt"] for row in rows]
            return random.Random(self.config.seed).sample(prompts, len(prompts))
        prompts = [pair.prompt for pair in dialogue_pairs(self.corpus.train)]
        if not prompts:
            raise UserError(f"corpus '{self.corpus.name}' holds no dialogue: give --prompts FILE")
        return prompts

    @cached_property
    def prompts(self) -> list[Prompt]:
        """What is trained on: of the training text's prompts a share that asks for something, unless they are given."""
        config, prompts = self.config, self.plain_prompts
        if self.table and config.prompts is None and config.directed_share:
            prompts = mixed_prompts(prompts, self.table, config.directed_share, config.seed)
        return self.encoded(prompts)

    @cached_property
    def heldout(self) -> list[str]:
        """The prompts on which a policy is judged as it learns."""
        return [pair.prompt for pair in choose_pairs(self.corpus, "dev", self.config.eval_prompts)]

    def encoded(self, prompts: Sequence[str]) -> list[Prompt]:
        """The prompts as a policy reads them, the last `prompt_length` tokens; each keeps its whole text."""
        length = self.config.prompt_length
        return [Prompt(encode_prompt(self.tokenizer, prompt, length), prompt) for prompt in prompts]

    # ---- the reward ----

    @property
    def settings(self) -> dict[str, str | None]:
        """What the record of a stage says of the task beyond the settings."""
        following = self.following_record.weights_sha256 if self.following_record else None
        return {
            "reward_sha256": self.reward_record.weights_sha256 if self.reward_record else None,
            "following_sha256": following,
            "directions": self.sft.config.get("directions", NONE),
        }

    @cached_property
    def reward(self) -> Path | RewardFunction | AsDirected:
        """What is maximised: the craft, and where prompts may ask for something doing as told too."""
        if self.table is None:
            return self.craft
        following = (
            Learned(self.following, SCORED_AT_ONCE) if self.following else Rule(self.table.specs, self.tokenizer)
        )
        balance = self.config.balance(self.usual_tokens)
        return AsDirected(self.craft, following, balance, self.table.specs, self.tokenizer, self.config.prompt_length)

    @cached_property
    def following(self) -> RewardModel | None:
        """The model that knows which replies do as they are told; None where the rule says so, or nothing is asked."""
        return RewardModel.load(self.config.run / FOLLOWING, self.device) if self.following_record else None

    @cached_property
    def craft(self) -> Path | RewardFunction:
        """The run's reward model, or what --reward names, as a function of texts in the same units."""
        if self.config.reward == "model":
            return self.config.run / "reward"
        if self.config.reward == "gold":
            return self._normalised(self.gold)
        return self._normalised(load_score_function(self.config.reward))

    def scorer(self, rules: ScoreRules) -> Scorer:
        """The reward and the rules on its scores, as every algorithm but PPO (whose trainer has its own) calls them."""
        config, ours = self.config, self.tokenizer
        tokenizer = load_tokenizer(config.run / "sft")
        length = config.prompt_length + config.response_length
        tokens = PolicyTokens(tokenizer, ours.vocab_size, frozenset([ours.eos_id]), length)
        reward, _ = build_reward(self.reward, tokens, SCORED_AT_ONCE, self.device)
        return Scorer(reward, tokens.stop_ids, rules, config.response_length)

    def _normalised(self, score: Callable[[str, str], float]) -> RewardFunction:
        """`score(prompt, response)` in the units of a reward model.

        0 and 1 are mean and deviation on the SFT model's replies to prompts that are trained on.
        """
        prompts, replies = self.usual_prompts, self.usual_replies
        scores = [score(prompt.text or "", text) for prompt, text in zip(prompts, replies.texts, strict=True)]
        mean, deviation = statistics.fmean(scores), statistics.pstdev(scores)
        if not deviation > 0:
            raise UserError(
                f"--reward {self.config.reward} gives every response {mean}, so there is nothing to learn: "
                "give a function whose scores differ"
            )

        def reward(prompts: list[str], responses: list[str]) -> list[float]:
            return [(score(p, r) - mean) / deviation for p, r in zip(prompts, responses, strict=True)]

        return reward

    @cached_property
    def usual_prompts(self) -> list[Prompt]:
        """Some of the prompts that ask for nothing."""
        return PromptOrder(self.encoded(self.plain_prompts), self.config.seed).take(NORMALISED_ON)

    @cached_property
    def usual_replies(self) -> Replies:
        """The SFT model's replies to them: what scores are measured by."""
        return self.replies_to(self.usual_prompts).sample(self.sft_model, draw=1)

    @property
    def usual_tokens(self) -> float:
        """Mean length of the SFT model's replies to prompts that ask for something: what lengths are measured by."""
        specs = self.table.specs if self.table else ()
        asking = [prompt for prompt in self.prompts if directions_of(prompt.text or "", specs)]
        if not asking:
            return statistics.fmean(map(len, self.usual_replies.ids))
        order = PromptOrder(asking, self.config.seed)
        replies = self.replies_to(order.take(NORMALISED_ON)).sample(self.sft_model, draw=1)
        return statistics.fmean(map(len, replies.ids))

    @property
    def asks(self) -> str:
        """What a stage announces of directions."""
        return f" and doing as told by the {self.config.reward_following}" if self.table else ""

    # ---- models and judge ----

    @cached_property
    def sft_model(self) -> PreTrainedModel:
        return load_causal_lm(self.config.run / "sft", self.device)

    def plain(self, lm: PreTrainedModel) -> PreTrainedModel:
        """A policy as it is now, as a model that no trainer has wrapped in autocast: what is judged is float32."""
        self._plain.load_state_dict(lm.state_dict())
        return self._plain

    @cached_property
    def _plain(self) -> PreTrainedModel:
        return load_causal_lm(self.config.run / "sft", self.device)

    @cached_property
    def gold(self) -> GoldJudge:
        return GoldJudge(self.corpus.train)

    def replies_to(self, prompts: Sequence[Prompt]) -> ReplySampler:
        return ReplySampler(self.tokenizer, prompts, self.config.response_length, self.config.seed)

    def judge(self, texts: Sequence[str], rules: ScoreRules = NO_RULES) -> Judge:
        """Who judges replies to these prompts by everything, the reward included."""
        return Judge(self.gold, self.scorer(rules), texts, self.encoded(texts), self.sft_model)

    # ---- held-out prompts ----

    @cached_property
    def sampler(self) -> ReplySampler:
        return self.replies_to(self.encoded(self.heldout))

    @cached_property
    def before(self) -> Replies:
        """The SFT model's replies to the held-out prompts."""
        return self.sampler.sample(self.sft_model, draw=0)

    @cached_property
    def _gold_before(self) -> float:
        return self.mean_gold(self.before.texts)

    def heldout_metrics(self, replies: Replies) -> dict[str, float]:
        """What the gold judge, which no algorithm sees, says of replies to the held-out prompts."""
        return {
            "eval/gold": self.mean_gold(replies.texts),
            "eval/gold_before": self._gold_before,
            "eval/distinct_2": diversity(replies.texts, EVAL_WORDS).distinct_2,
            "eval/stopped": statistics.fmean(replies.stopped),
            "eval/unknown_words": statistics.fmean(self.gold.unknown_words(text) for text in replies.texts),
        }

    def evaluate(self, lm: PreTrainedModel) -> dict[str, float]:
        """What a policy, as it is now, replies to the held-out prompts, and how often it does as told."""
        metrics = self.heldout_metrics(self.sampler.sample(lm, draw=0))
        if self.requests:
            metrics |= {"eval/followed": self._followed(lm), "eval/followed_before": self._followed_before}
        return metrics

    @cached_property
    def requests(self) -> list[Request]:
        """The held-out prompts, each asking for one thing."""
        pairs = choose_pairs(self.corpus, "dev", self.config.eval_prompts)
        return draw_requests(pairs, self.table, self.config.seed)

    def _followed(self, lm: PreTrainedModel) -> float:
        replies = self._asking.sample(lm, draw=2)
        return share_followed(self.requests, replies.texts) or 0.0

    @cached_property
    def _asking(self) -> ReplySampler:
        return self.replies_to(self.encoded([request.pair.prompt for request in self.requests]))

    @cached_property
    def _followed_before(self) -> float:
        return self._followed(self.sft_model)

    def mean_gold(self, texts: Sequence[str]) -> float:
        return statistics.fmean(self.gold(prompt, text) for prompt, text in zip(self.heldout, texts, strict=True))
