"""What is asked of a tokenizer, if there is one: to be found, to decode, and to say what ends a response."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
from transformers import AutoTokenizer, PreTrainedModel

from data.console import UserError
from data.jsonl import with_home

ModelSource = str | Path | PreTrainedModel
"""A folder, a hub name, or the model itself."""
TOKENIZER_FILES = ("*token*", "*vocab*", "merges.txt", "*.model", "*.spm", "*.tiktoken", "tekken.json")
"""Patterns of the names of files that a tokenizer is made from: where there is one of these, there is a tokenizer."""
CONTEXT = 16
"""Tokens before a response that decide how its first ones are written. Four would do: a character has four bytes."""


def at_home(source: Any) -> Any:
    """A source with the home folder in the place of a `~` that it begins with; any other as it is."""
    named = isinstance(source, str | Path) and str(source).startswith("~")
    return str(with_home(source)) if named else source


def load_tokenizer(source: ModelSource, role: str = "policy") -> Any:
    """The tokenizer next to a model, or None: in its folder or hub repository, for a model where it came from.

    role: what errors call the model. UserError where there is a tokenizer, or may be one, that cannot be read: without
    it, ids of another tokenizer would be taken for this model's own.
    """
    name = source.config.name_or_path if isinstance(source, PreTrainedModel) else str(at_home(source))
    if not name:
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        # Of a folder without tokenizer files transformers makes one of the model's kind that knows no word.
        if len(tokenizer.get_vocab()) > len(tokenizer.get_added_vocab()):
            return tokenizer
        reason = "it knows no word"
    except Exception as error:  # transformers, tokenizers, sentencepiece and json: each has errors of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if _has_no_tokenizer(name):
        return None
    raise UserError(
        f"the tokenizer of the {role} in {name} cannot be read ({reason}): save or download it again, or update "
        "transformers and tokenizers if it is newer than they are"
    )


def _has_no_tokenizer(name: str) -> bool:
    """Whether a folder, or a hub repository as it is in the cache, is known to hold no tokenizer."""
    if Path(name).is_dir():
        return not _has_tokenizer_file(Path(name))
    try:
        cached, missing = (try_to_load_from_cache(name, file) for file in ("config.json", "tokenizer_config.json"))
    except ValueError:  # a folder that is gone: its name is no repository's
        return False
    # Where nobody could ask the hub, a file that is not in the cache may exist.
    return isinstance(cached, str) and missing is _CACHED_NO_EXIST and not _has_tokenizer_file(Path(cached).parent)


def _has_tokenizer_file(folder: Path) -> bool:
    return any(fnmatch(path.name, pattern) for path in folder.iterdir() for pattern in TOKENIZER_FILES)


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


def continuation(tokenizer: Any, ids: Sequence[int], before: Sequence[int]) -> str:
    """The text of token ids as it follows that of `before`, special tokens included.

    Decoded alone it may be another text: tokenizers of the SentencePiece kind drop the space before the first word,
    those of the WordPiece kind write it between tokens only, and the first bytes of a character may be in `before`.
    """
    context = [*before][-CONTEXT:]
    head, whole = str(tokenizer.decode(context)), str(tokenizer.decode([*context, *ids]))
    # Not the length of the first: it may end in half a character, which the ids complete.
    same = (number for number, (a, b) in enumerate(zip(head, whole, strict=False)) if a != b)
    return whole[next(same, len(head)) :]


def without_stop(response: Sequence[int], stop_ids: Collection[int]) -> Sequence[int]:
    """A response's ids without the stop token that ended it."""
    return response[:-1] if response and response[-1] in stop_ids else response
