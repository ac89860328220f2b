"""What can be set about PPO, and which settings make no sense together.

Names and defaults are those of TRL's PPOConfig and of the papers wherever they have one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal, get_type_hints

from data.console import UserError
from data.jsonl import with_home

COUNTS = ("total_episodes", "batch_size", "num_mini_batches", "num_ppo_epochs", "micro_batch_size", "eval_every")
LENGTHS = ("prompt_length", "response_length", "samples_per_prompt", "overlong_buffer", "reference_replies")
RATES = ("learning_rate", "value_learning_rate", "adam_eps", "weight_decay", "kl_coef", "vf_coef", "entropy_coef")
MORE = ("warmup_updates", "value_only_updates", "overlong_penalty", "save_every", "log_samples")
BOUNDS = ("max_grad_norm", "kl_target", "kl_horizon", "cliprange", "cliprange_high", "cliprange_value", "score_clip")
Range = tuple[str, Callable[[float], bool], tuple[str, ...]]
RANGES: tuple[Range, ...] = (
    ("of at least 1", lambda x: x >= 1, (*COUNTS, *LENGTHS)),
    ("of 0 or more", lambda x: 0 <= x < inf, (*RATES, *MORE)),
    ("of 0 or more, or inf", lambda x: x >= 0, ("target_kl_stop", "ratio_tolerance")),
    ("above 0", lambda x: x > 0, BOUNDS),
    ("above 0, since responses are sampled", lambda x: 0 < x < inf, ("temperature",)),
    ("from 0 to 1", lambda x: 0 <= x <= 1, ("lr_floor", "gamma", "gae_lambda")),
    ("from 0 to less than 1", lambda x: 0 <= x < 1, ("adam_beta1", "adam_beta2")),
    ("that is finite", isfinite, ("missing_eos_penalty",)),
    ("from 0 to 2^64 - 1", lambda x: 0 <= x < 2**64, ("seed",)),
)
"""What numbers a setting may have: in words, as a test, and the settings' names."""
WORDS = {
    "kl_in": ("reward", "loss"),
    "missing_eos_rule": ("subtract", "replace"),
    "frozen_dtype": ("float32", "bfloat16"),
    "shard": (None, "trained", "all"),
    "weights_dtype": ("float32", "bfloat16"),
    "score_transform": (None, "clip", "sigmoid"),
}
"""The words that a setting may be."""


