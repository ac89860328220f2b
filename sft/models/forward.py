"""What a transformers model says of whole sequences: log-probabilities of responses, and scores.

B: sequences, N: response tokens of the batch, C: width of the model.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from data.console import UserError
from pretrain.fast.functions import TokenLogprobs
from pretrain.fast.layout import Layout
from sft.models.batch import Batch, Ids, micro_batches
from sft.models.fast import packed_body
from sft.models.reading import Reader, accepted, body_of

TOKENS = 1 << 14
"""Tokens, padding included, of one forward pass of `LogProbs.next_logits`."""


class HiddenStates:
    """What a model without its head makes of a batch: without padding where that is the same function, on a CPU."""

    def __init__(self, model: Any, role: str = "model", causal: bool = True) -> None:
        """model: of transformers, in evaluation mode. See `Reader`, also for the errors."""
        self.model = model
        self.body = packed_body(model)
        self.packs = True
        """Whether what is trained and scored takes the packed form, where there is one."""
        self.read = Reader(model, "last_hidden_state", role, causal=causal, known="positions" if self.body else None)

    def __call__(self, batch: Batch, last: bool = False) -> Tensor:
        """The last hidden states (N, C) at the positions that predict a response token, row by row.

        last: those at the last token of every sequence instead, (B, C).
        """
        padded = batch.padded
        if self.body is not None and self.packs and batch.device.type == "cpu":
            return self.packed(padded.ids, batch.last_layout if last else batch.layout)
        return self.read(padded)[padded.last if last else padded.predicts_response]

    def packed(self, ids: Tensor, layout: Layout) -> Tensor:
        """Those (n, C) that `layout` gives out, of ids (B, T) on a CPU; where there is a packed form."""
        assert self.body is not None
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        with torch.autocast("cpu", enabled=False):
            return self.body(ids, layout, dtype)

    def forget_packed(self) -> None:
        """Read by the model's own forward pass from now on: its weights will not be plain float32 ones."""
        self.body = None

    @torch.no_grad()
    def width(self) -> int:
        """C, which some models do not have from their configuration's `hidden_size`."""
        return self.read.alone([0]).shape[-1]


