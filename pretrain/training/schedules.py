"""The course of the learning rate over a run."""

import math

from pretrain.config import CYCLIC_SCHEDULES, PretrainConfig


def lr_factor(step: int, config: PretrainConfig) -> float:
    """The share of the peak learning rate that step 0 … steps − 1 takes.

    Constant, cosine and linear follow a warm-up. The cyclic schedules (Smith, WACV 2017, arXiv 1506.01186) go up and
    down between `base_fraction` and 1, `step_size` steps each way: triangular always to the top, triangular2 half as
    high every cycle, exp_range to a height that shrinks by `gamma` every step.
    """
    if config.schedule in CYCLIC_SCHEDULES:
        return config.base_fraction + _rise(step, config)
    warmup = round(config.warmup_fraction * config.steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, config.steps - warmup)
    shape = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_fraction + (1 - config.final_fraction) * shape


def _rise(step: int, config: PretrainConfig) -> float:
    """How far above the lower bound a cyclic schedule is, in the order of operations of torch's CyclicLR."""
    cycle = math.floor(1 + step / (2 * config.step_size))
    share = 1 + step / (2 * config.step_size) - cycle
    height = 2 * share if share <= 0.5 else (share - 1) / -0.5
    shrunk = {"triangular": 1.0, "triangular2": 0.5 ** (cycle - 1), "exp_range": config.gamma**step}
    return (1 - config.base_fraction) * height * shrunk[config.schedule]
