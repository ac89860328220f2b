"""Texts that end a response, found in its tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data.console import UserError
from data.corpus import load_corpus
from data.tokenizers import bpe_tokenizer
from sft.models.stops import StopStrings


def test_a_text_is_found_where_its_last_character_is_written(tmp_path: Path) -> None:
    """Across tokens, within one, and where a token goes on after it: as the decoded text says."""
    text = load_corpus("pastiche").text[:60_000]
    bpe_tokenizer(text, 500).save(tmp_path)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path)
    for strings in (("\n\n",), (" and ", "\nF"), ("e",), ("zq", text[200:204])):
        stops, found = StopStrings(strings, tokenizer), 0
        ids = tokenizer.encode(text[:400])
        start = 0
        for end in range(1, len(ids) + 1):
            complete = any(each in tokenizer.decode(ids[start:end]) for each in strings)
            assert stops.ended(ids[start:end]) == complete
            if complete:
                found, start = found + 1, end
        assert found


def test_what_no_token_writes_is_refused(letters: Callable[..., PreTrainedTokenizerFast]) -> None:
    tokenizer = letters("abcdefghij ", "<eos>", "<pad>")
    StopStrings(("ab", "c d"), tokenizer)
    for text in ("xyz", "abx", "xab", "A"):
        with pytest.raises(UserError, match=rf"^stop_strings: the tokenizer never writes '{text}': give a text"):
            StopStrings(("ab", text), tokenizer)
    with pytest.raises(UserError, match="stop_strings are text: pass the tokenizer"):
        StopStrings(("ab",), None)
