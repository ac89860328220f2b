"""The settings of the alignment stage and their presets; `like_ppo` makes those of an algorithm from PPO's."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
import tyro

from data.console import UserError
from data.run.options import BatchOptions, StageOptions, check_ranges
from data.run.record import StageRecord
from pretrain.machine import choose_device, compute_dtype
from rlhf.algorithms import ALGORITHMS
from rlhf.asked.balance import Balance, Combination
from rlhf.judging.sources import OTHER_FOLLOWING, USUAL_FOLLOWING
from rlhf.ppo.config import RANGES, PPOConfig, Range, check_numbers

MORE_RANGES: tuple[Range, ...] = (
    ("of at least 1", lambda x: x >= 1, ("token_budget", "num_iterations")),
    ("of at least 2: the others of its group measure a response", lambda x: x >= 2, ("num_generations",)),
    ("above 0", lambda x: x > 0, ("learning_rate",)),
    ("above 0, since TRL measures the KL only where it is penalised", lambda x: x > 0, ("kl_coef",)),
)
"""What numbers the settings may have that spend PPO's budget, beyond PPO's own ranges."""


@dataclass(kw_only=True)
class AlignOptions(StageOptions):
    """What every algorithm of the alignment stage takes."""

    algorithm: str = "ppo"
    """Name of the algorithm. Each has settings of its own: `PRESET --algorithm NAME --help` shows them."""
    reward: str = "model"
    """What is maximised. model: RUN/reward. gold: the gold judge itself, the upper bound of what a reward model can
    teach; that policy is left in RUN/rlhf-gold. module:callable: your function, called as
    callable(prompt, response) -> float."""
    reward_following: Literal["model", "rule", "none"] = USUAL_FOLLOWING
    """Who says how far a reply does as its prompt asks. model: RUN/following. rule: the table of directions itself, the
    upper bound of what that model can teach. none: nothing is asked. A policy by another choice than the default's is
    left next to RUN/rlhf. A run without directions needs none."""
    directed_share: float = 0.47
    """Share of the prompts that ask for something; craft alone is maximised on the others."""
    combine: Combination = "sum"
    """How craft and doing as told make one score: following_weight · following + craft, or
    following_weight · following · sigmoid(craft). Craft has mean 0 and deviation 1 on the SFT model's replies, and
    following is in [0, 1]."""
    following_weight: float = 10.0
    """Score of a reply that does as it is told."""
    craft_weight: float = 3.3
    """Weight of the craft where nothing is asked."""
    craft_cap: float = 0.3
    """Craft beyond this earns nothing where something is asked: what is asked comes first."""
    short_coef: float = 6.0
    """Score that a reply loses for each factor e by which it is shorter than `short_below`."""
    short_below: float = 0.62
    """Length that costs nothing, as a share of the mean length of the SFT model's replies to prompts that ask."""
    prompts: Path | None = None
    """Your own prompts, JSONL of {"prompt"}, taken as they are; where none asks for anything, for the craft alone.
    Default: the text's dialogue."""
    eval_prompts: int = 128
    """Held-out prompts on which the gold judge judges the policy as it learns, at most as many as there are."""

    prompt_length: tyro.conf.Suppress[int] = 64
    response_length: tyro.conf.Suppress[int] = 64

    how: ClassVar[tuple[str, ...]] = (*StageOptions.how, "cpu")

    @property
    def folder_name(self) -> str:
        """PPO's model is the aligned one; those of other algorithms, and of the ceiling, lie next to it."""
        folder = ALGORITHMS[self.algorithm].folder + ("-gold" if self.reward == "gold" else "")
        if self.reward_following in OTHER_FOLLOWING and self.reward_following != USUAL_FOLLOWING:
            folder = folder.replace("rlhf", OTHER_FOLLOWING[self.reward_following], 1)
        return folder

    @property
    def command(self) -> str:
        """What makes `folder_name`, but for the run."""
        options = "" if self.algorithm == "ppo" else f" --algorithm {self.algorithm}"
        if self.reward == "gold":
            options += " --reward gold"
        if self.reward_following in OTHER_FOLLOWING and self.reward_following != USUAL_FOLLOWING:
            options += f" --reward-following {self.reward_following}"
        return f"python -m rlhf PRESET{options}"

    def balance(self, usual_tokens: float) -> Balance:
        """What these settings make of craft and following, where the SFT model's replies have that mean length."""
        return Balance.of(vars(self), usual_tokens)

    def check_balance(self) -> None:
        """Raise UserError where these settings make no score."""
        check_ranges(
            self,
            not_negative="following_weight craft_weight short_coef",
            positive="short_below",
            shares="directed_share",
        )

    def inherit(self, sft: StageRecord) -> None:
        """Take the lengths that the SFT model was trained with."""
        self.prompt_length = sft.config["prompt_length"]
        self.response_length = sft.config["response_length"]


