"""The value network of PPO. Policy and reference are `sft.models.forward.LogProbs`.

All three run in evaluation mode, in training too: with dropout the log-probabilities before and after would differ
by chance and the ratio would mean nothing.
"""

import copy
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.ppo.adapters import add_adapter, share_weights
from sft.models.batch import Batch
from sft.models.forward import HiddenStates


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
        return body.requires_grad_(True)
    # The whole model is adapted, so that its layers have the names that the policy's have.
    shared = share_weights(model)
    config = copy.deepcopy(peft_config)
    config.task_type = config.modules_to_save = None  # nothing else is trained but our own head
    add_adapter(shared, config, "value model")
    body = shared.base_model
    return body
