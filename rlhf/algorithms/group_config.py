"""What RLOO, GRPO and best-of-n are made of, and their presets: PPO's, but for what is named here."""

from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from data.console import UserError
from data.run.options import BatchOptions
from rlhf.algorithms.config import PRESETS, AlignOptions


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
    """In units of score; 0 with "subtract" turns the rule off."""
    score_clip: float | None = None
    """Scores are clipped to ± this before the rule above. None: not clipped."""

    def check(self) -> None:
        """Raise UserError on what makes no sense."""
        if self.token_budget is not None and self.token_budget < 1:
            raise UserError(f"token_budget is {self.token_budget}: give at least one token to sample")
        if not self.temperature > 0:
            raise UserError(f"temperature is {self.temperature}: responses are sampled, so it must be above 0")
        if self.eval_prompts < 1:
            raise UserError(f"eval_prompts is {self.eval_prompts}: it must be at least 1")


@dataclass(kw_only=True)
class BestOfNConfig(BudgetOptions):
    """Best-of-n: the SFT model writes n responses to each held-out prompt and the reward chooses one."""

    algorithm: Literal["ppo", "rloo", "grpo", "best-of-n"] = "best-of-n"


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
    """At the first rollout; from there it falls in a line as the budget is spent."""
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
        counts = ("batch_size", "num_generations", "num_mini_batches", "num_iterations", "eval_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise UserError(f"micro_batch_size is {self.micro_batch_size}: it must be at least 1")
        if self.num_generations < 2:
            raise UserError("num_generations is 1: a response is measured by the others of its group, give 2 at least")
        for name in ("num_generations", "num_mini_batches"):
            if self.batch_size % getattr(self, name):
                raise UserError(f"{name} {getattr(self, name)} does not divide batch_size {self.batch_size}")
        if self.batch_size % (self.num_mini_batches * processes):
            raise UserError(
                f"the {self.batch_size // self.num_mini_batches} responses of a minibatch (batch_size / "
                f"num_mini_batches) cannot be shared equally by {processes} processes: change one of the three"
            )
        self.micro_batches(processes)
        if not self.kl_coef > 0:
            raise UserError(
                f"kl_coef is {self.kl_coef}: TRL measures the KL only where it is penalised: give a small one"
            )
        if not 0 <= self.lr_floor <= 1:
            raise UserError(f"lr_floor is {self.lr_floor}: it is a share, from 0 to 1")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}: it must be above 0")


Config = TypeVar("Config", bound=BudgetOptions)


def _as_ppo(preset: str, config: type[Config], **changes: Any) -> tuple[str, Config]:
    """PPO's preset of that name as another configuration: its value for every setting that both have."""
    description, ppo = PRESETS[preset]
    own = {field.name for field in fields(config)} - {"algorithm"}
    shared = {field.name: getattr(ppo, field.name) for field in fields(ppo) if field.name in own}
    return description, config(**shared | changes)


RLOO_PRESETS = {
    "smoke": _as_ppo("smoke", GroupConfig, algorithm="rloo"),
    "laptop": _as_ppo("laptop", GroupConfig, algorithm="rloo", learning_rate=1e-3),
    "gpu": _as_ppo("gpu", GroupConfig, algorithm="rloo", num_generations=8),
}
GRPO_PRESETS = {
    "smoke": _as_ppo("smoke", GroupConfig, algorithm="grpo"),
    "laptop": _as_ppo("laptop", GroupConfig, algorithm="grpo", learning_rate=1e-3),
    "gpu": _as_ppo("gpu", GroupConfig, algorithm="grpo", num_generations=8),
}
BEST_OF_N_PRESETS = {name: _as_ppo(name, BestOfNConfig) for name in PRESETS}
