"""The prompts of PPO: read from what the user gives, tokenised once, and drawn in a seeded order."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from data.console import UserError
from data.jsonl import read_jsonl
from pretrain.machine import seeded

Conversation = list[dict[str, Any]]
"""Messages {"role", "content"}, oldest first."""


@dataclass(frozen=True)
class Prompt(Sequence[int]):
    """A prompt: a sequence of token ids with what they were made from, which a part of it keeps."""

    ids: Sequence[int]
    """Another prompt is taken with its text and its messages."""
    text: str | None = None
    """The whole text as the user gave it, or as the chat template wrote the conversation; None where ids were given."""
    messages: Conversation | None = None
    """The conversation, if it was one."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What else its row of the data holds, for reward functions: by the names of the columns."""
    where: str = field(default="", compare=False)
    """What errors call it: its place in the data."""

    def __post_init__(self) -> None:
        for name in ("text", "messages", "columns", "where"):
            if getattr(self, name) in (None, "", {}):
                object.__setattr__(self, name, getattr(self.ids, name, getattr(self, name)))
        object.__setattr__(self, "ids", list(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)

    def __getitem__(self, place: Any) -> Any:
        """A token id, or for a slice the prompt of these ids."""
        return replace(self, ids=self.ids[place]) if isinstance(place, slice) else self.ids[place]


class PromptOrder:
    """Yields prompts without end: each epoch in its own order, which depends on the seed and nothing else."""

    def __init__(self, prompts: list[Prompt], seed: int) -> None:
        self.prompts = prompts
        self.seed = seed
        self.position = 0
        """Prompts taken so far: all there is to save."""
        self._epoch = -1
        self._order: list[int] = []

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the prompts and their columns, to know them again when a run resumes."""
        rows = [[list(prompt), dict(prompt.columns)] if prompt.columns else list(prompt) for prompt in self.prompts]
        return hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts; one that spans two epochs takes from both."""
        taken = []
        for _ in range(count):
            epoch, place = divmod(self.position, len(self.prompts))
            if epoch != self._epoch:
                generator = seeded(self.seed * 1_000_003 + epoch)
                self._epoch, self._order = epoch, torch.randperm(len(self.prompts), generator=generator).tolist()
            taken.append(self.prompts[self._order[place]])
            self.position += 1
        return taken


def encode_prompts(
    source: Any, tokenizer: Any, prompt_length: int | None, vocab_size: int, name: str = "prompt"
) -> list[Prompt]:
    """Prompts as token ids of a policy that knows `vocab_size` tokens.

    source: a list of prompts or of {"prompt"}, a `datasets.Dataset` with a column "prompt", or the path of a JSONL file
    of {"prompt"}; what else a row holds are the prompt's columns. A prompt is a text, a list of token ids, a `Prompt`
    (ids with their text), or a conversation: a list of {"role", "content"}, which the tokenizer's chat template writes
    out up to where the assistant's turn begins (if the last message is the assistant's: to where that breaks off).

    A text or ids of more than `prompt_length` tokens (None: no bound) lose their beginning, but for a BOS, and keep
    their whole text; a conversation that is too long is refused, since a cut one no longer follows its template.
    UserError on what cannot be used, which names the file's line or, as `name`, the number of the prompt.
    """
    encoded = []
    for where, prompt, columns in _listed(source, name):
        if isinstance(prompt, dict) and "prompt" in prompt:
            prompt, columns = prompt["prompt"], {name: value for name, value in prompt.items() if name != "prompt"}
        if hasattr(prompt, "tolist"):  # a tensor or an array of token ids
            prompt = prompt.tolist()
        if isinstance(prompt, Prompt):
            ids = prompt
        elif isinstance(prompt, str):
            ids = Prompt(_encode(prompt, tokenizer, where), text=prompt)
        elif isinstance(prompt, list | tuple) and all(isinstance(token, int) for token in prompt):
            ids = Prompt(prompt)
        elif isinstance(prompt, list | tuple) and all(isinstance(m, dict) and "role" in m for m in prompt):
            ids = _encode_conversation(list(prompt), tokenizer, where)
        elif isinstance(prompt, dict) and "role" in prompt:
            raise UserError(f"{where} is a message: a conversation is a list of messages, [{{...}}], even of one")
        else:
            raise UserError(
                f"{where} is neither text, nor a list of token ids, nor a list of messages with role and content: "
                f"{str(prompt)[:60]!r}"
            )
        if not ids:
            raise UserError(f"{where} is empty: give it at least one token")
        if min(ids) < 0 or max(ids) >= vocab_size:
            raise UserError(f"{where} holds a token that the policy (vocabulary {vocab_size}) does not know")
        whole = ids if prompt_length is None else _cut(ids, prompt_length, tokenizer, where)
        encoded.append(replace(whole, columns=columns or whole.columns, where=whole.where or where))
    if not encoded:
        raise UserError("there are no prompts: give at least one")
    return encoded


def columns_of(prompts: Iterable[Prompt]) -> dict[str, str | None]:
    """The names of all columns that prompts have, each with the place of the first prompt that lacks it, or None."""
    prompts = list(prompts)
    names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
    return {name: next((prompt.where for prompt in prompts if name not in prompt.columns), None) for name in names}


def _listed(source: Any, name: str) -> Iterable[tuple[str, Any, dict[str, Any]]]:
    """(where it is, prompt, columns) one by one, out of whatever holds them; name: what errors call a prompt."""
    if isinstance(source, str | Path):
        rows = read_jsonl(source, {"prompt": (str, list)})
        return [(row.where, row["prompt"], {name: row[name] for name in row if name != "prompt"}) for row in rows]
    columns = getattr(source, "column_names", getattr(source, "columns", None))  # of pandas: columns
    if isinstance(source, Mapping):
        raise UserError(
            f"the prompts are a {type(source).__name__} of {', '.join(map(str, source))}: choose one of these"
        )
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):  # no seed decides the order of a set
        raise UserError(
            f"the prompts are a {type(source).__name__}, which has no length or no order: give a list, or a "
            "datasets.Dataset that is not streamed"
        )
    if columns is None:
        return ((f"{name} {number}", prompt, {}) for number, prompt in enumerate(source))
    if "prompt" not in columns:
        rename = ': dataset.rename_column("input_ids", "prompt")' if "input_ids" in columns else ""
        raise UserError(f'the prompts need a column "prompt"; this dataset has {", ".join(map(str, columns))}{rename}')
    others = [column for column in columns if column != "prompt"]
    table = zip(source["prompt"], *(source[column] for column in others), strict=True)
    return ((f"{name} {n}", prompt, dict(zip(others, row, strict=True))) for n, (prompt, *row) in enumerate(table))