@dataclass(kw_only=True)
class AlignConfig(AlignOptions, PPOConfig):
    """Align the SFT model with PPO against the reward model of the run.

    Both parents at once rather than one within the other: the trainer's settings are flags of the command by their
    own names, and seed, device and lengths are the same ones for both.
    """

    output_dir: tyro.conf.Suppress[Path | None] = None
    prompt_length: tyro.conf.Suppress[int] = 64
    save_best: tyro.conf.Suppress[bool] = False

    def ppo(self, output_dir: Path) -> PPOConfig:
        """The trainer's part of these settings."""
        values = {field.name: getattr(self, field.name) for field in fields(PPOConfig)}
        device = choose_device(self.device)
        if self.bf16 is None and device.type == "cpu":
            values["bf16"] = compute_dtype("auto", device) == torch.bfloat16
        return PPOConfig(**values | {"output_dir": output_dir})


@dataclass(kw_only=True)
class BudgetOptions(AlignOptions):
    """What an algorithm takes that spends PPO's budget on PPO's reward."""

    token_budget: int | None = None
    """Response tokens to sample in all. None: as many as PPO sampled in RUN/rlhf."""
    temperature: float = 1.0
    """Divides the logits. Nothing is cut from the distribution (no top-k, no top-p)."""
    missing_eos_rule: Literal["subtract", "replace"] = "subtract"
    """What happens to the score of a response without a stop token: `missing_eos_penalty` is subtracted from
    it, or minus that penalty replaces it."""
    missing_eos_penalty: float = 1.0
    """Penalty in units of score; 0 with "subtract" turns the rule off."""
    score_clip: float | None = None
    """Scores are clipped to ± this before the rule above. None: not clipped."""

    def check(self) -> None:
        """Raise UserError on what makes no sense."""
        check_numbers(self, (*RANGES, *MORE_RANGES))


@dataclass(kw_only=True)
class BestOfNConfig(BudgetOptions):
    """Best-of-n: the SFT model writes n responses to each held-out prompt and the reward chooses one."""


@dataclass(kw_only=True)
class GroupConfig(BatchOptions, BudgetOptions):
    """RLOO or GRPO, by TRL's trainers: several responses to a prompt, each measured by the others."""

    batch_size: int = 128
    """Responses per rollout, over all processes."""
    num_generations: int = 4
    """Responses to each prompt of a rollout (the group). Must divide `batch_size`."""
    num_mini_batches: int = 4
    """Optimizer steps per pass over a rollout."""
    num_iterations: int = 1
    """Passes over each rollout."""
    micro_batch_size: int | None = None
    """Responses per forward and backward pass of one process: what memory allows. None: the whole minibatch."""

    learning_rate: float = 1e-3
    """Learning rate at the first rollout; it falls linearly as the budget is spent."""
    lr_floor: float = 0.1
    """Share of the learning rate that the decay ends at; 0 decays to nothing."""
    adam_beta1: float = 0.9
    """Decay of Adam's mean of gradients, per step."""
    adam_beta2: float = 0.95
    """Decay of Adam's mean of squared gradients, per step."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    max_grad_norm: float = 1.0
    """Bound on the gradient's norm."""

    kl_coef: float = 0.05
    """Price of leaving the SFT model, score per nat. In RLOO it is paid by the reward, as in PPO; in GRPO by the
    loss, where scores are in standard deviations of their group."""
    cliprange: float = 0.2
    """Bound on the change of the probability ratio that still pays: of a whole response in RLOO, of a token in GRPO."""

    save_every: int = 0
    """Rollouts between saves of the training state. 0: never."""
    eval_every: int = 10
    """Rollouts between the gold judge's looks at replies to held-out prompts."""
    log_samples: int = 4
    """Responses of a rollout kept with their scores."""
    bf16: bool | None = None
    """Autocast to bfloat16. None: where the processor has it."""
    cpu: bool = False
    """The same as device "cpu"."""

    def __post_init__(self) -> None:
        if self.cpu:
            self.device = "cpu"

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps between one rollout and the next."""
        return self.num_mini_batches * self.num_iterations

    @property
    def rows_per_step(self) -> int:
        """Responses of a minibatch, over all processes."""
        return self.batch_size // self.num_mini_batches

    def check(self, processes: int = 1) -> None:
        super().check()
        for name in ("num_generations", "num_mini_batches"):
            if self.batch_size % getattr(self, name):
                raise UserError(f"{name} {getattr(self, name)} does not divide batch_size {self.batch_size}")
        self.micro_batches(processes)


RECIPE = AlignConfig(
    batch_size=128,
    num_ppo_epochs=2,
    num_mini_batches=4,
    temperature=1.0,
    learning_rate=4e-4,
    value_learning_rate=5e-4,
    lr_floor=0.1,
    adam_beta2=0.95,
    missing_eos_penalty=1.0,
)
"""What the presets share. PPOConfig's own defaults are for large models."""

