"""Texts that end a response, found in its token ids: nothing is decoded while a model samples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from data.console import UserError


class StopStrings:
    """Whether token ids complete one of several texts with their last token, which may continue after it.

    Matching is that of transformers' `generate(stop_strings=…)`.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Any) -> None:
        """UserError where there is no tokenizer, or none that could write a text."""
        from transformers import StopStringCriteria  # slow to import, and rarely needed

        if tokenizer is None:
            raise UserError("stop_strings are text: pass the tokenizer, or name tokens with stop_token_ids")
        for text in strings:
            ids = list(tokenizer.encode(text, add_special_tokens=False))
            try:
                self.criteria = StopStringCriteria(tokenizer, [text])
            except ValueError:  # it has no token with a character of the text's end
                ids = []
            # Any such token satisfies transformers, which might then wait for ever.
            if not (ids and self.ended(ids)):
                raise UserError(
                    f"stop_strings: the tokenizer never writes {text!r}: give a text that encoding and decoding leaves "
                    "as it is, or name tokens with stop_token_ids"
                )
        self.criteria = StopStringCriteria(tokenizer, list(strings))

    def __call__(self, ids: Tensor) -> Tensor:
        """For ids (B, T): (B,) bool."""
        ended: Tensor = self.criteria(ids, None)
        return ended

    def ended(self, response: Sequence[int]) -> bool:
        """The same for one response."""
        return bool(self(torch.tensor([list(response)]))[0])
