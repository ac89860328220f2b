"""The networks of PPO as modules: policy and reference, and the value; and how any model is loaded.

All of them run in evaluation mode, in training too: with dropout the log-probabilities before and after
would differ by chance and the ratio would mean nothing.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from data.console import UserError
from pretrain.fast.body import Linear
from pretrain.fast.decoder import KVDecoder
from pretrain.fast.functions import TokenLogprobs
from pretrain.sampling import CachedModel
from rlhf.ppo.adapters import add_adapter, for_value, share_weights
from sft.models.fast import layout_of, packed_body
from sft.models.sampling import HFCachedModel, context_length, position_ids
from sft.models.tokens import ModelSource


class HiddenStates:
    """What a model without its head makes of a batch: packed where that is the same function, and on a CPU."""

    def __init__(self, model: Any) -> None:
        """model: of transformers, in evaluation mode."""
        self.model = model
        self.body = packed_body(model)

    def __call__(self, ids: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
        """The last hidden states (N, C) at the N positions `wanted`, row by row.

        ids, mask, wanted: (B, T); `mask` is False on padding.
        """
        if self.body is not None and ids.device.type == "cpu":
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
            with torch.autocast("cpu", enabled=False):
                return self.body(ids, layout_of(mask, wanted), dtype)
        states = self.model(
            input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask), use_cache=False
        ).last_hidden_state
        return states[wanted]


class PolicyModel(nn.Module):
    """A causal language model as PPO sees it: log-probabilities of the response tokens."""

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.lm = lm
        self.plain_head = _head_is_plain(lm)
        self.eval()
        self.hidden_states = HiddenStates(lm.base_model)

    def train(self, mode: bool = True) -> "PolicyModel":
        """Stay in evaluation mode: no dropout, ever."""
        return super().train(False)

    def forward(
        self, ids: Tensor, attention_mask: Tensor, predicts: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy (no gradient) in nats, each (N,), of the N tokens after `predicts`.

        ids, attention_mask, predicts: (B, T). `temperature` divides the logits, here as in the rollout: the
        distribution that is trained is the one that is sampled from.
        """
        if self.plain_head:
            # Only positions that predict a response token meet the vocabulary: no logits for prompt or padding.
            head: Any = self.lm.get_output_embeddings()
            logits = head(self.hidden_states(ids, attention_mask, predicts))
        else:
            positions = position_ids(attention_mask)
            output = self.lm(
                input_ids=ids, attention_mask=attention_mask.long(), position_ids=positions, use_cache=False
            )
            logits = output.logits[predicts]
        logprobs, entropy = TokenLogprobs.apply(logits, ids[:, 1:][predicts[:, :-1]], temperature)
        return logprobs, entropy

    def sampler(self, dtype: torch.dtype) -> CachedModel:
        """The policy as it is now, for `pretrain.sampling.generate`; dtype: of the activations where it is packed."""
        body = self.hidden_states.body
        if body is None or not self.plain_head or self.lm.device.type != "cpu":
            return HFCachedModel(self.lm)
        return KVDecoder(body, Linear(self.lm.get_output_embeddings()), context_length(self.lm), dtype)


