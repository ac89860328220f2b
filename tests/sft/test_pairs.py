"""Pairs as tokens: what is cut, left out and named, and the order of a step."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from data.console import UserError
from data.corpus import load_corpus
from data.dialogue import Pair
from data.tokenizers import bpe_tokenizer, character_tokenizer
from sft.config import FineTuneConfig
from sft.pairs import encode_pairs, load_pairs, training_order
from tests.sft.small import TEXT


def test_encoding_counts_what_is_cut_and_what_is_left_out() -> None:
    tokenizer = bpe_tokenizer(TEXT, 300)
    pairs = [
        Pair("A:\nHow now?\n\nB:\n", "None, sir."),
        Pair("A:\nHow now?\n\nB:\n", "The road is empty. What news abroad? " * 20),
        Pair("A:\nHow now?\n\nB:\n", "the inn is shut and " * 40),
        Pair("A:\nHow now?\n\nB:\n", "Ay."),
    ]
    options = FineTuneConfig(prompt_length=6, response_length=40, min_words=2)
    encoded = encode_pairs(pairs, tokenizer, options)
    assert (len(encoded.examples), encoded.cut, encoded.dropped) == (2, 1, 2)
    whole, cut = encoded.examples
    assert whole.completion == [*tokenizer.encode("None, sir."), tokenizer.eos_id]
    assert len(cut.completion) <= 40
    assert re.search(r"[.?]$", tokenizer.decode(cut.completion))
    assert whole.prompt == tokenizer.encode(pairs[0].prompt)[-6:]


def test_few_words_are_left_out_of_plays_and_learned_of_peoples_own_pairs(tmp_path: Path) -> None:
    tokenizer, data = bpe_tokenizer(TEXT, 300), tmp_path / "pairs.jsonl"
    pairs = [
        Pair("Q?", text)
        for text in ("Yes.", "学而时习之\uff0c不亦说乎。", "It is as far as the weir, and back.", "x " * 200)
    ]
    options = FineTuneConfig(prompt_length=8, response_length=60)
    found = [
        encode_pairs(pairs, tokenizer, each)
        for each in (options, replace(options, data=data), replace(options, data=data, min_words=9))
    ]
    assert [(len(each.examples), each.dropped, each.short) for each in found] == [(2, 2, 1), (3, 1, 0), (2, 2, 1)]


def test_what_a_tokenizer_does_not_know_is_named_with_its_line(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n\n{"prompt": "b", "completion": "\u00e9"}\n', "utf-8")
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 3: the character tokenizer does not know 'é'"):
        load_pairs(FineTuneConfig(data=data), load_corpus("pastiche"), character_tokenizer("ab"))


def test_sorting_within_a_step_keeps_the_steps_pairs() -> None:
    lengths = [17, 3, 9, 9, 40, 2, 8, 31, 5, 12, 6, 6]
    options = FineTuneConfig(batch_size=4, epochs=2, seed=3)
    order = training_order(lengths, options)
    assert sorted(order[:12]) == sorted(order[12:]) == list(range(12))
    for first in range(0, 24, 4):
        step = [lengths[index] for index in order[first : first + 4]]
        assert step == sorted(step, reverse=True)
    assert order != training_order(lengths, replace(options, seed=4))