class LogProbs(nn.Module):
    """Log-probabilities of the response tokens under a causal language model, in evaluation mode for good."""

    def __init__(self, lm: PreTrainedModel, role: str = "model") -> None:
        """role: what errors call it. UserError for a model that cannot be one, see `Reader`."""
        super().__init__()
        self.lm = lm.eval()
        body = body_of(lm)
        self.hidden_states = HiddenStates(body, role)
        self.plain_head = _head_is_plain(lm, body)
        known = self.plain_head or self.hidden_states.body is not None
        self.cache_is_right: bool | None = None
        """Whether it can be sampled from with transformers' cache; None: `sampler` has not looked."""
        self.read = Reader(lm, "logits", role, known=self.hidden_states.read.way if known else None)

    def train(self, mode: bool = True) -> "LogProbs":
        """Stay in evaluation mode: no dropout, ever."""
        return super().train(False)

    def forward(self, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy in nats, each (N,), of the N response tokens, row by row.

        `temperature` divides the logits, here as in the rollout: the distribution that is trained is the one that is
        sampled from.
        """
        logprobs, entropy = TokenLogprobs.apply(self._logits(batch), batch.targets, temperature)
        return logprobs, entropy

    def outputs(self, **inputs: Any) -> Any:
        """What transformers' model gives out: for samplers that must call this module and not a part of it."""
        return self.lm(**inputs)

    def forget_packed(self) -> None:
        """See `HiddenStates.forget_packed`; where the packed form was right, so is transformers' cache."""
        if self.hidden_states.body is not None:
            self.cache_is_right = True
        self.hidden_states.forget_packed()

    def next_logits(self, texts: Sequence[Ids]) -> Tensor:
        """Logits (B, V), float32, of what follows each text of one token or more: `TOKENS` at once, all read again."""
        rows = max(1, TOKENS // max(map(len, texts)))
        parts = [texts[start : start + rows] for start in range(0, len(texts), rows)]
        batches = (Batch(part, [[] for _ in part], self.lm.device) for part in parts)
        return torch.cat([self._logits(batch, last=True).float() for batch in batches])

    def _logits(self, batch: Batch, last: bool = False) -> Tensor:
        if self.plain_head:
            # Only positions that predict a response token meet the vocabulary: no logits for prompt or padding.
            logits: Tensor = self.lm.get_output_embeddings()(self.hidden_states(batch, last))
            return logits
        padded = batch.padded
        return self.read(padded)[padded.last if last else padded.predicts_response]


class Scores:
    """Scores of a sequence-classification model with one label, read at the last token of the response.

    `mean` and `std` are `reward_mean` and `reward_std` of the model's own configuration, which the reward stage
    measures on SFT samples (0 and 1 where there are none). `follow` is (`follow_scale`, `follow_bias`) of a model that
    learned doing as told, see `probability`; None for any other.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any
        if not isinstance(getattr(model, "score", None), nn.Module) or model.config.num_labels != 1:
            raise UserError(
                f"the reward model ({type(model).__name__}, {model.config.num_labels} labels) has no scalar `score` "
                "head: give a sequence-classification model of one label, as `python -m reward` makes them"
            )
        self.model = model.eval()
        self.hidden_states = HiddenStates(body_of(model), "reward model", causal=False)
        self.mean = float(getattr(model.config, "reward_mean", 0.0))
        self.std = float(getattr(model.config, "reward_std", 1.0))
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise UserError(
                f"reward_mean {self.mean} and reward_std {self.std} of the reward model's configuration cannot "
                "normalise a score: give finite numbers, the second above 0"
            )
        scale = getattr(model.config, "follow_scale", None)
        self.follow = None if scale is None else (float(scale), float(model.config.follow_bias))

    def __call__(self, batch: Batch) -> Tensor:
        """Raw scores (B,), float32."""
        # The last token, known by its length: a search by PAD id would be misled by a PAD inside the prompt.
        scores: Tensor = self.model.score(self.hidden_states(batch, last=True)).squeeze(-1).float()
        return scores

    def normalised(self, raw: Tensor) -> Tensor:
        """Raw scores in units in which SFT samples have mean 0 and standard deviation 1."""
        return (raw - self.mean) / self.std

    def probability(self, scores: Tensor) -> Tensor:
        """P(a response does as its prompt tells) in [0, 1], from normalised scores, of any shape.

        A logistic function, fitted on SFT samples by `python -m reward.following`. UserError for another model.
        """
        if self.follow is None:
            raise UserError(
                "the reward model's configuration has no follow_scale, so it knows no probability of doing as told: "
                "give one that `python -m reward.following` made"
            )
        scale, bias = self.follow
        return torch.sigmoid(scale * scores + bias)


@torch.no_grad()
def score_sequences(
    classifier: PreTrainedModel | Scores, prompts: Sequence[Ids], responses: Sequence[Ids], batch_size: int = 64
) -> Tensor:
    """Raw scores (sequences,), float32 on the CPU, of any number of sequences, `batch_size` per forward pass."""
    scores = classifier if isinstance(classifier, Scores) else Scores(classifier)
    found = torch.empty(len(prompts))
    for rows, batch in micro_batches(prompts, responses, range(len(prompts)), batch_size, scores.model.device):
        found[rows] = scores(batch).cpu()
    return found


@torch.no_grad()
def sequence_logprobs(
    lm: PreTrainedModel | LogProbs,
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    temperature: float = 1.0,
    batch_size: int = 64,
) -> Tensor:
    """log π(response | prompt) in nats, (sequences,), float64 on the CPU; 0 for an empty response.

    `temperature` divides the logits: the distribution that was sampled from is the one that is measured.
    """
    logprobs = lm if isinstance(lm, LogProbs) else LogProbs(lm)
    sums = torch.zeros(len(prompts), dtype=torch.float64)
    answered = [i for i, response in enumerate(responses) if len(response)]
    for rows, batch in micro_batches(prompts, responses, answered, batch_size, logprobs.lm.device):
        tokens = logprobs(batch, temperature)[0].cpu().double().split([len(responses[i]) for i in rows])
        sums[rows] = torch.stack([row.sum() for row in tokens])
    return sums


@torch.no_grad()
def _head_is_plain(lm: PreTrainedModel, body: Any) -> bool:
    """Whether logits are just the output layer on the last hidden state (some models scale or cap them)."""
    head = lm.get_output_embeddings()
    if head is None:
        return False
    ids = torch.arange(2, device=lm.device)[None]
    logits = lm(input_ids=ids, **accepted(lm, use_cache=False)).logits
    try:
        plain = head(body(input_ids=ids, **accepted(body, use_cache=False)).last_hidden_state)
    except RuntimeError:  # something stands between them, of another width (ELECTRA)
        return False
    return plain.shape == logits.shape and torch.allclose(plain, logits, atol=1e-5, rtol=1e-4)