def _encode(text: str, tokenizer: Any, where: str) -> list[int]:
    """Token ids of a text, with BOS if the tokenizer adds one and never with its EOS: a prompt is to be continued."""
    if tokenizer is None:
        raise UserError(f"{where} is text and needs a tokenizer: pass one, or pass lists of token ids")
    ids = list(tokenizer.encode(text))
    eos = getattr(tokenizer, "eos_token", None)
    if eos is not None and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and not text.endswith(eos):
        ids.pop()
    return ids


def _encode_conversation(messages: Conversation, tokenizer: Any, where: str) -> Prompt:
    if getattr(tokenizer, "chat_template", None) is None:
        raise UserError(
            f"{where} is a conversation, and the tokenizer has no chat template: set tokenizer.chat_template, or "
            "give the prompts as text"
        )
    open_reply = messages[-1]["role"] == "assistant"
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=not open_reply, continue_final_message=open_reply
        )
    except Exception as error:  # a template raises what it likes: jinja's errors, TypeError, KeyError
        raise UserError(f"{where}: the chat template does not take this conversation ({error})") from error
    # The template has written all special tokens, BOS too.
    return Prompt(tokenizer.encode(text, add_special_tokens=False), text, messages)


def _cut(prompt: Prompt, length: int, tokenizer: Any, where: str) -> Prompt:
    if len(prompt) <= length:
        return prompt
    if prompt.messages is not None:
        raise UserError(
            f"{where} is a conversation of {len(prompt)} tokens, more than prompt_length {length}: raise it, or "
            "leave such prompts out"
        )
    bos = getattr(tokenizer, "bos_token_id", None)
    kept = 1 if bos is not None and prompt[0] == bos and length > 1 else 0
    return replace(prompt, ids=[*prompt.ids[:kept], *prompt.ids[len(prompt) - length + kept :]])
