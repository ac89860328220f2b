"""The networks of PPO as modules: policy and reference, and the value.

All of them run in evaluation mode, in training too: with dropout the log-probabilities before and after
would differ by chance and the ratio would mean nothing.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pretrain.sampling import CachedModel
from rlhf.ppo.adapters import add_adapter, for_value, share_weights
from sft.models.batch import Batch
from sft.models.forward import HiddenStates, LogProbs
from sft.models.sampling import sampler


class PolicyModel(nn.Module):
    """A causal language model as PPO sees it: log-probabilities of the response tokens."""

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.lm = lm
        self.eval()
        self.logprobs = LogProbs(lm)

    def train(self, mode: bool = True) -> "PolicyModel":
        """Stay in evaluation mode: no dropout, ever."""
        return super().train(False)

    def forward(self, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy (no gradient) in nats, each (N,), of the batch's N response tokens."""
        return self.logprobs(batch, temperature)

    def sampler(self, dtype: torch.dtype) -> CachedModel:
        """The policy as it is now, for `pretrain.sampling.generate`; dtype: see `sft.models.sampling.sampler`."""
        return sampler(self.logprobs, dtype)


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

    def forward(self, batch: Batch) -> Tensor:
        """Values (N,), float32, at the positions that predict the batch's N response tokens."""
        return self.score(self.hidden_states(batch)).squeeze(-1).float()


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
