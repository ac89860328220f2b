"""How well a policy does on prompts that it does not learn from."""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from pretrain.machine import seeded
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rollout import Episode

if TYPE_CHECKING:
    from rlhf.ppo.trainer import PPOTrainer


def evaluate(trainer: "PPOTrainer", prompts: Sequence[Prompt]) -> dict[str, float]:
    """Mean reward, KL (nats per sequence), length and share that stopped, of one response to each prompt.

    `eval/rlhf_reward` is what PPO maximises, at the price of the KL that `kl_coef` says, however a controller has
    steered it since. The random numbers are the same each time, and no others are drawn. Every process must call it.
    """
    config, accelerator = trainer.config, trainer.accelerator
    noise = torch.rand(len(prompts), config.response_length, dtype=torch.float64, generator=seeded(config.seed + 2))
    mine = range(accelerator.process_index, len(prompts), accelerator.num_processes)
    size = config.batch_size // accelerator.num_processes

    def episodes_of_mine() -> list[Episode]:
        parts = [list(mine[start : start + size]) for start in range(0, len(mine), size)]
        made = [trainer.experience([prompts[i] for i in rows], noise[rows], {}) for rows in parts]
        return [episode for part in made for episode in part]

    episodes = trainer.experience.of_all(episodes_of_mine)
    scored = trainer.experience.apply_rules(episodes)
    kl = fmean(episode.kl for episode in episodes)
    return {
        "eval/reward": scored.raw.mean().item(),
        "eval/kl": kl,
        "eval/rlhf_reward": scored.scores.mean().item() - config.kl_coef * kl,
        "eval/stopped": scored.stopped.float().mean().item(),
        "eval/response_length": fmean(len(episode.response) for episode in episodes),
    }
