"""Finding a model's tokenizer, knowing the same tokens again, and what ends a response."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data.console import UserError
from sft.models.tokens import find_stop_ids, load_tokenizer, same_tokens, without_stop

Build = Callable[..., PreTrainedModel]


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_the_tokenizer_is_looked_for_where_the_model_came_from(
    causal_lm: Build, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, kind: str
) -> None:
    model = causal_lm(kind)
    assert load_tokenizer(model) is None
    model.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path) is None, "not the empty one that transformers makes up"
    tokenizer.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    for source in (tmp_path, str(tmp_path), loaded):
        assert load_tokenizer(source).encode("abc") == [0, 1, 2]
    assert load_tokenizer("no/such-model") is None


def test_tokenizers_are_the_same_when_each_id_means_the_same(
    tokenizer: PreTrainedTokenizerFast, letters: Callable[..., PreTrainedTokenizerFast]
) -> None:
    larger = letters("abcdefghijklmnopqrstuv", "<eos>", "<pad>")
    larger.add_tokens(["w"])
    assert same_tokens(tokenizer, letters("abcdefghijklmnopqrstuv", "<eos>", "<pad>"))
    assert same_tokens(tokenizer, larger)
    assert not same_tokens(larger, tokenizer)
    assert not same_tokens(tokenizer, letters("bacdefghijklmnopqrstuv", "<eos>", "<pad>"))
    padded = letters("abcdefghijklmnopqrstuv", "<eos>", "<pad>")
    padded.add_special_tokens({"pad_token": "[PAD]"})
    assert same_tokens(padded, tokenizer), "a PAD of its own, which nothing reads"
    padded.pad_token = padded.eos_token = "[PAD]"
    assert not same_tokens(padded, tokenizer)
    assert same_tokens(tokenizer, None)
    assert same_tokens(None, tokenizer)


@pytest.mark.parametrize(
    ("configured", "eos", "generation", "expected"),
    [
        ((5, 6), 22, 22, {5, 6}),
        ((), 22, 22, set()),
        (None, 22, None, {22}),
        (None, 22, [22, 7], {22, 7}),  # as chat models have it: end of turn, and end of text
        (None, 22, 2, {22}),  # the defaults of a configuration that knows nothing of this tokenizer
        (None, None, 3, {3}),
        (None, None, [3, 4], {3, 4}),
    ],
)
def test_what_ends_a_response(
    causal_lm: Build,
    tokenizer: PreTrainedTokenizerFast,
    configured: tuple | None,
    eos: int,
    generation: int,
    expected: set,
) -> None:
    model = causal_lm("gpt2")
    model.generation_config.eos_token_id = generation
    assert find_stop_ids(configured, tokenizer if eos else None, model) == expected


@pytest.mark.parametrize("configured", [22, "eos", ("a",), (24,), (-1,), [None]])
def test_stop_tokens_are_ids_of_the_vocabulary(causal_lm: Build, configured: Any) -> None:
    with pytest.raises(UserError, match=r"stop_token_ids is .*give a tuple of token ids, each below 24"):
        find_stop_ids(configured, None, causal_lm("gpt2"))


def test_a_response_must_be_able_to_end(causal_lm: Build) -> None:
    model = causal_lm("gpt2")
    model.generation_config.eos_token_id = None
    with pytest.raises(UserError, match="name one with stop_token_ids"):
        find_stop_ids(None, None, model)


def test_the_stop_token_is_no_part_of_the_text() -> None:
    assert without_stop([1, 2, 9], {9}) == [1, 2]
    assert without_stop([9, 2], {9}) == [9, 2]
    assert without_stop([], {9}) == []
