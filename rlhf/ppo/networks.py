"""The value network of PPO, and what keeps the networks apart. Policy and reference are `sft.models.forward.LogProbs`.

All three run in evaluation mode, in training too: with dropout the log-probabilities before and after would differ
by chance and the ratio would mean nothing.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from data.console import UserError, console, is_main_process
from rlhf.ppo.adapters import add_adapter, merged, share_weights
from rlhf.ppo.rewards.combine import RewardEnsemble
from sft.models.batch import Batch
from sft.models.forward import HiddenStates, Scores
from sft.models.loading import is_quantised, saved_dtype
from sft.models.reading import body_of

VALUE_HEAD = "value_head"
"""Of a classifier's configuration: its head says what a value model learned, and is to be kept."""


class ValueModel(nn.Module):
    """A backbone with a scalar head: the return that the policy can expect before each response token."""

    def __init__(
        self, backbone: PreTrainedModel, saved: PreTrainedModel | None = None, role: str = "value model"
    ) -> None:
        """saved: the classifier whose head it starts with, see `value_classifier`. role: what errors call the model."""
        super().__init__()
        self.backbone = backbone.eval()
        self.hidden_states = HiddenStates(backbone, role)
        # A new head starts at zero: before the first update every value is 0, so it disturbs no advantage.
        self.score = nn.Linear(self.hidden_states.width(), 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        if saved is not None:
            scores = Scores(saved)
            with torch.no_grad():
                self.score.weight.copy_(scores.model.score.weight / scores.std)
                self.score.bias.fill_(-scores.mean / scores.std)
        self.eval()

    def train(self, mode: bool = True) -> "ValueModel":
        """Stay in evaluation mode: no dropout, ever."""
        return super().train(False)

    def forward(self, batch: Batch) -> Tensor:
        """Values (N,), float32, at the positions that predict the batch's N response tokens."""
        states = self.hidden_states(batch)
        # A sum of one, and no view: the hooks of FSDP are on what is given out.
        return self.score(states.to(self.score.weight.dtype)).sum(-1).float()


def value_classifier(value: ValueModel) -> PreTrainedModel:
    """A value model as transformers' sequence classifier of one label, to be saved.

    Its head has no bias, so that is written as a reward model's mean: whoever normalises the score has the value.
    UserError where transformers has no such classifier for the architecture.
    """
    body = merged(value.backbone)
    config = copy.deepcopy(body.config)
    config.dtype = torch.float32  # as all weights are until they are saved
    config.update({"num_labels": 1, "reward_mean": -value.score.bias.item(), "reward_std": 1.0, VALUE_HEAD: True})
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
        head = model.score
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"the value model cannot be saved: transformers has no sequence classifier for {type(body).__name__}"
        ) from error
    model.base_model.load_state_dict(body.state_dict(), assign=True)
    head.load_state_dict({"weight": value.score.weight.detach()}, assign=True)
    model.saved_dtype = value.backbone.saved_dtype
    return model


def value_backbone(
    model: PreTrainedModel, peft_config: Any = None, role: str = "value model", given: bool = False
) -> PreTrainedModel:
    """The body (no head) of a reward model or of a policy to learn with: a copy, or an adapter on the same weights.

    What is frozen stays frozen, unless all of it is, as in reward models that only score; `given` as the value model,
    that too. role: what errors call the model.
    """
    body: Any
    if peft_config is None:
        if is_quantised(model):
            raise UserError(
                f"the value model would start from a {type(model).__name__} that is quantised, and quantised weights "
                "cannot learn: give value, a model that is not, or a peft_config"
            )
        body = copy.deepcopy(body_of(model))
        body.saved_dtype = saved_dtype(model)
        some = given or any(weight.requires_grad for weight in body.parameters())
        return body if some else body.requires_grad_(True)
    # The whole model is adapted, so that its layers have the names that the policy's have.
    shared = share_weights(model)
    config = copy.deepcopy(peft_config)
    config.task_type = config.modules_to_save = None  # nothing else is trained but our own head
    add_adapter(shared, config, role)
    body = body_of(shared)
    body.saved_dtype = saved_dtype(model)
    return body


def check_can_learn(policy: PreTrainedModel, peft_config: Any) -> None:
    """UserError where no weight of the policy would learn; a line on the terminal where some will not."""
    if peft_config is not None:
        return
    kind, weights = type(policy).__name__, list(policy.parameters())
    if is_quantised(policy):
        raise UserError(
            f"the policy ({kind}) is quantised, and quantised weights cannot learn: give a peft_config, such as "
            "LoraConfig(r=16), or load it without quantization_config"
        )
    frozen = sum(not weight.requires_grad for weight in weights)
    if frozen == len(weights):
        raise UserError(
            f"every weight of the policy ({kind}) is frozen: call requires_grad_(True) on it, or on the layers that "
            "should learn"
        )
    if frozen and is_main_process():
        console.print(
            f"{frozen} of {len(weights)} weight tensors of the policy are frozen (requires_grad), and stay so"
        )


def apart(source: Any, policy: PreTrainedModel, copied: Callable[[Any], Any]) -> Any:
    """A reward or reference as it was given, with copies of the models in it that hold weights of the policy.

    Otherwise they would change as it learns. copied: makes a copy of a model.
    """
    if isinstance(source, Mapping):
        return {name: apart(part, policy, copied) for name, part in source.items()}
    if isinstance(source, list | tuple):
        return type(source)(apart(part, policy, copied) for part in source)
    if isinstance(source, RewardEnsemble):
        return replace(source, rewards=apart(source.rewards, policy, copied))
    if not isinstance(source, nn.Module):
        return source
    own = {weight.untyped_storage().data_ptr() for weight in policy.parameters()}
    return copied(source) if any(w.untyped_storage().data_ptr() in own for w in source.parameters()) else source
