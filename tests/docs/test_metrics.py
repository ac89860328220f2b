"""docs/metrics.md explains every metric that the trainer logs, and none that it does not."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from rlhf import PPOConfig, PPOTrainer, RewardEnsemble

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text("utf-8")


def test_every_metric_of_the_trainer_has_its_line(causal_lm: Callable[..., PreTrainedModel], tokenizer: Any) -> None:
    """With everything on that logs more; what a run's own eval_hook adds: tests/rlhf/algorithms."""

    def short(prompts: list[str], responses: list[str]) -> tuple[list[float], dict[str, list[float]]]:
        return [-float(len(text)) for text in responses], {"characters": [float(len(text)) for text in responses]}

    config = PPOConfig(total_episodes=4, batch_size=4, response_length=4, kl_in="loss", cpu=True)
    reward: Any = {"short": (short, 1.0), "safe": (RewardEnsemble([short, short]), 1.0)}
    options: dict[str, Any] = {"tokenizer": tokenizer, "eval_prompts": ["b"]}
    (logged,) = PPOTrainer(causal_lm("qwen3"), reward, ["a"], config, **options).train()
    of_rewards = {name for name in logged if name.startswith("objective/rewards/")}
    assert {"objective/rewards/short/characters", "objective/rewards/safe/deviation"} < of_rewards
    assert "objective/rewards/REWARD/NAME" in PAGE
    cells = re.findall(r"^\| (`[^|]+`) \|", PAGE.partition("What an `eval_hook` returns")[0], re.MULTILINE)
    explained = {name for cell in cells for name in re.findall(r"`([\w/]+)`", cell)} - {"objective/rewards/NAME"}
    assert explained == logged.keys() - of_rewards
