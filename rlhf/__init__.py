"""PPO against the ranking model, and the comparison of every stage.

`PPOConfig` and `PPOTrainer` are imported when they are first asked for: who wants `rlhf.ppo.losses` alone loads
neither transformers nor accelerate.
"""

from typing import TYPE_CHECKING, Any

from pretrain import check_data

if TYPE_CHECKING:
    from rlhf.ppo.config import PPOConfig
    from rlhf.ppo.trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'rlhf' has no attribute {name!r}")
    check_data()
    from rlhf.ppo import trainer

    return getattr(trainer, name)
