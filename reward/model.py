"""The reward model: a language model's body with a scalar head, read at the last token of the response."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from data.console import UserError
from data.tokenizers import Tokenizer


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Neither progress bars nor the notice that the scalar head is new: we know."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def load_classifier(folder: Path, **options: object) -> Any:
    """The checkpoint in `folder` as a float32 sequence classifier with one label.

    Attention is written out (`eager`): on a CPU its backward is faster than the fused kernel's.
    """
    attention = "eager" if not torch.cuda.is_available() else "sdpa"
    with quiet_transformers():
        return AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, dtype=torch.float32, attn_implementation=attention, **options
        )


def new_reward_model(folder: Path, seed: int) -> PreTrainedModel:
    """A reward model that starts from the language model in `folder`, with a new head.

    The head's weights have standard deviation 1/√(width + 1) (Stiennon et al., arXiv 2009.01325), so that
    scores start at the scale of 1.
    """
    model = load_classifier(folder)
    generator = torch.Generator().manual_seed(seed)
    width = model.score.in_features
    with torch.no_grad():
        model.score.weight.copy_(torch.randn(1, width, generator=generator) / math.sqrt(width + 1))
    return model


class RewardModel:
    """Scores of responses, as later stages use them: normalised, so that SFT samples have mean 0 and std 1."""

    def __init__(self, model: PreTrainedModel, pad_id: int, dtype: torch.dtype = torch.float32) -> None:
        if not isinstance(getattr(model, "score", None), nn.Module) or model.config.num_labels != 1:
            raise UserError(f"{type(model).__name__} has no scalar head: make the model with `python -m reward`")
        self.model, self.pad_id, self.dtype = model.eval(), pad_id, dtype
        self.mean = float(getattr(model.config, "reward_mean", 0.0))
        self.std = float(getattr(model.config, "reward_std", 1.0))

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> "RewardModel":
        """The reward model of a finished `reward` folder; UserError if it holds none."""
        try:
            model = load_classifier(Path(folder))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} holds no reward model ({str(error).splitlines()[0]})") from error
        return cls(model.to(device), Tokenizer.load(folder).pad_id)

    def set_scale(self, mean: float, std: float) -> None:
        """Normalise by these from now on, here and (through the saved configuration) wherever it is loaded."""
        if not std > 0:
            raise UserError("the reward model gives every response the same score: train it longer or on more rankings")
        self.mean = self.model.config.reward_mean = mean
        self.std = self.model.config.reward_std = std

    @torch.no_grad()
    def score(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int = 64, normalise: bool = True
    ) -> Tensor:
        """Scores (N,), float32 on the CPU, of N (prompt ids, response ids); each sequence stands alone."""
        joined = [[*prompt, *response] for prompt, response in sequences]
        order = sorted(range(len(joined)), key=lambda index: len(joined[index]))
        scores = torch.empty(len(joined))
        device = self.model.device
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids, mask = pad_right([joined[index] for index in rows], self.pad_id)
            with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
                hidden = self.model.base_model(
                    input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
                ).last_hidden_state
            # The last token, known by its length: a search for the pad token would stop at a sampled one.
            last = hidden[torch.arange(len(rows)), mask.sum(1) - 1]
            scores[rows] = self.model.score(last.float()).squeeze(-1).cpu()
        return (scores - self.mean) / self.std if normalise else scores


def pad_right(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both (N, longest), int64, padded on the right."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.tensor([[*sequence, *[pad_id] * (longest - len(sequence))] for sequence in sequences])
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return ids, (torch.arange(longest) < lengths[:, None]).long()
