"""The value network of PPO. Policy and reference are `sft.models.forward.LogProbs`.

All three run in evaluation mode, in training too: with dropout the log-probabilities before and after would differ
by chance and the ratio would mean nothing.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from data.console import UserError
from rlhf.ppo.adapters import add_adapter, merged, share_weights
from sft.models.batch import Batch
from sft.models.forward import HiddenStates, Scores

VALUE_HEAD = "value_head"
"""Of a classifier's configuration: its head says what a value model learned, and is to be kept."""


class ValueModel(nn.Module):
    """A backbone with a scalar head: the return that the policy can expect before each response token."""

    def __init__(self, backbone: PreTrainedModel, saved: PreTrainedModel | None = None) -> None:
        """saved: the classifier whose head it starts with, see `value_classifier`."""
        super().__init__()
        self.backbone = backbone
        # A new head starts at zero: before the first update every value is 0, so it disturbs no advantage.
        self.score = nn.Linear(backbone.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        if saved is not None:
            scores = Scores(saved)
            with torch.no_grad():
                self.score.weight.copy_(scores.model.score.weight / scores.std)
                self.score.bias.fill_(-scores.mean / scores.std)
        self.eval()
        self.hidden_states = HiddenStates(backbone)

    def train(self, mode: bool = True) -> "ValueModel":
        """Stay in evaluation mode: no dropout, ever."""
        return super().train(False)

    def forward(self, batch: Batch) -> Tensor:
        """Values (N,), float32, at the positions that predict the batch's N response tokens."""
        return self.score(self.hidden_states(batch)).squeeze(-1).float()


def value_classifier(value: ValueModel) -> PreTrainedModel:
    """A value model as transformers' sequence classifier of one label, to be saved.

    Its head has no bias, so that is written as a reward model's mean: whoever normalises the score has the value.
    UserError where transformers has no such classifier for the architecture.
    """
    body = merged(value.backbone)
    config = copy.deepcopy(body.config)
    config.update({"num_labels": 1, "reward_mean": -value.score.bias.item(), "reward_std": 1.0, VALUE_HEAD: True})
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
        head = model.score.weight
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"the value model cannot be saved: transformers has no sequence classifier for {type(body).__name__}"
        ) from error
    model.base_model.load_state_dict(body.state_dict(), assign=True)
    model.score.load_state_dict({"weight": value.score.weight.detach().to(head.dtype)}, assign=True)
    return model


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