class ValueModel(nn.Module):
    """A backbone with a scalar head: the return that the policy can expect before each response token."""

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__()
        self.backbone = backbone
        # The head starts at zero: before the first update every value is 0, so it disturbs no advantage.
        self.score = nn.Linear(backbone.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        self.eval()
        self.hidden_states = HiddenStates(backbone)

    def train(self, mode: bool = True) -> "ValueModel":
        """Stay in evaluation mode: no dropout, ever."""
        return super().train(False)

    def forward(self, ids: Tensor, attention_mask: Tensor, predicts: Tensor) -> Tensor:
        """Values (N,) at the positions `predicts` (B, T), float32: the same positions as the logits."""
        return self.score(self.hidden_states(ids, attention_mask, predicts)).squeeze(-1).float()


def load_policy(source: ModelSource) -> PreTrainedModel:
    """A causal language model from a folder, a hub name, or as it is, in float32."""
    model = _load(AutoModelForCausalLM, source, "policy")
    if model.get_output_embeddings() is None or model.config.is_encoder_decoder:
        raise UserError(f"the policy is a {type(model).__name__}: give a causal language model")
    return model


def load_classifier(source: ModelSource, role: str) -> PreTrainedModel:
    """A sequence-classification model from a folder, a hub name, or as it is, in float32."""
    return _load(AutoModelForSequenceClassification, source, role)


def _load(auto: Any, source: ModelSource, role: str) -> PreTrainedModel:
    model: PreTrainedModel
    if isinstance(source, PreTrainedModel):
        model = nn.Module.float(source)  # in place
    elif isinstance(source, str | Path):
        try:
            model, loaded = auto.from_pretrained(str(source), dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError) as error:
            absent = "" if Path(source).exists() else "there is no such folder, and as a hub name: "
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"cannot load the {role} from {source}: {absent}{reason}") from error
        # A head that is not in the file would be drawn at random. The value model's is not used.
        if loaded["missing_keys"] and role != "value model":
            raise UserError(
                f"{source} is no {role}: a {type(model).__name__} has {min(loaded['missing_keys'])}, which is not there"
            )
    else:
        adapted = ", without an adapter (merge_and_unload)" if hasattr(source, "merge_and_unload") else ""
        raise UserError(f"the {role} is a {type(source).__name__}: give a folder, a hub name or a model{adapted}")
    # peft's layers hold the layer that they adapt. Such a model would be saved without the weights below them.
    if any(hasattr(module, "base_layer") for module in model.modules()):
        raise UserError(
            f"the {role} holds an adapter: merge it first (AutoPeftModelForCausalLM.from_pretrained(…)"
            ".merge_and_unload(), then save_pretrained), or load the model anew without it"
        )
    return model


def value_backbone(model: PreTrainedModel, peft_config: Any = None) -> PreTrainedModel:
    """The body (no head) of a reward model or of a policy to learn with: a copy, or an adapter on the same weights."""
    body: Any
    if peft_config is None:
        body = copy.deepcopy(model.base_model)
        body.requires_grad_(True)
        return body
    # The whole model is adapted, so that its layers have the names that the policy's have.
    shared = share_weights(model)
    add_adapter(shared, for_value(peft_config), "value model")
    body = shared.base_model
    return body


def check_reads(model: PreTrainedModel, role: str, vocab_size: int, length: int) -> None:
    """Raise UserError where a model cannot read `length` tokens of a policy that knows `vocab_size`."""
    if length > context_length(model):
        raise UserError(
            f"the longest prompt and response_length make {length} tokens, more than the {context_length(model)} that "
            f"the {role} ({type(model).__name__}) can read: lower response_length or prompt_length"
        )
    theirs = model.config.get_text_config().vocab_size
    if theirs < vocab_size:
        raise UserError(
            f"the {role} ({type(model).__name__}) knows {theirs} tokens and the policy {vocab_size}: use models of "
            "one tokenizer"
        )


def choose_attention(model: PreTrainedModel, device: torch.device) -> None:
    """On a CPU attention written as matmul and softmax, whose backward is faster than the fused kernel's."""
    if device.type == "cpu":
        model.set_attn_implementation("eager")


@torch.no_grad()
def _head_is_plain(lm: PreTrainedModel) -> bool:
    """Whether logits are just the output layer on the last hidden state (some models scale or cap them)."""
    head = lm.get_output_embeddings()
    if head is None or lm.base_model is lm:
        return False
    was_training = lm.training
    lm.eval()
    ids = torch.arange(2, device=lm.device)[None]
    logits = lm(input_ids=ids, use_cache=False).logits
    plain = head(lm.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    lm.train(was_training)
    return plain.shape == logits.shape and torch.allclose(plain, logits, atol=1e-5, rtol=1e-4)
