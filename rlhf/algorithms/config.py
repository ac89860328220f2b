"""What an alignment run is made of, and the presets."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import tyro

from data.run.options import StageOptions
from data.run.record import StageRecord
from pretrain.machine import choose_device, compute_dtype
from rlhf.ppo.config import PPOConfig


@dataclass(kw_only=True)
class AlignOptions(StageOptions):
    """What every algorithm of the alignment stage takes."""

    algorithm: Literal["ppo", "rloo", "grpo", "best-of-n"] = "ppo"
    """ppo: ours. rloo, grpo: by TRL's trainers. best-of-n: no training, the SFT model's best reply of n. Each has
    settings of its own: `PRESET --algorithm NAME --help` shows them."""
    reward: str = "model"
    """model: RUN/reward. gold: the gold judge itself, the ceiling of what a reward model can teach; that policy is
    left in RUN/rlhf-gold. module:callable: your function, called as callable(prompt, response) -> float."""
    prompts: Path | None = None
    """Your own prompts, JSONL of {"prompt"}; default: the training text's dialogue."""
    eval_prompts: int = 128
    """Held-out prompts on which the gold judge judges the policy as it learns, at most as many as there are."""

    prompt_length: tyro.conf.Suppress[int] = 64
    response_length: tyro.conf.Suppress[int] = 64

    how: ClassVar[tuple[str, ...]] = (*StageOptions.how, "cpu")

    @property
    def folder_name(self) -> str:
        """PPO's model is the aligned one; other algorithms, and the ceiling, stand beside it to be compared."""
        name = "rlhf" if self.algorithm == "ppo" else f"rlhf-{self.algorithm}"
        return f"{name}-gold" if self.reward == "gold" else name

    @property
    def command(self) -> str:
        """What makes `folder_name`, but for the run."""
        algorithm = "" if self.algorithm == "ppo" else f" --algorithm {self.algorithm}"
        return f"python -m rlhf PRESET{algorithm}{' --reward gold' if self.reward == 'gold' else ''}"

    def inherit(self, sft: StageRecord) -> None:
        """Take the lengths that the SFT model was trained with."""
        self.prompt_length = sft.config["prompt_length"]
        self.response_length = sft.config["response_length"]


@dataclass(kw_only=True)
class AlignConfig(AlignOptions, PPOConfig):
    """Align the SFT model with PPO against the reward model of the run."""

    output_dir: tyro.conf.Suppress[Path | None] = None
    prompt_length: tyro.conf.Suppress[int] = 64

    def ppo(self, output_dir: Path) -> PPOConfig:
        """The trainer's part of these settings."""
        values = {field.name: getattr(self, field.name) for field in fields(PPOConfig)}
        device = choose_device(self.device)
        if self.bf16 is None and device.type == "cpu":
            values["bf16"] = compute_dtype("auto", device) == torch.bfloat16
        return PPOConfig(**values | {"output_dir": output_dir})


_RECIPE: dict[str, Any] = {
    "batch_size": 128,
    "num_ppo_epochs": 2,
    "num_mini_batches": 4,
    "temperature": 1.0,
    "learning_rate": 4e-4,
    "value_learning_rate": 5e-4,
    "lr_floor": 0.1,
    "adam_beta2": 0.95,
    "missing_eos_penalty": 1.0,
}
"""What the presets share. PPOConfig's own defaults are for large models."""

PRESETS: dict[str, tuple[str, AlignConfig]] = {
    "smoke": (
        "seconds: what the tests drive",
        AlignConfig(
            **_RECIPE
            | {
                "total_episodes": 64,
                "batch_size": 16,
                "num_mini_batches": 2,
                "save_every": 2,
                "eval_every": 2,
                "eval_prompts": 16,
            }
        ),
    ),
    "laptop": (
        "2 CPU cores, under 3 minutes",
        AlignConfig(
            **_RECIPE
            | {
                "total_episodes": 6144,
                "num_ppo_epochs": 1,
                "learning_rate": 1.5e-3,
                "value_learning_rate": 1e-3,
                "cliprange_value": 0.3,
                "kl_coef": 0.135,
                "missing_eos_penalty": 4.0,
                "save_every": 10,
                "eval_every": 12,
            }
        ),
    ),
    "gpu": (
        "one GPU, bf16",
        AlignConfig(
            **_RECIPE
            | {
                "total_episodes": 51_200,
                "batch_size": 512,
                "cliprange_value": 0.3,
                "kl_coef": 0.08,
                "missing_eos_penalty": 3.0,
                "learning_rate": 2e-4,
                "value_learning_rate": 3e-4,
                "save_every": 20,
                "eval_every": 10,
                "eval_prompts": 256,
            }
        ),
    ),
}