@dataclass
class PPOConfig:
    """Settings of `PPOTrainer`. An episode is one prompt and one sampled response."""

    # ---- the run ----

    output_dir: Path | None = None
    """Folder in which `save_every` keeps `resume/`, and in which a run that fails leaves `last_good/`."""

    total_episodes: int = 10_000
    """Episodes of the whole run; a last incomplete batch is left out."""
    batch_size: int = 64
    """Episodes per rollout, over all processes."""
    num_ppo_epochs: int = 4
    """Passes over each rollout."""
    num_mini_batches: int = 1
    """Optimizer steps per pass: exactly this many, whatever `micro_batch_size`. Must divide `batch_size`."""
    micro_batch_size: int | None = None
    """Episodes per forward and backward pass of one process: what memory allows. The update does not depend on
    it. None: the whole minibatch."""

    # ---- prompts and sampling ----

    prompt_length: int | None = None
    """Largest number of tokens in a prompt; a longer one loses its beginning. None: prompts stay whole."""
    samples_per_prompt: int = 1
    """Responses to each prompt of a rollout. Must divide `batch_size`."""
    response_length: int = 53
    """Largest number of tokens in a response."""
    temperature: float = 0.7
    """Divides the logits, in the rollout and in every log-probability alike. Nothing is ever cut from the
    distribution (no top-k, no top-p): what is sampled is what is scored."""
    stop_token_ids: tuple[int, ...] | None = None
    """Tokens that end a response. None: the end-of-text token of the tokenizer, or of the model. Empty: none does,
    and every response has `response_length` tokens."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end a response as stop tokens do, wherever they are complete in it; they stay in it. One may be given
    as a string."""

    # ---- optimizer ----

    learning_rate: float = 3e-6
    """Initial learning rate of the policy."""
    value_learning_rate: float | None = None
    """Initial learning rate of the value model. None: the policy's."""
    lr_floor: float = 0.0
    """Share of both learning rates that the linear decay ends at; 0 decays to nothing."""
    warmup_updates: int = 0
    """Updates in which both learning rates rise in a line, before they fall."""
    value_only_updates: int = 0
    """Updates, at the beginning, in which the value model learns and the policy stays as it is."""
    adam_beta1: float = 0.9
    """Decay of Adam's mean of gradients, per step."""
    adam_beta2: float = 0.999
    """Decay of Adam's mean of squared gradients, per step."""
    adam_eps: float = 1e-5
    """Adam's epsilon; 1e-8 lets tiny early gradients take full-size steps."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW) of all matrices, times the learning rate; biases and norms have none."""
    max_grad_norm: float = 1.0
    """Bound on the gradient's norm, for policy and value each; inf: none."""

    # ---- KL penalty ----

    kl_coef: float = 0.05
    """Penalty on leaving the reference: score per nat. The first value if `kl_target` is set."""
    kl_target: float | None = None
    """Nats per sequence that the coefficient is steered to. None: the coefficient stays fixed."""
    kl_horizon: float = 10_000.0
    """Episodes over which a steady error of 100 % would double the coefficient."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Where the KL is paid: by the reward of every token (k1), so that a token answers for what follows it; or by the
    loss (k2, per token), so that the value model learns the score alone."""

    # ---- advantages and losses ----

    gamma: float = 1.0
    """Discount per token."""
    gae_lambda: float = 0.95
    """GAE's lambda: 1 trusts the returns, 0 the value model."""
    cliprange: float = 0.2
    """PPO clip range ε for the per-token probability ratio."""
    cliprange_high: float | None = None
    """ε above 1, where it differs from the one below (DAPO's clip-higher, arXiv 2503.14476). None: `cliprange`."""
    cliprange_value: float = 0.2
    """Bound on the change of each value within a rollout, in units of score."""
    vf_coef: float = 0.1
    """Weight of the value loss. The networks are separate and Adam is blind to scale: it matters through
    `max_grad_norm` and `adam_eps` only."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus, score per nat of a token's distribution."""
    whiten_advantages: bool = True
    """Bring advantages to mean 0 and variance 1 over the rollout of all processes."""
    whiten_rewards: bool = False
    """Bring token rewards to variance 1 over the rollout of all processes; the mean stays."""
    target_kl_stop: float | None = None
    """Nats per token between the new and the sampling policy at which the remaining minibatches of a rollout
    are skipped. None: never."""
    ratio_tolerance: float | None = None
    """Largest |ratio - 1| accepted in the first minibatch of a rollout, where it must be 1. None: 0.01, or 0.25
    in bf16."""

    # ---- scores ----

    missing_eos_rule: Literal["subtract", "replace"] = "subtract"
    """What happens to the score of a response without a stop token: `missing_eos_penalty` is subtracted from
    it, or minus that penalty replaces it."""
    missing_eos_penalty: float = 0.0
    """Penalty in units of score; 0 with "subtract" turns the rule off."""
    score_clip: float | None = None
    """Scores are clipped to ± this before the rule above. None: not clipped."""
    score_transform: Literal["clip", "sigmoid"] | None = None
    """What becomes of a score before all other rules. clip: what `score_clip` says. sigmoid: the sigmoid of the score
    minus the mean score of `reference_replies` replies of the reference to the same prompt, which bounds what an
    exploited reward can pay (arXiv 2502.18770). None: nothing, or the clip where `score_clip` is set."""
    reference_replies: int = 4
    """Replies of the reference to each prompt that "sigmoid" measures by; they are sampled once per prompt."""
    overlong_penalty: float = 0.0
    """Score that a response of `response_length` tokens loses; the loss begins `overlong_buffer` tokens before that
    length and rises in a line (DAPO's soft length budget, arXiv 2503.14476)."""
    overlong_buffer: int | None = None
    """Tokens over which `overlong_penalty` rises. None: a fifth of `response_length`."""

    # ---- machine, saving and watching ----

    seed: int = 1
    """Seed for prompt order, sampling and minibatch shuffling."""
    bf16: bool | None = None
    """Autocast to bfloat16. None: on a GPU that has it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto: on a GPU with CUDA where there is one, else on the CPU."""
    cpu: bool = False
    """The same as device "cpu"."""
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of weights that do not learn: of the reference and the reward model, and of what lies below an adapter.
    Quantised weights stay as they are."""
    weights_dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type in which policy and value model compute; the optimizer keeps and saves float32 weights in any case."""
    shard: Literal["trained", "all"] | None = None
    """What is divided among the processes, by torch's FSDP2: weights, gradients and optimizer state of policy and value
    model; or "all", the weights that do not learn included. None: nothing, every process has all."""
    gather_for_generation: bool = True
    """With `shard`: sample from a policy that is gathered once per rollout. False: gather each layer for every token,
    which is slower, for a policy that does not fit one device."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of each layer of policy and value model for the backward pass, and compute the rest again:
    less memory for one more forward pass."""
    save_every: int = 0
    """Updates between saves of the training state to `output_dir`/resume. 0: never."""
    eval_every: int = 10
    """Updates between evaluations: of the trainer's `eval_prompts` and by its `eval_hook`, if it has them."""
    save_best: bool = False
    """Keep the policy with the highest `eval/rlhf_reward` so far in `output_dir`/best; needs `eval_prompts`."""
    save_rollouts: bool = False
    """Write one line per episode to `output_dir`/rollouts.jsonl: prompt, response, score, KL, whether it stopped."""
    log_samples: int = 4
    """Responses of each rollout kept in `PPOTrainer.samples` with their scores."""
    report_to: tuple[str, ...] = ()
    """Trackers that get the metrics of every update: tensorboard (into `output_dir`), wandb, trackio, or another one
    of accelerate's. One may be given as a string."""
    project: str = "ppo"
    """Name of the project in the trackers; tensorboard's folder in `output_dir`."""
    run_name: str | None = None
    """Name of the run in wandb and trackio. None: they make one up."""

    def __post_init__(self) -> None:
        if self.output_dir is not None:
            self.output_dir = with_home(self.output_dir)
        if self.cpu and self.device == "auto":
            self.device = "cpu"
        if self.report_to in (None, "none"):
            self.report_to = ()
        elif isinstance(self.report_to, str):
            self.report_to = (self.report_to,)
        if isinstance(self.stop_strings, str):
            self.stop_strings = (self.stop_strings,)

    @property
    def num_updates(self) -> int:
        """Rollouts, each with its update, in the whole run."""
        return self.total_episodes // self.batch_size

    @property
    def mini_batch_size(self) -> int:
        """Episodes per optimizer step, over all processes."""
        return self.batch_size // self.num_mini_batches

    def micro_rows(self, processes: int) -> int:
        """Episodes per forward pass of one process."""
        return self.micro_batch_size or self.mini_batch_size // processes

    def check(self, processes: int) -> None:
        """Raise UserError on settings that cannot work together on this number of processes."""
        check_numbers(self, RANGES)
        if self.total_episodes < self.batch_size:
            raise UserError(
                f"total_episodes {self.total_episodes} is less than one batch ({self.batch_size}): "
                "raise the one or lower the other"
            )
        if self.batch_size % self.num_mini_batches:
            raise UserError(f"num_mini_batches {self.num_mini_batches} does not divide batch_size {self.batch_size}")
        if self.mini_batch_size % processes:
            raise UserError(
                f"a minibatch of {self.mini_batch_size} episodes (batch_size / num_mini_batches) cannot be shared "
                f"equally by {processes} processes: change one of the three"
            )
        if self.batch_size % self.samples_per_prompt:
            raise UserError(
                f"samples_per_prompt {self.samples_per_prompt} does not divide batch_size {self.batch_size}"
            )
        for name, words in WORDS.items():
            if (word := getattr(self, name)) not in words:
                raise UserError(f"{name} is {word!r}: it is {' or '.join(map(str, words))}")
        for name in ("warmup_updates", "value_only_updates"):
            if getattr(self, name) and getattr(self, name) >= self.num_updates:
                raise UserError(
                    f"{name} {getattr(self, name)} leaves nothing of the {self.num_updates} updates of the run "
                    "(total_episodes / batch_size): lower it"
                )
        if self.value_only_updates and not self.vf_coef:
            raise UserError("value_only_updates is set and vf_coef is 0, so that nothing would learn: set one of them")
        self._check_scores()
        if self.shard is not None and processes == 1:
            raise UserError("shard divides weights among processes, and there is one: launch several, or leave it out")
        if self.shard is None and not self.gather_for_generation:
            raise UserError("gather_for_generation is False and nothing is divided: set shard, or leave it out")
        if self.cpu and self.device != "cpu":
            raise UserError(f"cpu is set and device is {self.device}: leave one of them out")
        for name in ("save_every", "save_best", "save_rollouts"):
            if getattr(self, name) and self.output_dir is None:
                raise UserError(f"{name} needs an output_dir to save to")

    def _check_scores(self) -> None:
        """Raise UserError on rules for scores and stops that contradict each other."""
        if self.score_transform == "clip" and self.score_clip is None:
            raise UserError("score_transform is clip and score_clip is not set: set it to the largest score")
        if self.score_transform == "sigmoid" and self.score_clip is not None:
            raise UserError(
                "score_transform is sigmoid, which bounds scores, and score_clip is set: leave one of them out"
            )
        if self.overlong_buffer is not None and not self.overlong_penalty:
            raise UserError("overlong_buffer is set and overlong_penalty is 0: set that penalty, or leave both out")
        if (self.overlong_buffer or 1) > self.response_length:
            raise UserError(
                f"overlong_buffer {self.overlong_buffer} is more than response_length {self.response_length}: lower it"
            )
        several = isinstance(self.stop_strings, Sequence)
        if not (several and all(isinstance(text, str) and text for text in self.stop_strings)):
            raise UserError(f"stop_strings is {self.stop_strings!r}: give a tuple of texts, none of them empty")


def check_numbers(config: object, ranges: Sequence[Range]) -> None:
    """Raise UserError on a setting of `config` that is not a number of its range, nor None where that is allowed.

    Ranges of settings that it does not have are passed over.
    """
    kinds: dict[str, Any] = get_type_hints(type(config))
    for words, holds, names in ranges:
        for name in names:
            value, kind = getattr(config, name, None), kinds.get(name)
            if kind is None or (value is None and isinstance(None, kind)):
                continue
            whole = not isinstance(0.5, kind)
            if not (isinstance(value, int if whole else int | float) and holds(value)):
                raise UserError(f"{name} is {value!r}: it must be a {'whole ' if whole else ''}number {words}")
