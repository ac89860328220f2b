"""The alignment stage: PPO, RLOO, GRPO and best-of-n on one task."""