PRESETS: dict[str, tuple[str, AlignConfig]] = {
    "smoke": (
        "seconds: what the tests drive",
        replace(
            RECIPE, total_episodes=64, batch_size=16, num_mini_batches=2, save_every=2, eval_every=2, eval_prompts=16
        ),
    ),
    "laptop": (
        "2 CPU cores, under 4 minutes",
        replace(
            RECIPE,
            total_episodes=11_520,
            num_ppo_epochs=1,
            learning_rate=1.7e-3,
            value_learning_rate=1.5e-3,
            lr_floor=0.04,
            gae_lambda=0.9,
            cliprange_value=0.3,
            kl_coef=0.2,
            kl_target=12.0,
            kl_horizon=8000.0,
            missing_eos_penalty=2.0,
            save_every=20,
            eval_every=20,
        ),
    ),
    "gpu": (
        "one GPU, bf16",
        replace(
            RECIPE,
            total_episodes=51_200,
            batch_size=512,
            cliprange_value=0.3,
            kl_coef=0.08,
            missing_eos_penalty=3.0,
            learning_rate=2e-4,
            value_learning_rate=3e-4,
            save_every=20,
            eval_every=10,
            eval_prompts=256,
        ),
    ),
}

CRAFT_ALONE = {
    "laptop": replace(
        RECIPE,
        reward_following="none",
        total_episodes=6144,
        num_ppo_epochs=1,
        learning_rate=1.5e-3,
        value_learning_rate=1e-3,
        cliprange_value=0.3,
        kl_coef=0.135,
        missing_eos_penalty=4.0,
        save_every=10,
        eval_every=12,
    )
}
"""What suits a run in which nothing is asked, where that is not the preset of the name."""

Config = TypeVar("Config", bound=AlignOptions)


def like_ppo(preset: str, config: type[Config], **changes: Any) -> tuple[str, Config]:
    """A preset of PPO as another configuration: its value for every setting that both have."""
    description, ppo = PRESETS[preset]
    own = {field.name for field in fields(config)} - {"algorithm"}
    shared = {field.name: getattr(ppo, field.name) for field in fields(ppo) if field.name in own}
    return description, config(**shared | changes)


RLOO_PRESETS = {
    "smoke": like_ppo("smoke", GroupConfig, algorithm="rloo"),
    "laptop": like_ppo("laptop", GroupConfig, algorithm="rloo", learning_rate=1e-3),
    "gpu": like_ppo("gpu", GroupConfig, algorithm="rloo", num_generations=8),
}
GRPO_PRESETS = {
    "smoke": like_ppo("smoke", GroupConfig, algorithm="grpo"),
    "laptop": like_ppo("laptop", GroupConfig, algorithm="grpo", learning_rate=1e-3),
    "gpu": like_ppo("gpu", GroupConfig, algorithm="grpo", num_generations=8),
}
BEST_OF_N_PRESETS = {name: like_ppo(name, BestOfNConfig, algorithm="best-of-n") for name in PRESETS}
