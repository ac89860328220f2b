"""PPO against the ranking model, and the comparison of every stage."""

from rlhf.ppo.config import PPOConfig
from rlhf.ppo.trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]
