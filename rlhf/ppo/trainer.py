"""PPO for causal language models: one trainer whose loop can be read from top to bottom.

    trainer = PPOTrainer("runs/mine/sft", "runs/mine/reward", prompts, PPOConfig(total_episodes=4096))
    trainer.train()
    trainer.save("aligned")

One update samples a batch of responses, scores them, and takes `num_ppo_epochs` passes of clipped policy and
value steps over them. References: InstructGPT (arXiv 2203.02155), Stiennon et al. (arXiv 2009.01325), Ziegler
et al. (arXiv 1909.08593), "The N+ Implementation Details of RLHF with PPO" (arXiv 2403.17031).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from torch import nn

from data.console import UserError, console
from data.jsonl import with_home
from pretrain.machine import OwnPrecision, choose_device, compute_dtype, seeded, with_cpu_kernels
from rlhf.ppo import state
from rlhf.ppo.adapters import check_peft
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.evaluation import evaluate
from rlhf.ppo.experience import Experience
from rlhf.ppo.kl import KLController
from rlhf.ppo.learner import Diverged, Learner
from rlhf.ppo.networks import value_classifier
from rlhf.ppo.placement import sharding
from rlhf.ppo.placement.models import Models
from rlhf.ppo.prompts import PromptOrder
from rlhf.ppo.rewards.combine import RewardSource
from rlhf.ppo.rewards.rules import Scorer, ScoreRules
from rlhf.ppo.rollout import Episode, Rollout, build_rollout
from rlhf.ppo.trackers import (
    RolloutsFile,
    add_numbers,
    check_hooks,
    check_trackers,
    finish_trackers,
    log_samples,
    start_trackers,
)
from sft.models.loading import save_as_given
from sft.models.tokens import ModelSource

__all__ = ["PPOConfig", "PPOTrainer", "Rollout"]

Metrics = dict[str, float]
Callback = Callable[["PPOTrainer", Metrics], None]
"""Called with (trainer, metrics) after every update, in every process, in the order of `PPOTrainer.callbacks`.

