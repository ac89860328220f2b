"""What gives the reward: a sequence classifier, a Python function of texts, or several of these with weights."""

from rlhf.ppo.rewards.base import PolicyTokens, Reward, RewardFunction, RewardSource
from rlhf.ppo.rewards.build import WeightedReward, build_reward
from rlhf.ppo.rewards.function import FunctionReward
from rlhf.ppo.rewards.model import ModelReward, TranslatedReward
from rlhf.ppo.rewards.rules import Scored, Scorer, ScoreRules, apply_missing_stop, apply_rules, finite_scores

__all__ = [
    "FunctionReward",
    "ModelReward",
    "PolicyTokens",
    "Reward",
    "RewardFunction",
    "RewardSource",
    "ScoreRules",
    "Scored",
    "Scorer",
    "TranslatedReward",
    "WeightedReward",
    "apply_missing_stop",
    "apply_rules",
    "build_reward",
    "finite_scores",
]
