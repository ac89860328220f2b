"""A batch of prompts and responses: ragged token ids, and the two forms in which models read them.

B: sequences, T: longest prompt + response, N: response tokens of the whole batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from pretrain.fast.layout import Layout

Ids = Sequence[int]
Mask = Bool[Tensor, "B T"]
FILLER = 0
"""The token id in places that no mask lets through. A tokenizer's PAD may lie outside the model's vocabulary."""


@dataclass(frozen=True)
class Padded:
    """Sequences prompt + response as tensors, padded to the longest of them and no further."""

    ids: Int64[Tensor, "B T"]
    """Padded on the right: nothing real ever sees the padding."""
    mask: Mask
    """True on prompt and response."""
    predicts_response: Mask
    """True where the *next* token is one of the response: positions [prompt length - 1 : -1]."""
    last: Mask
    """True on the last token of the response."""


class Batch:
    """Sequences prompt + response as token ids: nothing is decoded, and no mask is read off a token id.

    Masks come from lengths, so a stop token counts as a token of the response even where PAD has its id.
    """

    def __init__(self, prompts: Sequence[Ids], responses: Sequence[Ids], device: torch.device | str = "cpu") -> None:
        """Every prompt and every response holds at least one token."""
        self.prompts, self.responses, self.device = prompts, responses, torch.device(device)

    @cached_property
    def padded(self) -> Padded:
        """As rectangles, for a model of transformers."""
        starts = torch.tensor([len(prompt) for prompt in self.prompts])[:, None]
        ends = starts + torch.tensor([len(response) for response in self.responses])[:, None]
        width = int(ends.max())
        pairs = zip(self.prompts, self.responses, strict=True)
        rows = [[*p, *r] + [FILLER] * (width - len(p) - len(r)) for p, r in pairs]
        position = torch.arange(width)
        return Padded(
            ids=torch.tensor(rows).to(self.device),
            mask=(position < ends).to(self.device),
            predicts_response=((position >= starts - 1) & (position < ends - 1)).to(self.device),
            last=(position == ends - 1).to(self.device),
        )

    @cached_property
    def layout(self) -> Layout:
        """Without padding, for `sft.models.fast`; given out is what predicts the N response tokens."""
        return Layout(self.padded.mask, self.padded.predicts_response)

    @cached_property
    def last_layout(self) -> Layout:
        """Without padding; given out are the B last tokens."""
        return Layout(self.padded.mask, self.padded.last)

    @property
    def targets(self) -> Int64[Tensor, "N"]:
        """The response tokens, row by row."""
        return self.padded.ids[:, 1:][self.padded.predicts_response[:, :-1]]


def position_ids(mask: Mask | Int[Tensor, "B T"]) -> Int64[Tensor, "B T"]:
    """Positions from the attention mask: its exclusive cumulative sum, so that padding does not count.

    With learned positions a model that starts counting at the padding is a different model.
    """
    mask = mask.long()
    return mask.cumsum(1) - mask


def response_mask(responses: Sequence[Ids], device: torch.device) -> Bool[Tensor, "B R"]:
    """True on the tokens of the response, the stop token included, nothing after it."""
    lengths = torch.tensor([len(response) for response in responses])
    return (torch.arange(int(lengths.max())) < lengths[:, None]).to(device)


def micro_batches(
    prompts: Sequence[Ids], responses: Sequence[Ids], rows: Sequence[int], size: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[list[int], Batch]]:
    """Cut `rows` into batches of `size` rows of similar length, so that little padding is computed."""
    by_length = sorted(rows, key=lambda i: len(prompts[i]) + len(responses[i]))
    for start in range(0, len(by_length), size):
        micro = by_length[start : start + size]
        yield micro, Batch([prompts[i] for i in micro], [responses[i] for i in micro], device)
