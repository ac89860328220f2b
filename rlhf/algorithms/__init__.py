"""The alignment stage: the algorithms, each in its own file, and their comparison.

A new algorithm is a file with its settings (a child of `rlhf.algorithms.config.AlignOptions`), presets of them and a
function that runs it, and a row of `ALGORITHMS`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Algorithm:
    """What the command line, the comparison and its charts know of an algorithm."""

    title: str
    colour: str
    folder: str
    """What it leaves in the run; trained on the gold judge, the same with "-gold" at its end."""
    summary: str
    presets: str
    """Where its presets are, as "module:name": preset -> (description, settings)."""
    run: str
    """Where what makes the stage is, (settings, preset) -> folder: imported after the command line is read."""
    trains: bool = True
    """Whether it leaves a model."""
    any_reward: bool = True
    """Whether it takes --reward."""
    tokens: str = ""
    """What its tokens to learn are, where it does not sample them."""


ALGORITHMS = {
    "ppo": Algorithm(
        title="PPO",
        colour="#1f6fb4",
        folder="rlhf",
        summary="our trainer, with a value model",
        presets="rlhf.algorithms.config:PRESETS",
        run="rlhf.algorithms.ppo:align",
    ),
    "rloo": Algorithm(
        title="RLOO",
        colour="#2e8b57",
        folder="rlhf-rloo",
        summary="TRL's trainer; each response of a group is measured by the mean of the others",
        presets="rlhf.algorithms.config:RLOO_PRESETS",
        run="rlhf.algorithms.group_relative:run_group_relative",
    ),
    "grpo": Algorithm(
        title="GRPO",
        colour="#c9572b",
        folder="rlhf-grpo",
        summary="TRL's trainer; each response is measured in standard deviations of its group",
        presets="rlhf.algorithms.config:GRPO_PRESETS",
        run="rlhf.algorithms.group_relative:run_group_relative",
    ),
    "best-of-n": Algorithm(
        title="best of n",
        colour="#8a5fa8",
        folder="rlhf-best-of-n",
        summary="no training; the SFT model's best response of n",
        presets="rlhf.algorithms.config:BEST_OF_N_PRESETS",
        run="rlhf.algorithms.best_of_n:choose_best",
        trains=False,
    ),
    "dpo": Algorithm(
        title="DPO",
        colour="#b8860b",
        folder="rlhf-dpo",
        summary="TRL's trainer; learns from the pairs of RUN/reward's rankings, without sampling or a reward",
        presets="rlhf.algorithms.dpo:PRESETS",
        run="rlhf.algorithms.dpo:prefer",
        any_reward=False,
        tokens="those of the rankings",
    ),
    "rejection": Algorithm(
        title="rejection",
        colour="#3f8f9b",
        folder="rlhf-rejection",
        summary="fine-tuning on the SFT model's best responses of n",
        presets="rlhf.algorithms.rejection:PRESETS",
        run="rlhf.algorithms.rejection:fine_tune_on_the_best",
    ),
}
"""Every algorithm of the alignment stage, by its name on the command line."""
