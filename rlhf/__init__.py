"""PPO against the ranking model, and the comparison of every stage."""

from rlhf.ppo import PPOTrainer
from rlhf.ppo_config import PPOConfig

__all__ = ["PPOConfig", "PPOTrainer"]
