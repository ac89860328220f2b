"""What is asked of a tokenizer, if there is one: to be found, to decode, and to say what ends a response."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel

from data.console import UserError
from data.jsonl import with_home

ModelSource = str | Path | PreTrainedModel
"""A folder, a hub name, or the model itself."""


def at_home(source: Any) -> Any:
    """A source with the home folder in the place of a `~` that it begins with; any other as it is."""
    named = isinstance(source, str | Path) and str(source).startswith("~")
    return str(with_home(source)) if named else source


def load_tokenizer(source: ModelSource) -> Any:
    """The tokenizer next to a model, or None: in its folder or hub repository, for a model where it came from."""
    name = source.config.name_or_path if isinstance(source, PreTrainedModel) else str(at_home(source))
    if not name:
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError):  # no tokenizer there; a model that cannot be loaded says so itself
        return None
    # Of a folder without tokenizer files transformers makes one of the model's kind that knows no word.
    return tokenizer if len(tokenizer.get_vocab()) > len(tokenizer.get_added_vocab()) else None


def same_tokens(ours: Any, theirs: Any) -> bool:
    """Whether each of our tokenizer's ids is the same token to theirs; where one cannot be asked, it is assumed.

    PAD may be ours alone, as scripts add one for batches: nothing reads it here.
    """
    if not (hasattr(ours, "get_vocab") and hasattr(theirs, "get_vocab")):
        return True
    unread = {getattr(ours, "pad_token", None)} - {getattr(ours, "eos_token", None)}
    return {word: i for word, i in ours.get_vocab().items() if word not in unread}.items() <= theirs.get_vocab().items()


def find_stop_ids(configured: Collection[int] | None, tokenizer: Any, lm: PreTrainedModel) -> frozenset[int]:
    """What ends a response: the configured ids (perhaps none), or the EOS of the tokenizer, or of the model.

    Chat models have several: where the model's generation settings name others in addition to the tokenizer's EOS,
    these count too. UserError where there is none.
    """
    if configured is not None:
        vocab_size = lm.config.get_text_config().vocab_size
        several = isinstance(configured, Collection) and not isinstance(configured, str)
        if not (several and all(isinstance(token, int) and 0 <= token < vocab_size for token in configured)):
            raise UserError(
                f"stop_token_ids is {configured!r}: give a tuple of token ids, each below {vocab_size}, the policy's "
                "vocabulary; None for EOS"
            )
        return frozenset(configured)
    named = getattr(lm.generation_config, "eos_token_id", None)
    generation = frozenset([named] if isinstance(named, int) else named or ())
    eos = getattr(tokenizer, "eos_token_id", None)
    # Settings that do not know the tokenizer's EOS are another tokenizer's, as a new configuration's defaults are.
    found = generation if eos is None or eos in generation else frozenset([eos])
    if not found:
        raise UserError(
            "no token ends a response: the tokenizer has no EOS; name one with stop_token_ids, or set it to () if "
            "every response should have full length"
        )
    return found


def decoder(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """Token ids -> text without special tokens, for reward functions and for reading."""
    special = set(getattr(tokenizer, "all_special_ids", ()))

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode([token for token in ids if token not in special]))

    return decode


def without_stop(response: Sequence[int], stop_ids: Collection[int]) -> Sequence[int]:
    """A response's ids without the stop token that ended it."""
    return response[:-1] if response and response[-1] in stop_ids else response
