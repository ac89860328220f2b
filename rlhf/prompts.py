"""The prompts of PPO: read from what the user gives, tokenised once, and dealt out in a seeded order."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from data.console import UserError


class PromptOrder:
    """Deals prompts forever: each epoch in an order of its own, which depends on the seed and nothing else."""

    def __init__(self, prompts: list[list[int]], seed: int) -> None:
        self.prompts = prompts
        self.seed = seed
        self.position = 0
        """Prompts dealt so far: all there is to save."""
        self._epoch = -1
        self._order: list[int] = []

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the prompts, to know them again when a run resumes."""
        return hashlib.sha256(json.dumps(self.prompts).encode()).hexdigest()

    def take(self, count: int) -> list[list[int]]:
        """The next `count` prompts; one that spans two epochs takes from both."""
        taken = []
        for _ in range(count):
            epoch, place = divmod(self.position, len(self.prompts))
            if epoch != self._epoch:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                self._order = torch.randperm(len(self.prompts), generator=generator).tolist()
                self._epoch = epoch
            taken.append(self.prompts[self._order[place]])
            self.position += 1
        return taken


def encode_prompts(source: Any, tokenizer: Any, prompt_length: int | None, vocab_size: int) -> list[list[int]]:
    """Token ids of prompts given as texts, as ids, or as a dataset with a column "prompt".

    A prompt longer than `prompt_length` tokens (None: no bound) loses its beginning. UserError on what cannot be used.
    """
    columns = getattr(source, "column_names", None)
    if columns is not None:
        if "prompt" not in columns:
            raise UserError(f'the prompts need a column "prompt"; this dataset has {", ".join(columns)}')
        source = source["prompt"]
    encoded = []
    for number, prompt in enumerate(source):
        if isinstance(prompt, str):
            if tokenizer is None:
                raise UserError("prompts given as text need a tokenizer: pass one, or pass lists of token ids")
            ids = list(tokenizer.encode(prompt))
        elif isinstance(prompt, list | tuple) and all(isinstance(token, int) for token in prompt):
            ids = list(prompt)
        else:
            raise UserError(f"prompt {number} is neither text nor a list of token ids: {str(prompt)[:60]!r}")
        if not ids:
            raise UserError(f"prompt {number} is empty: give it at least one token")
        if min(ids) < 0 or max(ids) >= vocab_size:
            raise UserError(f"prompt {number} holds a token that the policy (vocabulary {vocab_size}) does not know")
        encoded.append(ids if prompt_length is None else ids[-prompt_length:])
    if not encoded:
        raise UserError("there are no prompts: give at least one")
    return encoded


def decoder(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """Token ids -> text without special tokens, for reward functions and for reading."""
    if tokenizer is None:
        raise UserError("a reward function reads text: pass the tokenizer")
    special = set(getattr(tokenizer, "all_special_ids", ()))

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode([token for token in ids if token not in special]))

    return decode


def without_stop(response: Sequence[int], stop_ids: Collection[int]) -> Sequence[int]:
    """A response's ids without the stop token that ended it."""
    return response[:-1] if response and response[-1] in stop_ids else response
