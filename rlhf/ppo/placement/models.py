"""The four models of PPO: loaded, checked against each other, and placed where and as they compute."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from data.console import UserError
from pretrain.machine import OwnPrecision
from rlhf.ppo import state
from rlhf.ppo.adapters import add_adapter, share_weights, trainable
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.networks import VALUE_HEAD, ValueModel, apart, check_can_learn, value_backbone
from rlhf.ppo.placement import precision
from rlhf.ppo.placement.sharding import Lockstep, blank, divide, filled
from rlhf.ppo.prompts import Prompt, columns_of, encode_prompts
from rlhf.ppo.rewards.base import PolicyTokens
from rlhf.ppo.rewards.build import build_reward, models_of
from sft.models.batch import Batch
from sft.models.forward import LogProbs
from sft.models.loading import check_fits, is_quantised, load_causal_lm, load_classifier
from sft.models.sampling import HFCachedModel, sampler
from sft.models.stops import StopStrings
from sft.models.tokens import ModelSource, find_stop_ids, load_tokenizer, same_tokens


class Models:
    """Policy, reference, reward and value model, and the tokens that they read.

    The arguments are those of `PPOTrainer`. Raises UserError for models that do not fit each other or cannot learn.
    """

    def __init__(
        self,
        config: PPOConfig,
        accelerator: OwnPrecision,
        policy: ModelSource,
        reward: Any,
        prompts: Any,
        *,
        tokenizer: Any,
        reference: ModelSource | None,
        value: ModelSource | None,
        peft_config: Any,
        eval_prompts: Any,
    ) -> None:
        self.config, self.accelerator, self.peft_config = config, accelerator, peft_config
        micro_rows, device = config.micro_rows(accelerator.num_processes), accelerator.device
        # What becomes smaller is made small before it is on the device.
        load_on = torch.device("cpu") if precision.shrinks(config) else device
        lm = load_causal_lm(policy, load_on, dropout=None, computes_on=device)
        check_can_learn(lm, peft_config)
        self.tokenizer = tokenizer = load_tokenizer(lm) if tokenizer is None else tokenizer
        self.stop_ids = find_stop_ids(config.stop_token_ids, tokenizer, lm)
        self.stop_strings = StopStrings(config.stop_strings, tokenizer) if config.stop_strings else None
        vocab_size = lm.config.get_text_config().vocab_size
        self.prompts = encode_prompts(prompts, tokenizer, config.prompt_length, vocab_size)
        self.eval_prompts: list[Prompt] = []
        if eval_prompts is not None:
            self.eval_prompts = encode_prompts(eval_prompts, tokenizer, config.prompt_length, vocab_size, "eval prompt")
        elif config.save_best:
            raise UserError("save_best needs eval_prompts, on which a policy is the best: give the trainer some")
        length = max(map(len, [*self.prompts, *self.eval_prompts])) + config.response_length
        # Copies are made before anything is trained or prepared; those next to an adapter share its frozen weights.
        copied: Callable[[PreTrainedModel], PreTrainedModel]
        copied = copy.deepcopy if peft_config is None else share_weights
        if reference is None or reference is policy:
            reference_lm = copied(lm)
        else:
            source = apart(reference, lm, copied)
            reference_lm = load_causal_lm(source, load_on, dropout=None, role="reference", computes_on=device)
        reward = apart(reward, lm, copied)
        columns = columns_of([*self.prompts, *self.eval_prompts])
        self.tokens = PolicyTokens(tokenizer, vocab_size, self.stop_ids, length, columns, self.stop_strings)
        self.reward, start = build_reward(reward, self.tokens, micro_rows, device, load_on)
        same_file = isinstance(value, str | Path) and str(value) == str(reward)
        if value is not None and not (same_file and start is not None):
            # Its head may be missing: it is not used.
            start = load_classifier(value, load_on, role="value model", new_head=True, computes_on=device)
        goes_on = value is not None and start is not None and getattr(start.config, VALUE_HEAD, False)
        role = "policy" if start is None else "value model"
        backbone = value_backbone(lm if start is None else start, peft_config, role, given=value is not None)
        self.value = ValueModel(backbone, start if goes_on else None, role)
        for role, model in (("policy", lm), ("reference", reference_lm), ("value model", self.value.backbone)):
            check_fits(model, role, vocab_size, length)
        for role, given in (("reference", reference), ("value model", value)):
            if given is not None and not same_tokens(tokenizer, load_tokenizer(given, role)):
                raise UserError(f"the {role} has another tokenizer than the policy: it must read the same tokens")
        self.adapted = lm if peft_config is None else add_adapter(lm, peft_config, "policy")
        """The policy as it is saved: peft's model around it, where it has an adapter."""
        self.policy = LogProbs(lm, "policy")
        sampler(self.policy)  # says now, not in the first rollout, where it will be slow
        self.reference = LogProbs(reference_lm, "reference").requires_grad_(False)
        self.fingerprint = state.fingerprint(self.reference)
        """Of the reference as it was given, whatever it is kept in."""
        self._place()

    def whole(self, module: Any) -> Any:
        """A module with all of its weights as they were learned: another over the same tensors, where they are kept.

        Of a sharded one only the main process gets it. Every process must call it.
        """
        if id(module) in self.blanks:
            return filled(self.blanks[id(module)], module, self.accelerator.is_main_process)
        if not self.masters.copies:
            return module
        return copy.deepcopy(module, {id(weight): self.masters.of(weight) for weight in module.parameters()})

    def _place(self) -> None:
        """Give the models the data types and the device that they compute in and on.

        They were compared with themselves and with each other before, in float32.
        """
        config, device = self.config, self.accelerator.device
        rewards = models_of(self.reward)
        frozen: list[tuple[nn.Module, Any]] = [(self.reference, self.reference)]
        frozen += [(reward.model, reward.scores.hidden_states) for reward in rewards]
        if config.frozen_dtype == "bfloat16":
            for module, reader in frozen:
                precision.to_bfloat16(module.parameters())
                reader.forget_packed()
            if self.peft_config is not None:  # these two hold the very same weights below their adapters
                self.policy.forget_packed()
                self.value.hidden_states.forget_packed()
        self.masters = precision.Masters()
        if config.weights_dtype == "bfloat16":
            if self.peft_config is not None:
                raise UserError(
                    "weights_dtype is bfloat16 and there is a peft_config, whose weights are few: set frozen_dtype "
                    "in its place, for those below the adapter"
                )
            # The value's head is of one row: it stays in float32, or values would have three digits.
            if config.shard is None:  # or the parts of each process are in float32, and round when they are gathered
                self.masters = precision.Masters(
                    [*trainable(self.policy).values(), *trainable(self.value.backbone).values()]
                )
            self.policy.forget_packed()
            self.value.hidden_states.forget_packed()
        if config.gradient_checkpointing:
            for role, module, reader in (
                ("policy", self.policy, self.policy.hidden_states),
                ("value model", self.value, self.value.hidden_states),
            ):
                precision.checkpoint_layers(module, role)
                reader.packs = False
        self.lockstep = Lockstep(device, config.gather_for_generation)
        self.blanks: dict[int, Any] = {}
        if config.shard is not None:
            self._shard(device)
        for module, _ in [*frozen, (self.policy, None), (self.value, None)]:
            if not any(isinstance(part, FSDPModule) for part in module.modules()):
                module.to(device)

    def _shard(self, device: torch.device) -> None:
        """Divide the models among the processes, as `shard` says."""
        processes, every = self.accelerator.num_processes, self.config.shard == "all"
        self.blanks = {id(module): blank(module) for module in (self.adapted, self.value)}
        computes_in = torch.bfloat16 if self.config.weights_dtype == "bfloat16" else None
        rewards = models_of(self.reward) if every else []
        scores = [reward.scores.hidden_states for reward in rewards]
        samplers = [self.policy, self.reference] if every else [self.policy]
        divided = [*samplers, self.value, *(reader.model for reader in scores)]
        for reader in [*(model.hidden_states for model in samplers), self.value.hidden_states, *scores]:
            kind = type(reader.model).__name__
            if reader.read.way == "rows":
                raise UserError(f"{kind} reads one row at a time, and cannot be divided: leave shard out")
            if every and is_quantised(reader.model):
                raise UserError(f"the weights of {kind} are quantised, and cannot be divided: set shard to trained")
            reader.packs = False
        for model in samplers:
            if not self.config.gather_for_generation:
                model.forget_packed()
                if not isinstance(sampler(model), HFCachedModel):
                    kind = type(model.lm).__name__
                    raise UserError(
                        f"the cache of {kind} cannot be used, and nothing is sampled layer by layer without one: "
                        "leave gather_for_generation on"
                    )
        for reward in rewards:
            reward.model.requires_grad_(False)
            reward.model.score.to(device)
        divide(divided, processes, device, computes_in, frozen=every)
        nothing = Batch([[0]], [[0]], device)
        for module in (*samplers, self.value):
            self.lockstep.add(module, partial(module, nothing))
        for reader in scores:
            self.lockstep.add(reader.model, partial(reader, nothing, last=True))
