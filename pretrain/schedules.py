"""The course of the learning rate over a run."""

import math
from functools import lru_cache

import torch

from pretrain.config import CYCLIC_SCHEDULES, PretrainConfig


def learning_rate_scale(step: int, config: PretrainConfig) -> float:
    """The share of the peak learning rate that step 0 … steps − 1 takes.

    Constant, cosine and linear follow a warm-up. The cyclic schedules (Smith, WACV 2017, arXiv 1506.01186) go up and
    down between `base_fraction` and 1, `step_size` steps each way: triangular always to the top, triangular2 half as
    high every cycle, exp_range to a height that shrinks by `gamma` every step.
    """
    if config.schedule in CYCLIC_SCHEDULES:
        cycles = _cyclic_scales(config.schedule, config.base_fraction, config.step_size, config.gamma, config.steps)
        return cycles[step]
    warmup = round(config.warmup_fraction * config.steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, config.steps - warmup)
    shape = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_fraction + (1 - config.final_fraction) * shape


@lru_cache(maxsize=64)
def _cyclic_scales(mode: str, base: float, step_size: int, gamma: float, steps: int) -> list[float]:
    """The scales of steps 0 … `steps`, from torch's own CyclicLR on an optimizer that moves nothing."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CyclicLR(
        optimizer,
        base_lr=base,
        max_lr=1.0,
        step_size_up=step_size,
        mode=mode,  # type: ignore[arg-type]
        gamma=gamma,
        cycle_momentum=False,
    )
    optimizer.step()  # torch warns where a scheduler moves before its optimizer
    scales = []
    for _ in range(steps + 1):
        scales.append(float(optimizer.param_groups[0]["lr"]))
        scheduler.step()
    return scales
