"""TRL's RLOOTrainer and GRPOTrainer as the alignment stage uses them: token ids in, token ids out, all counted."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import reduce
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from data.console import UserError
from pretrain.machine import compute_dtype
from rlhf.algorithms.config import GroupConfig
from rlhf.algorithms.task import AlignmentTask
from rlhf.ppo.prompts import Prompt, PromptOrder
from rlhf.ppo.rewards.rules import Scorer
from sft.models.batch import position_ids
from sft.models.loading import load_causal_lm
from sft.trl import SilentTrainer, trainer_arguments


class PromptTokenizer(PreTrainedTokenizerFast):
    """The run's tokenizer for TRL, which takes text: it cuts a prompt, from the left, to the ids PPO has of it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, truncation=True, split_special_tokens=True, **kwargs)


class TokenBudget:
    """Tokens sampled so far, of how many, and the metrics of the last rollout."""

    def __init__(self, config: GroupConfig, total: int, device: torch.device) -> None:
        self.config, self.total, self.device = config, total, device
        self.bf16 = compute_dtype("auto", device) == torch.bfloat16 if config.bf16 is None else config.bf16
        self.tokens = self.tokens_before = 0
        """Response tokens sampled, over all processes: now, and before the last rollout."""
        self.rollout: dict[str, float] = {}
        self.samples: list[dict[str, Any]] = []

    @property
    def spent(self) -> bool:
        return self.tokens >= self.total

    def rate(self, tokens: int) -> float:
        """Learning rate after so many tokens, as a share of the first: a line that ends at `lr_floor`."""
        return 1.0 - (1.0 - self.config.lr_floor) * min(1.0, tokens / self.total)

    def metrics(self, logs: dict[str, float]) -> dict[str, float]:
        """The last rollout by the names of PPO's log; `logs` are TRL's metrics of the steps on it."""
        rollout, coef = self.rollout, self.config.kl_coef
        penalty = -coef * rollout["objective/kl"]
        return rollout | {
            "objective/non_score_reward": penalty,
            "objective/rlhf_reward": rollout["objective/scores"] + penalty,
            "objective/kl_coef": coef,
            "objective/entropy": logs["entropy"] * rollout["objective/response_length"],
            "policy/clipfrac_avg": logs["clip_ratio/region_mean"],
            "loss/policy_avg": logs["loss"],
            "grad_norm/policy": logs["grad_norm"],
            "group/same_reward": logs["frac_reward_zero_std"],
            "lr": self.config.learning_rate * self.rate(self.tokens_before),
            "time/update": logs["step_time"] * self.config.steps_per_rollout
            - rollout["time/rollout"]
            - rollout["time/scoring"],
        }


class BudgetedReward:
    """The reward as TRL calls it, on the sampled ids and the whole prompts; it counts what was sampled."""

    __name__ = "score"

    def __init__(self, scorer: Scorer, budget: TokenBudget) -> None:
        self.scorer, self.budget = scorer, budget

    def __call__(
        self,
        prompts: list[str],
        completions: list[str],
        completion_ids: list[list[int]],
        prompt_ids: list[list[int]],
        **unused: Any,
    ) -> list[float]:
        """Scores of this process's responses; `prompt_ids` is a column of the data set."""
        budget = self.budget
        whole = [Prompt(ids, text) for ids, text in zip(prompt_ids, prompts, strict=True)]
        with torch.autocast(budget.device.type, torch.bfloat16, enabled=budget.bf16):
            scored = self.scorer(whole, completion_ids)
        lengths = torch.tensor([float(len(ids)) for ids in completion_ids], device=scored.raw.device)
        columns = torch.stack([torch.ones_like(lengths), lengths, scored.raw, scored.scores, scored.stopped.float()])
        count, tokens, *sums = reduce(columns.cpu().double().sum(1).float().to(columns.device), "sum").tolist()
        budget.tokens_before, budget.tokens = budget.tokens, budget.tokens + round(tokens)
        names = ("objective/reward_scores", "objective/scores", "objective/stopped")
        budget.rollout = {name: total / count for name, total in zip(names, sums, strict=True)}
        budget.rollout["objective/response_length"] = tokens / count
        budget.samples = [
            {
                "prompt": prompts[i],
                "response": completions[i],
                "score": scored.raw[i].item(),
                "stopped": bool(scored.stopped[i]),
            }
            for i in range(0, len(prompts), budget.config.num_generations)[: budget.config.log_samples]
        ]
        return scored.scores.tolist()


