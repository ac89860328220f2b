"""TRL's RewardTrainer on whole rankings instead of single pairs.

All pairs of a prompt are in one batch, and each response runs through the model once, not once for
every pair it is in (Ouyang et al., arXiv 2203.02155, section 3.5: learned as if they were independent, the
pairs of one ranking overfit). The prompt runs through it once for all its responses: they stand behind it
in one row, each sees the prompt and itself, and its positions continue the prompt's. Loss and gradients
are those of the plain trainer on the same pairs, at a third to a sixth of its arithmetic.
"""

import math
from dataclasses import fields
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from trl import RewardTrainer

from pretrain.fast.layout import Layout
from reward.training.batches import RankingCollator, RankingRow
from sft.models.forward import HiddenStates
from sft.trainer import has_dropout
from sft.trl import SilentTrainer


def ranking_losses(margins: Tensor, terms: Tensor, count: int) -> Tensor:
    """−log P of each of `count` terms (M,), from margins r_chosen − r_rejected (P,) and each pair's term (P,).

    A term says that one response is preferred to one or several others, of which Luce's axiom (1959) makes
    P = exp r / (exp r + Σ exp r_other) = 1 / (1 + Σ exp −margin). With a term per pair these are Bradley and Terry's
    probabilities. With a term per response, over all that stand below it, the product over a ranking without ties
    is its probability under Plackett and Luce (Plackett 1975): the best is chosen among all, the next among the
    rest, and the last term is 1. What was not placed is in no term, as the axiom has it. Between ties nothing is
    claimed: each of them is preferred to what is below, and none is in another's term. Each factor is still a
    probability of the model, so their product is a composite likelihood (Varin, Reid and Firth 2011), as that of
    the pairs of one ranking is.
    """
    largest = margins.new_full((count,), -torch.inf).scatter_reduce(0, terms, -margins.detach(), "amax")
    sums = margins.new_zeros(count).index_add(0, terms, (-margins - largest[terms]).exp())
    return F.softplus(largest + sums.log())


def segment_attention_bias(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, 1, T, T) from segments (R, T): 0 where a token may look, else the dtype's lowest number.

    It may look back at the prompt and at its own segment.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    length = segments.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    allowed = past & ((key == 0) | (key == query))
    bias = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
    return bias.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def forward_rankings(
    states: HiddenStates, forward: Any, *args: Any, segments: Tensor | None = None, **inputs: Any
) -> Any:
    """Final hidden states (R, T, C) of rows of `RankingCollator`, on a CPU without padding, and 0 where no response is.

    Without segments, as `forward`.
    """
    if segments is None:
        return forward(*args, **inputs)
    ids, positions = inputs["input_ids"], inputs["position_ids"]
    if states.body is None or ids.device.type != "cpu":
        bias = segment_attention_bias(segments, torch.float32)
        outputs = forward(**inputs, attention_mask=bias, output_hidden_states=True, use_cache=False)
        return outputs.hidden_states[-1]
    wanted = segments > 0
    layout = Layout(segments >= 0, wanted, segments=segments, position_ids=positions)
    found = states.packed(ids, layout)
    hidden = found.new_zeros(ids.numel(), found.shape[1])
    return hidden.index_copy(0, wanted.flatten().nonzero().squeeze(1), found).view(*ids.shape, -1)


