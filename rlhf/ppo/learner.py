"""The learning half of PPO: several epochs of clipped steps over one rollout, for policy and value."""

import math
from collections import defaultdict
from contextlib import ExitStack
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from data.console import UserError
from rlhf.ppo import losses
from rlhf.ppo.adapters import trainable
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.networks import ValueModel
from rlhf.ppo.placement.precision import MasterAdam, Masters
from rlhf.ppo.placement.sharding import full_tensor
from rlhf.ppo.rollout import Rollout, unflatten
from sft.models.batch import micro_batches
from sft.models.forward import LogProbs

EXPLOSION = 1e3
"""A loss so many times larger than that of a policy that stays and of a value model that always says 0."""


class Diverged(UserError):
    """Learning has blown up; the weights are those before the step that would have spoilt them."""


class Learner:
    """Holds the optimizer of the two networks, a group each, and the order of minibatches.

    policy, value: bare modules; they are moved to the device and trained in place.
    shuffler: draws the minibatches, the same in every process. masters: of weights in bfloat16.
    """

    def __init__(
        self,
        config: PPOConfig,
        accelerator: Accelerator,
        policy: LogProbs,
        value: ValueModel,
        shuffler: torch.Generator,
        masters: Masters | None = None,
    ) -> None:
        self.config = config
        self.accelerator: Any = accelerator
        self.shuffler = shuffler
        self.rounds = "bfloat16" in (config.frozen_dtype, config.weights_dtype) or accelerator.mixed_precision == "bf16"
        value_rate = config.learning_rate if config.value_learning_rate is None else config.value_learning_rate
        groups = [
            {"params": weights, "weight_decay": decay, "rate": rate}
            for model, rate in ((policy, config.learning_rate), (value, value_rate))
            for weights, decay in _decayed(list(trainable(model).values()), config.weight_decay)
        ]
        betas = (config.adam_beta1, config.adam_beta2)
        settings: dict[str, Any] = {
            "betas": betas,
            "eps": config.adam_eps,
            "decoupled_weight_decay": True,
            "fused": True,
        }
        optimizer: torch.optim.Optimizer
        if masters is not None and masters.copies:
            optimizer = MasterAdam(groups, masters, config.learning_rate, **settings)
        else:
            optimizer = torch.optim.Adam(groups, config.learning_rate, **settings)
        # The wrapped models average their gradients over the processes.
        self.policy: Any
        self.value: Any
        self.optimizer: Any
        if isinstance(policy, FSDPModule):  # does the same by itself
            self.policy, self.value, self.optimizer = policy, value, accelerator.prepare(optimizer)
        else:
            self.policy, self.value, self.optimizer = accelerator.prepare(policy, value, optimizer)

    def set_learning_rates(self, updates_done: int) -> None:
        """A line up over `warmup_updates`, and one down to `lr_floor` of the rate where the run ends."""
        config, warmup = self.config, self.config.warmup_updates
        if updates_done < warmup:
            factor = (updates_done + 1) / (warmup + 1)
        else:
            progress = (updates_done - warmup) / (config.num_updates - warmup)
            factor = 1.0 - (1.0 - config.lr_floor) * progress
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor

    def update(self, rollout: Rollout, value_only: bool = False) -> dict[str, float]:
        """All PPO epochs over one rollout; the means of what happened in them.

        value_only: whether the policy stays as it is.
        """
        config = self.config
        done: list[dict[str, float]] = []
        limits = self._loss_limits(rollout)
        for _ in range(config.num_ppo_epochs):
            # Minibatches are random subsets, drawn again each epoch; length orders rows only within one.
            order = torch.randperm(len(rollout.prompts), generator=self.shuffler).tolist()
            for start in range(0, len(order), config.mini_batch_size):
                stats = self._backward(rollout, order[start : start + config.mini_batch_size], value_only)
                if not done:
                    self._check_first_ratio(stats["ratio_error"])
                elif config.target_kl_stop is not None and stats["approxkl"] > config.target_kl_stop:
                    # Before the step: the minibatch that shows the policy has gone too far is not learned from.
                    return self._update_metrics(done)
                done.append(stats | self._optimizer_step(stats, limits))
        return self._update_metrics(done)

    def _backward(self, rollout: Rollout, rows: list[int], value_only: bool = False) -> dict[str, float]:
        """Gradients of one minibatch from zero, over all its micro-batches and processes; its statistics.

        rows: of the whole minibatch; every process takes its share of them, of about the same lengths.
        Every loss is divided by the response tokens of the whole minibatch, everywhere: 1 x 64 rows, 4 x 16
        with accumulation and 2 processes x 32 give the same gradient.
        """
        config = self.config
        processes, device = self.accelerator.num_processes, self.accelerator.device
        tokens = rollout.mask[rows].sum().float()
        by_length = sorted(rows, key=lambda i: len(rollout.prompts[i]) + len(rollout.responses[i]))
        mine = by_length[self.accelerator.process_index :: processes]
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=device))
        ratio_error = torch.zeros((), device=device)
        rows_each = config.micro_rows(processes)
        micros = list(micro_batches(rollout.prompts, rollout.responses, mine, rows_each, device))
        for micro, batch in micros:
            with ExitStack() as contexts:
                if batch is not micros[-1][1]:
                    contexts.enter_context(self.accelerator.no_sync(self.policy))
                    contexts.enter_context(self.accelerator.no_sync(self.value))
                mask = rollout.mask[micro]
                # Copies of divided weights would be whole.
                with self.accelerator.autocast(cache=config.shard is None):
                    with torch.set_grad_enabled(not value_only):
                        flat, entropies = self.policy(batch, config.temperature)
                    values = self.value(batch)
                logprobs, old_logprobs = unflatten(flat, mask), rollout.logprobs[micro]
                advantages = rollout.advantages[micro]
                policy_loss, policy_stats = losses.policy_loss(
                    logprobs, old_logprobs, advantages, mask, config.cliprange, tokens, config.cliprange_high
                )
                objective = policy_loss
                if config.entropy_coef:
                    objective = objective - config.entropy_coef * entropies.sum() / tokens
                if config.kl_in == "loss":
                    kl_loss = losses.kl_loss(logprobs, rollout.reference_logprobs[micro], mask, tokens)
                    objective = objective + rollout.kl_coef * kl_loss
                    sums["kl_loss"] += kl_loss.detach()
                old_values, returns = rollout.values[micro], rollout.returns[micro]
                value_loss, value_stats = losses.value_loss(
                    unflatten(values, mask), old_values, returns, mask, config.cliprange_value, tokens
                )
                # The wrapped models *average* gradients over processes; a sum is wanted.
                self.accelerator.backward((objective + config.vf_coef * value_loss) * processes)
            ratio_error = torch.maximum(ratio_error, policy_stats.pop("ratio_error"))
            stats = policy_stats | {"entropy": entropies.detach().sum(), "value_clipfrac": value_stats["clipfrac"]}
            for name, total in stats.items():
                sums[name] += total / tokens
            sums["policy_loss"] += policy_loss.detach()
            sums["value_loss"] += value_loss.detach()
        means = self.accelerator.reduce(torch.stack(list(sums.values())), reduction="sum").tolist()
        worst = self.accelerator.gather(ratio_error[None]).max().item()
        return {**dict(zip(sums, means, strict=True)), "ratio_error": worst}

    @staticmethod
    def _loss_limits(rollout: Rollout) -> tuple[float, float]:
        """The policy's and the value's loss from which on learning counts as exploded."""
        squares = [(x[rollout.mask] ** 2).mean().item() for x in (rollout.advantages, rollout.returns)]
        return EXPLOSION * max(squares[0] ** 0.5, 1.0), EXPLOSION * max(squares[1] / 2, 1.0)

    def _optimizer_step(self, stats: dict[str, float], limits: tuple[float, float]) -> dict[str, float]:
        """Clip and step both networks, or raise Diverged with the weights as they were."""
        bound = self.config.max_grad_norm
        policy_norm, value_norm = (
            float(full_tensor(self.accelerator.clip_grad_norm_(network.parameters(), bound)))
            for network in (self.policy, self.value)
        )
        numbers = (stats["policy_loss"], stats["value_loss"], policy_norm, value_norm)
        # "not below" rather than "above": NaN is neither.
        below = all(abs(loss) < limit for loss, limit in zip(numbers, limits, strict=False))
        if not (below and all(map(math.isfinite, numbers))):
            self.optimizer.zero_grad()
            raise Diverged(
                f"PPO diverged (policy loss {stats['policy_loss']:.3g}, value loss "
                f"{stats['value_loss']:.3g}, gradient norms {policy_norm:.3g} and {value_norm:.3g}); the weights "
                "are those before that step: lower learning_rate or value_learning_rate, or raise kl_coef"
            )
        self.optimizer.step()
        return {"policy_norm": policy_norm, "value_norm": value_norm}

    def _check_first_ratio(self, error: float) -> None:
        """Before any step the policy is the one that sampled: a ratio other than 1 is a bug, not learning."""
        tolerance = self.config.ratio_tolerance
        if tolerance is None:
            # CPU matmuls at "medium" precision are bf16 inside on processors with AMX: noise, not a bug.
            tolerance = 0.25 if self.rounds else 0.01
        if not error <= tolerance:
            raise UserError(
                f"the first minibatch's probability ratio is off by {error:.3g} (at most {tolerance} is noise): the "
                "model's log-probabilities differ between two passes of the same weights; is something random in "
                "it, or were its weights changed by a callback?"
            )

    def _update_metrics(self, done: list[dict[str, float]]) -> dict[str, float]:
        """What is logged of an update; done: the statistics of its steps."""
        means = {name: sum(stats[name] for stats in done) / len(done) for name in done[0]}
        logged = {
            "policy/approxkl_avg": means["approxkl"],
            "policy/clipfrac_avg": means["clipfrac"],
            "policy/entropy_avg": means["entropy"],
            "loss/policy_avg": means["policy_loss"],
            "loss/value_avg": means["value_loss"],
            "val/clipfrac_avg": means["value_clipfrac"],
            "val/ratio": 1.0 + means["ratio_shift"],
            "val/ratio_var": means["ratio_shift_squared"] - means["ratio_shift"] ** 2,
            "val/first_ratio_error": done[0]["ratio_error"],
            "grad_norm/policy": means["policy_norm"],
            "grad_norm/value": means["value_norm"],
            "lr": self.optimizer.param_groups[0]["lr"],
            "optimizer_steps": float(len(done)),
        }
        return logged | ({"loss/kl_avg": means["kl_loss"]} if "kl_loss" in means else {})


def _decayed(weights: list[Tensor], decay: float) -> list[tuple[list[Tensor], float]]:
    """The weights with the decay that each has: matrices the whole of it, biases and norms none."""
    if not decay:
        return [(weights, 0.0)]
    parts = [([w for w in weights if w.dim() > 1], decay), ([w for w in weights if w.dim() < 2], 0.0)]
    return [part for part in parts if part[0]]