class LoggingMixin(SilentTrainer):
    """What either trainer does next to TRL's work: the KL to the SFT model as PPO logs it, and seconds."""

    budget: TokenBudget
    model: Any
    accelerator: Any
    args: Any
    _metrics: Any

    def _generate(self, prompts: list[str]) -> Any:
        started = time.perf_counter()
        generated = super()._generate(prompts)  # type: ignore[misc]
        self._rollout_seconds = time.perf_counter() - started
        return generated

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        started = time.perf_counter()
        batch = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        self.budget.rollout |= {
            "objective/kl": self._sequence_kl(batch),
            "time/rollout": self._rollout_seconds,
            "time/scoring": time.perf_counter() - started - self._rollout_seconds,
        }
        return batch

    def _sequence_kl(self, batch: dict[str, Any]) -> float:
        """KL of the sampling policy to the SFT model: k1 summed over a response, mean over all."""
        if "ref_per_token_logps" not in batch:  # RLOO keeps none, and logs k1 already, as a mean over tokens
            return float(self._metrics["train"]["kl"][-1]) * self.budget.rollout["objective/response_length"]
        mask = batch["completion_mask"]
        logps = batch.get("old_per_token_logps")
        if logps is None:  # one step per rollout: TRL has no need of them
            ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
            attention_mask = torch.cat([batch["prompt_mask"], mask], dim=1)
            with torch.no_grad():
                logps, *_ = self._get_per_token_logps_and_entropies(  # type: ignore[attr-defined]
                    self.model, ids, attention_mask, mask.shape[1], self.args.per_device_train_batch_size
                )
        kl = ((logps - batch["ref_per_token_logps"]) * mask).sum(1).mean()
        return float(reduce(kl, "mean"))


class LoggedRLOO(LoggingMixin, RLOOTrainer):
    """TRL's RLOO."""


class LoggedGRPO(LoggingMixin, GRPOTrainer):
    """TRL's GRPO."""


def build_trainer(task: AlignmentTask, scorer: Scorer, budget: TokenBudget, output_dir: Path) -> Any:
    """TRL's trainer of `config.algorithm` on the run's SFT model; it keeps its checkpoints in `output_dir`."""
    config = budget.config
    # Without dropout: TRL trains in training mode.
    model = load_causal_lm(config.run / "sft", budget.device, dropout=0.0)
    optimizer = torch.optim.Adam(
        model.parameters(), config.learning_rate, (config.adam_beta1, config.adam_beta2), config.adam_eps
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: budget.rate(budget.tokens))
    tokenizer: Any = PromptTokenizer.from_pretrained(
        config.run / "sft", model_max_length=config.prompt_length, truncation_side="left"
    )
    trainer_class: Any = LoggedRLOO if config.algorithm == "rloo" else LoggedGRPO
    arguments: Any = RLOOConfig if config.algorithm == "rloo" else GRPOConfig
    trainer = trainer_class(
        model=model,
        reward_funcs=BudgetedReward(scorer, budget),
        args=arguments(**group_arguments(budget, output_dir)),
        train_dataset=prompt_dataset(task, tokenizer),
        processing_class=tokenizer,
        optimizers=(optimizer, schedule),
    )
    trainer.budget = budget
    for each in (trainer.model, trainer.ref_model):
        count_real_positions(each)
    return trainer


def prompt_dataset(task: AlignmentTask, tokenizer: PromptTokenizer) -> Dataset:
    """The prompts in PPO's order, as text and as PPO's ids. UserError if TRL would make other ids of a text."""
    ordered = PromptOrder(task.prompts, task.config.seed).take(len(task.prompts))
    texts = [prompt.text for prompt in ordered]
    for ours, theirs in zip(ordered, tokenizer(text=texts)["input_ids"], strict=True):
        if list(ours) != theirs:
            raise UserError(
                f"transformers makes other tokens than ours of the prompt {str(ours.text)[-40:]!r}: "
                "install the versions of constraints.txt"
            )
    return Dataset.from_dict({"prompt": texts, "prompt_ids": [list(prompt) for prompt in ordered]})


def count_real_positions(model: nn.Module) -> None:
    """Have a model count its positions from the first real token, as it does when it samples.

    TRL pads prompts on the left and leaves the positions to the model, which would count the padding too: with
    learned positions it would then train on other log-probabilities than those of what it has sampled (trl#6819).
    """

    def positions(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.dim() == 2 and kwargs.get("position_ids") is None:
            kwargs["position_ids"] = position_ids(mask)
        return args, kwargs

    model.register_forward_pre_hook(positions, with_kwargs=True)


def group_arguments(budget: TokenBudget, output_dir: Path) -> dict[str, Any]:
    """Our settings by TRL's names, the same for both trainers."""
    config = budget.config
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    batches = config.micro_batches(processes)
    # The budget ends a run; this bound on the steps is never reached, since a response has a token at least.
    rollouts = math.ceil(budget.total / config.batch_size)
    return trainer_arguments(config, output_dir, batches, budget.device, budget.bf16) | {
        "max_steps": rollouts * config.steps_per_rollout,
        "generation_batch_size": config.batch_size,
        "num_generations": config.num_generations,
        "num_iterations": config.num_iterations,
        "max_completion_length": config.response_length,
        "temperature": config.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "shuffle_dataset": False,
        "beta": config.kl_coef,
        "epsilon": config.cliprange,
        "logging_steps": config.steps_per_rollout,
        "save_strategy": "steps" if config.save_every else "no",
        "save_steps": max(1, config.save_every) * config.steps_per_rollout,
    }