class RankingTrainer(SilentTrainer, RewardTrainer):
    """RewardTrainer whose batches come from `RankingCollator`.

    rankings_per_forward: rankings that run through the model together; grouped by length, little is padding.
    mean_loss_coef: weight of a second loss on the same pairs, by a score that is the mean over a response's tokens
    through a head of its own. The reward at the last token gives the tokens before it hardly a gradient; this one
    teaches every token what speaks for or against it. The model's `mean_score` is that head; 0 leaves it out.
    beginnings_coef: weight of the mean cross-entropy, over all beginnings of a response, between sigmoid(score at its
    last token) and the rows' judgement of it. Where a rule judges, one response teaches what all its beginnings would;
    0 leaves it out.
    """

    def __init__(
        self,
        *args: Any,
        collator: RankingCollator,
        rankings_per_forward: int,
        mean_loss_coef: float = 0.0,
        beginnings_coef: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs | {"data_collator": collator})
        self.width_step = collator.width_step
        self.rankings_per_forward = rankings_per_forward
        self.mean_loss_coef, self.beginnings_coef = mean_loss_coef, beginnings_coef
        # So that every loss is divided by the number of micro-batches, whatever the model's forward pass takes.
        self.model_accepts_loss_kwargs = False
        plain: Any = self.model
        states = HiddenStates(plain.base_model, "reward model", causal=False)
        if has_dropout(plain):
            states.body = None  # it has none
        # An attribute, so that whatever wraps the model (DDP, autocast) has this forward pass in it.
        plain.forward = partial(forward_rankings, states, plain.forward)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The micro-batches of an optimizer step, and the mean weight of the terms of one of them on one process.

        The mean of losses divided by it is that of the whole step as one batch.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        weight = torch.stack([batch["weights"].sum() for batch in batches]).mean()
        return batches, self.accelerator.gather(weight.to(device)).mean()

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted mean of `ranking_losses`, and the same of scores that are means over tokens.

        `num_items_in_batch` is what `get_batch_samples` gives; without it the mean is that of these inputs.
        """
        starts = range(0, len(inputs["input_ids"]), self.rankings_per_forward)
        hidden = torch.cat([self._hidden(model, inputs, start) for start in starts]).flatten(0, 1)
        heads = self.accelerator.unwrap_model(model)
        rewards = heads.score(hidden[inputs["ends"]].to(heads.score.weight.dtype)).squeeze(-1).float()
        weights = inputs["weights"]

        def margins_of(scores: Tensor) -> Tensor:
            scores = F.pad(scores, (0, 1))  # ZERO is the last
            return scores[inputs["chosen"]] - scores[inputs["rejected"]]

        def sum_of_losses(scores: Tensor) -> Tensor:
            return (ranking_losses(margins_of(scores), inputs["terms"], len(weights)) * weights).sum()

        loss = ranking_loss = sum_of_losses(rewards)
        if self.mean_loss_coef:
            means = self._means(heads.mean_score(self._responses(hidden, inputs)).squeeze(-1), inputs)
            loss = loss + self.mean_loss_coef * sum_of_losses(means)
        if self.beginnings_coef:
            scores, right = heads.score(self._responses(hidden, inputs)).squeeze(-1), inputs["beginnings"].flatten()
            of_tokens = F.binary_cross_entropy_with_logits(
                scores, right[inputs["owners"].flatten() >= 0].to(scores.dtype), reduction="none"
            )
            loss = loss + self.beginnings_coef * (self._means(of_tokens, inputs) * inputs["response_weights"]).sum()
        loss = loss / (weights.sum() if num_items_in_batch is None else num_items_in_batch)
        margins = margins_of(rewards)
        mode = "train" if model.training else "eval"
        metrics = {
            "ranking_loss": ranking_loss / weights.sum(),
            "accuracy": (margins > 0).float().mean(),
            "margin": margins.mean(),
            "mean_reward": rewards.mean(),
        }
        for name, value in metrics.items():
            self._metrics[mode][name].append(self.accelerator.gather(value.detach()).mean().item())
        return (loss, {"logits": rewards}) if return_outputs else loss

    def _responses(self, hidden: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Of hidden states (R · T, width) those of the responses' tokens, (tokens, width), float32."""
        return hidden[inputs["owners"].flatten() >= 0].float()

    def _means(self, values: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """(N,): the means of values (tokens,) over the tokens of each of the N responses."""
        owners = inputs["owners"].flatten()
        owners = owners[owners >= 0]
        sums = values.new_zeros(len(inputs["ends"])).index_add(0, owners, values)
        return sums / owners.bincount(minlength=len(sums))

    def _hidden(self, model: Any, inputs: dict[str, Tensor], start: int) -> Tensor:
        """Final hidden states (rows, T, width) of some rows, run at their own length and padded with 0."""
        rows = slice(start, start + self.rankings_per_forward)
        segments = inputs["segments"][rows]
        length = math.ceil(int((segments >= 0).sum(1).max()) / self.width_step) * self.width_step
        hidden = model(
            input_ids=inputs["input_ids"][rows, :length],
            position_ids=inputs["position_ids"][rows, :length],
            segments=segments[:, :length],
        )
        return F.pad(hidden, (0, 0, 0, segments.shape[1] - length))

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        """The rows as they are: trl would look for one chosen and one rejected sequence in each."""
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns: Any = [field.name for field in fields(RankingRow)]
