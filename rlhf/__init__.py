"""PPO against the ranking model, and the comparison of every stage.

What the package gives out is imported when it is first asked for: importing `rlhf.ppo.losses` alone loads
neither transformers nor accelerate.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pretrain import check_data

if TYPE_CHECKING:
    from rlhf.ppo.config import PPOConfig
    from rlhf.ppo.rewards.combine import RewardEnsemble
    from rlhf.ppo.rewards.http import HttpReward
    from rlhf.ppo.trainer import PPOTrainer

PLACES = {
    "PPOConfig": "rlhf.ppo.config",
    "PPOTrainer": "rlhf.ppo.trainer",
    "HttpReward": "rlhf.ppo.rewards.http",
    "RewardEnsemble": "rlhf.ppo.rewards.combine",
}
__all__ = ["HttpReward", "PPOConfig", "PPOTrainer", "RewardEnsemble"]


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module 'rlhf' has no attribute {name!r}")
    check_data()
    return getattr(import_module(PLACES[name]), name)
