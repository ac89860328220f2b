"""The four models of PPO as modules: policy and reference, value, and whatever gives the reward.

All of them run in evaluation mode, in training too: with dropout the log-probabilities before and after
would differ by chance and the ratio would mean nothing.
"""

import copy
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from data.console import UserError
from rlhf.prompts import without_stop
from rlhf.rollout import pack, position_ids

RewardFunction = Callable[[list[str], list[str]], Sequence[float]]
"""(prompts, responses) as text -> one score each."""


class PolicyModel(nn.Module):
    """A causal language model as PPO sees it: log-probabilities of the response tokens."""

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.lm = lm
        self.plain_head = _head_is_plain(lm)
        self.eval()

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
        inputs = {"input_ids": ids, "attention_mask": attention_mask.long(), "use_cache": False}
        inputs["position_ids"] = position_ids(attention_mask)
        if self.plain_head:
            # Only positions that predict a response token meet the vocabulary: no logits for prompt or padding.
            hidden = self.lm.base_model(**inputs).last_hidden_state
            head: Any = self.lm.get_output_embeddings()
            logits = head(hidden[predicts])
        else:
            logits = self.lm(**inputs).logits[predicts]
        logits = logits.float() / temperature
        normaliser = logits.logsumexp(-1)
        targets = ids[:, 1:][predicts[:, :-1]]
        logprobs = logits.gather(-1, targets[:, None]).squeeze(-1) - normaliser
        with torch.no_grad():
            entropy = normaliser - ((logits - normaliser[:, None]).exp_() * logits).sum(-1)
        return logprobs, entropy


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

    def train(self, mode: bool = True) -> "ValueModel":
        """Stay in evaluation mode: no dropout, ever."""
        return super().train(False)

    def forward(self, ids: Tensor, attention_mask: Tensor, predicts: Tensor) -> Tensor:
        """Values (N,) at the positions `predicts` (B, T), float32: the same positions as the logits."""
        hidden = self.backbone(
            input_ids=ids,
            attention_mask=attention_mask.long(),
            position_ids=position_ids(attention_mask),
            use_cache=False,
        ).last_hidden_state
        return self.score(hidden[predicts]).squeeze(-1).float()


class Reward(Protocol):
    """Scores of whole responses."""

    def __call__(self, prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        """Scores (B,), float32, of token ids."""
        ...


class ModelReward:
    """A sequence-classification model with one label; its score is read at the last token of the response.

    The score is normalised by `reward_mean` and `reward_std` of the model's own configuration, which the
    reward stage measured on SFT samples; a model that has none is taken as it is (0 and 1).
    """

    def __init__(self, model: PreTrainedModel, pad_id: int, batch_rows: int) -> None:
        self.model: Any
        if not isinstance(getattr(model, "score", None), nn.Module) or model.config.num_labels != 1:
            raise UserError(
                f"the reward model ({type(model).__name__}, {model.config.num_labels} labels) has no scalar `score` "
                "head: give a sequence-classification model of one label, or a Python function"
            )
        self.model = model.eval().requires_grad_(False)
        self.pad_id = pad_id
        self.batch_rows = batch_rows
        self.mean = float(getattr(model.config, "reward_mean", 0.0))
        self.std = float(getattr(model.config, "reward_std", 1.0))
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise UserError(f"reward_mean {self.mean} and reward_std {self.std} of the reward model make no scale")

    @torch.no_grad()
    def __call__(self, prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        scores = torch.empty(len(prompts), device=self.model.device)
        for start in range(0, len(order), self.batch_rows):
            rows = order[start : start + self.batch_rows]
            batch = pack([prompts[i] for i in rows], [responses[i] for i in rows], self.pad_id, self.model.device)
            hidden = self.model.base_model(
                input_ids=batch.ids,
                attention_mask=batch.attention_mask.long(),
                position_ids=position_ids(batch.attention_mask),
                use_cache=False,
            ).last_hidden_state
            # The last real token of the response, known by its length: the model's own search by PAD id
            # would be misled by a PAD inside the prompt or by PAD = EOS.
            last = hidden[torch.arange(len(rows), device=hidden.device), batch.last]
            scores[rows] = self.model.score(last).squeeze(-1).float()
        return (scores - self.mean) / self.std


class FunctionReward:
    """A Python function of texts. Only here are token ids decoded, and nothing is tokenised again."""

    def __init__(
        self,
        function: RewardFunction,
        decode: Callable[[Sequence[int]], str],
        stop_ids: Collection[int],
        device: torch.device,
    ) -> None:
        self.function = function
        self.decode = decode
        self.stop_ids = stop_ids
        self.device = device

    def __call__(self, prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        prompt_texts = [self.decode(ids) for ids in prompts]
        response_texts = [self.decode(without_stop(ids, self.stop_ids)) for ids in responses]
        scores = torch.as_tensor(self.function(prompt_texts, response_texts), dtype=torch.float32, device=self.device)
        if scores.shape != (len(prompts),):
            raise UserError(
                f"the reward function gave scores of shape {tuple(scores.shape)} for {len(prompts)} responses: "
                "return one number for each"
            )
        return scores


class WeightedReward:
    """The weighted sum of several rewards."""

    def __init__(self, parts: list[tuple[Reward, float]]) -> None:
        self.parts = parts

    def __call__(self, prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        weighted = [weight * reward(prompts, responses) for reward, weight in self.parts]
        return torch.stack(weighted).sum(0)


def load_policy(source: str | Path | PreTrainedModel) -> PreTrainedModel:
    """A causal language model from a folder, a hub name, or as it is, in float32."""
    return _load(AutoModelForCausalLM, source, "policy")


def load_classifier(source: str | Path | PreTrainedModel, role: str) -> PreTrainedModel:
    """A sequence-classification model from a folder, a hub name, or as it is, in float32."""
    return _load(AutoModelForSequenceClassification, source, role)


def _load(auto: Any, source: str | Path | PreTrainedModel, role: str) -> PreTrainedModel:
    if isinstance(source, PreTrainedModel):
        nn.Module.float(source)  # in place
        return source
    try:
        model: PreTrainedModel = auto.from_pretrained(str(source), dtype=torch.float32)
        return model
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"cannot load the {role} from {source}: {reason}") from error


def value_backbone(model: PreTrainedModel) -> PreTrainedModel:
    """A trainable copy of the body (no head) of a reward model or of a policy."""
    body: Any = copy.deepcopy(model.base_model)
    body.requires_grad_(True)
    return body


def write_out_attention(model: nn.Module) -> None:
    """Use attention written as matmul and softmax: its backward is faster on a CPU than the fused kernel's."""
    if isinstance(model, PreTrainedModel):
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