What it adds to `metrics` is logged with the rest. It may look at all of the trainer, and may call `trainer.stop()`,
`save` or `save_state` (these two in all processes); it must not change the weights.
"""


class PPOTrainer:
    """Trains a policy to score well without moving far from a reference.

    policy: folder, hub name or causal language model (trained in place, in float32; what is frozen stays so). Which:
        docs/architectures.md.
    reward: folder, hub name or sequence-classification model of one label; or a function
        `(prompts, responses, **columns) -> scores` of texts, or `-> (scores, metrics)`; or an `HttpReward`; or a list
        of (reward, weight), or a mapping name -> (reward, weight), or a `RewardEnsemble`. A model whose tokenizer is
        not the policy's reads the responses as text.
    prompts: texts, lists of token ids, conversations (lists of {"role", "content"}, written out by the chat
        template), a `datasets.Dataset` with a column "prompt" of these, or a JSONL file of {"prompt"}; what else
        a row holds goes to reward functions that ask for it by name. A reward function gets texts as they were given,
        and conversations as the template wrote them.
    tokenizer: of the policy; None loads it from where the policy came from. Token-id prompts with a reward model
        need none.
    reference: where the KL is measured from; None: a copy of the policy as it is now.
    value: sequence-classification model that the value starts from; None: the (first) reward model, or the
        policy's own body when the reward is a function. Its head starts at zero, but for a value model that `save`
        wrote, which continues with what it learned.
    peft_config: of the package peft, such as `LoraConfig(r=16)`: policy and value learn an adapter each, on weights
        that are frozen and shared with the reference and the reward model. None: all weights learn.
    eval_prompts: like `prompts`; every `config.eval_every` updates the policy answers them, and mean reward and KL
        join the metrics as `eval/…`.
    eval_hook: called with the trainer every `config.eval_every` updates; what it returns joins the metrics.
    callbacks: called with (trainer, metrics) after every update; see `Callback`.
    """

    def __init__(
        self,
        policy: ModelSource,
        reward: RewardSource | Sequence[tuple[RewardSource, float]] | Mapping[str, tuple[RewardSource, float]],
        prompts: Any,
        config: PPOConfig,
        *,
        tokenizer: Any = None,
        reference: ModelSource | None = None,
        value: ModelSource | None = None,
        peft_config: Any = None,
        eval_prompts: Any = None,
        eval_hook: Callable[["PPOTrainer"], Metrics] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        if not isinstance(config, PPOConfig):
            raise UserError(f"config is a {type(config).__name__}: give an rlhf.PPOConfig")
        if isinstance(tokenizer, str | Path):
            raise UserError("tokenizer is a path: give the tokenizer itself, AutoTokenizer.from_pretrained(path)")
        self.config = config
        check_trackers(config)
        check_hooks(eval_hook, callbacks)
        device = choose_device(config.device)
        bf16 = config.bf16
        if bf16 is None:
            bf16 = device.type == "cuda" and compute_dtype("auto", device) == torch.bfloat16
        trackers = [*config.report_to] or None
        self.accelerator = OwnPrecision(device, bf16, log_with=trackers, project_dir=config.output_dir)
        if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise UserError(
                "PPO divides models among processes by itself: launch without FSDP or DeepSpeed, and set shard"
            )
        config.check(self.accelerator.num_processes)
        if peft_config is not None:
            check_peft(peft_config)
        self.models = models = Models(
            config,
            self.accelerator,
            policy,
            reward,
            prompts,
            tokenizer=tokenizer,
            reference=reference,
            value=value,
            peft_config=peft_config,
            eval_prompts=eval_prompts,
        )
        self.policy, self.reference, self.value, self.reward = (
            models.policy,
            models.reference,
            models.value,
            models.reward,
        )
        self.tokenizer, self.tokens, self.peft_config = models.tokenizer, models.tokens, peft_config
        self.prompt_order, self.eval_prompts = PromptOrder(models.prompts, config.seed), models.eval_prompts
        rules = ScoreRules(**{name: getattr(config, name) for name in ScoreRules._fields})
        self.scorer = Scorer(self.reward, models.stop_ids, rules, config.response_length, models.stop_strings)

        self.kl_controller = KLController(config.kl_coef, config.kl_target, config.kl_horizon)
        # Every process draws the numbers of all, so that many processes do what one would.
        self.sampler = seeded(config.seed)
        self.shuffler = seeded(config.seed + 1)
        self.experience = Experience(
            config, self.accelerator, self.policy, self.reference, self.value, self.scorer, models.lockstep
        )
        self.learner = Learner(config, self.accelerator, self.policy, self.value, self.shuffler, models.masters)
        self.updates_done = 0
        self.best = -math.inf
        """The highest `eval/rlhf_reward` so far."""
        self.log_history: list[Metrics] = []
        self.samples: list[dict[str, Any]] = []
        self.eval_hook = eval_hook
        self.callbacks = list(callbacks)
        self._stopping = False
        self.rollouts_file: RolloutsFile | None = None
        if config.output_dir is not None:
            state.make_folder(config.output_dir)
            if config.save_rollouts:
                self.rollouts_file = RolloutsFile(config.output_dir / "rollouts.jsonl")

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    # ---- the loop ----

    @with_cpu_kernels
    def train(self, resume_from: str | Path | None = None) -> list[Metrics]:
        """Run all updates that are left, or until `stop`, and return `log_history`.

        resume_from: a folder of `save_state`.
        """
        if resume_from is not None:
            self.load_state(resume_from)
        self._stopping = False
        try:
            while self.updates_done < self.config.num_updates and not self._stopping:
                self.step()
        except Exception as error:
            # Hours of learning are not lost to a reward or a callback that fails.
            if self.config.output_dir is None or not (self.updates_done or isinstance(error, Diverged)):
                raise
            everywhere = isinstance(error, UserError) or self.experience.failed  # in all processes
            if self.config.shard is not None and not everywhere:
                raise  # its weights cannot be gathered
            told = state.keep_last_good(error, self._write_policy, self.config.output_dir / "last_good")
            if everywhere:
                self.accelerator.wait_for_everyone()  # a launcher ends all when one has ended
            if told is error:
                raise
            raise told from error
        finally:
            finish_trackers(self.accelerator)
        return self.log_history

    def stop(self) -> None:
        """Let `train` return when this update is done; one process is enough. Call `train` again to continue."""
        self._stopping = True

    @with_cpu_kernels
    def step(self) -> Metrics:
        """One update: sample, score, learn, log. Raises `Diverged` where a loss is not finite or far too large."""
        config = self.config
        begin = time.perf_counter()
        self.learner.set_learning_rates(self.updates_done)
        rollout = self.rollout()
        started = time.perf_counter()
        metrics = {"episode": float((self.updates_done + 1) * config.batch_size), **rollout.metrics}
        metrics |= self.learner.update(rollout, value_only=self.updates_done < config.value_only_updates)
        metrics["time/update"] = time.perf_counter() - started
        metrics["eps"] = config.batch_size / (time.perf_counter() - begin)
        # The new coefficient takes effect in the next rollout.
        self.kl_controller.update(metrics["objective/kl"], config.batch_size)
        self.updates_done += 1
        self.log_history.append(metrics)
        if self.eval_prompts and self._evaluates():
            metrics |= self._evaluate()
        self._stopping = any(self.experience.of_all(lambda: self._call_hooks(metrics)))  # all processes or none
        if config.report_to:
            if not self.accelerator.trackers:
                start_trackers(self.accelerator, config, self.updates_done - 1)
            self.accelerator.log(metrics, step=self.updates_done)
            log_samples(self.accelerator, self.samples, self.updates_done)
        due = config.save_every and (self.updates_done % config.save_every == 0 or self._stopping)
        if due and config.output_dir is not None:
            folder = config.output_dir / "resume"
            self._try(lambda: self.save_state(folder))
        return metrics

    # ---- experience ----

    @with_cpu_kernels
    def rollout(self) -> Rollout:
        """Sample a batch, this process its share of it, and compute all that the update needs."""
        config = self.config
        size = config.batch_size // self.accelerator.num_processes
        share = slice(self.accelerator.process_index * size, (self.accelerator.process_index + 1) * size)
        distinct = self.prompt_order.take(config.batch_size // config.samples_per_prompt)
        prompts = [prompt for prompt in distinct for _ in range(config.samples_per_prompt)][share]
        noise = torch.rand(config.batch_size, config.response_length, dtype=torch.float64, generator=self.sampler)
        seconds: dict[str, float] = {}
        self.learner.optimizer.zero_grad()  # a rollout needs the memory of the last update's gradients
        episodes = self.experience.of_all(lambda: self.experience(prompts, noise[share], seconds))
        clock = time.perf_counter()
        rollout = self.prepare_rollout(episodes)
        seconds["time/scoring"] += time.perf_counter() - clock
        rollout.metrics |= seconds
        if parts := getattr(self.reward, "means", None):
            shares = gather_object([parts])
            # A process may have had nothing of a part.
            names = dict.fromkeys(name for share in shares for name in share)
            rollout.metrics |= {f"objective/rewards/{n}": fmean(s[n] for s in shares if n in s) for n in names}
        return rollout

    def prepare_rollout(self, episodes: Sequence[Episode]) -> Rollout:
        """KL, rewards, advantages, returns and metrics of the episodes of all processes."""
        scored = self.experience.apply_rules(episodes)
        self._record(episodes)
        return build_rollout(episodes, scored, self.kl_controller.coef, self.config)

    # ---- saving ----

    def save(self, folder: str | Path, value: bool = False) -> None:
        """Write the policy, and the tokenizer if there is one, as a plain Hugging Face checkpoint.

        Its data type is the one that the policy came in. With a `peft_config` only the adapter is written, as peft's
        own `save_pretrained` does. UserError where the folder cannot be written: what was learned is then in a folder
        for temporary files, which the error names.
        value: write the value model too, as a sequence classifier in `folder`/value, with what adapters it has merged;
        another trainer starts from it by `value=`.
        """
        classifiers: list[Any] = []
        if value and (whole := self.models.whole(self.value)) is not None:
            classifiers.append(value_classifier(whole))
        state.together(lambda: self._write_policy(folder), folder)
        if value:
            model = classifiers[0] if classifiers else None
            state.together(lambda: self._write(with_home(folder) / "value", model), folder)

    def _write_policy(self, folder: str | Path, rescue: bool = True) -> None:
        self._write(folder, self.models.whole(self.models.adapted), rescue)

    def _write(self, folder: str | Path, model: Any, rescue: bool = True) -> None:
        """Save a model in the main process; nobody waits: after an error others may be gone."""

        def write(folder: Path) -> None:
            save_as_given(model, folder)
            if self.tokenizer is not None and hasattr(self.tokenizer, "save_pretrained"):
                self.tokenizer.save_pretrained(folder)

        if self.accelerator.is_main_process:
            state.save_files(folder, write, rescue and self.updates_done > 0)

    def save_state(self, folder: str | Path) -> None:
        """Write all that a resumed run needs; atomic. Every process must call it."""
        shared = self._identity() | {
            # The learning rates follow from the number of updates done.
            "updates_done": self.updates_done,
            "kl_coef": self.kl_controller.coef,
            "best": self.best,
            "prompt_position": self.prompt_order.position,
            "log_history": self.log_history,
        }
        own = {"sampler": self.sampler.get_state(), "shuffler": self.shuffler.get_state()}
        parts = None
        if self.config.shard is None:
            shared["optimizer"] = self.learner.optimizer.state_dict()
            shared |= {name: self.models.masters.learned(module) for name, module in self._learning().items()}
        else:
            learned = sharding.state_of(self._learning(), self.learner.optimizer)
            parts = partial(sharding.save_state, state=learned)
        state.save(folder, self.accelerator, shared, own | state.random_state(self.device), parts)

    def load_state(self, folder: str | Path) -> None:
        """Continue from `save_state`. UserError if it is missing, damaged or of another run."""
        shared, own, parts = state.load(folder, self.accelerator.process_index, self._identity())
        if self.config.shard is None:
            for name, module in self._learning().items():
                state.restore_weights(self.models.masters.learned(module), shared[name], folder)
                self.models.masters.written(module.parameters())
            self.learner.optimizer.load_state_dict(shared["optimizer"])
        else:
            sharding.load_state(parts, sharding.state_of(self._learning(), self.learner.optimizer))
        self.kl_controller.coef = shared["kl_coef"]
        self.best = shared["best"]
        self.updates_done = shared["updates_done"]
        self.prompt_order.position = shared["prompt_position"]
        self.log_history = shared["log_history"]
        self.sampler.set_state(own["sampler"])
        self.shuffler.set_state(own["shuffler"])
        state.restore_random(own, self.device)

    def _learning(self) -> dict[str, nn.Module]:
        return {"policy": self.policy, "value": self.value}

    def _identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with the saved one."""
        processes, prompts = self.accelerator.num_processes, self.prompt_order.fingerprint
        return state.identity(self.config, self.peft_config, processes, prompts, self.models.fingerprint)

    # ---- parts ----

    def _try(self, save: Callable[[], None]) -> None:
        """Hours of learning are worth more than a copy of them: one that cannot be written does not end the run."""
        try:
            save()
        except UserError as error:
            if self.accelerator.is_main_process:
                console.print(f"update {self.updates_done}: {error}; training continues")

    def _evaluate(self) -> Metrics:
        """`evaluate` on the evaluation prompts; the best policy so far is kept, if that is asked for."""
        metrics = evaluate(self, self.eval_prompts)
        if metrics["eval/rlhf_reward"] > self.best:
            self.best = metrics["eval/rlhf_reward"]
            if self.config.save_best and self.config.output_dir is not None:
                best = self.config.output_dir / "best"
                self._try(lambda: state.together(lambda: self._write_policy(best, rescue=False), best))
        return metrics

    def _call_hooks(self, metrics: Metrics) -> list[bool]:
        """`eval_hook` where it is due, and the callbacks, in this process; whether it is to stop."""
        if self.eval_hook and self._evaluates():
            with self.models.lockstep.gathered(self.policy):
                add_numbers(metrics, self.eval_hook(self), "eval_hook")
        for callback in self.callbacks:
            callback(self, metrics)
            add_numbers(metrics, metrics, "a callback")
        return [self._stopping]

    def _evaluates(self) -> bool:
        return self.updates_done % self.config.eval_every == 0 or self.updates_done == self.config.num_updates

    def _record(self, episodes: Sequence[Episode]) -> None:
        """Good scores over gibberish are the classic failure: keep some responses with their scores, or write all."""

        def row(episode: Episode) -> dict[str, Any]:
            return {
                "prompt": self.tokens.text(episode.prompt),
                "response": self.tokens.response_text(episode.response, episode.prompt),
                "score": episode.score,
                "stopped": self.scorer.stopped(episode.response),
            }

        self.samples = [row(episode) for episode in episodes[: self.config.log_samples]]
        if (file := self.rollouts_file) is not None and self.accelerator.is_main_process:
            self._try(lambda: file.write(self.updates_done, [row(each) | {"kl": each.kl} for each in episodes]))
