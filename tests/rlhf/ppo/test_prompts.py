"""What the prompts may be given as, what becomes of each, and what is refused."""

import json
from collections.abc import Iterable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from tokenizers.processors import TemplateProcessing
from transformers import BatchEncoding, PreTrainedTokenizerFast

from data.console import UserError
from rlhf.ppo.prompts import Prompt, PromptOrder, encode_prompts

VOCABULARY = 24
ABC = [0, 1, 2]
# "u" stands before what the user says, "v" before what the assistant says, EOS after what is complete.
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'gold' %}{{ raise_exception('no gold judges') }}{% endif %}"
    "{{ 'v' if m['role'] == 'assistant' else 'u' }}{{ m['content'] }}"
    "{{ '<eos>' if not loop.last or m['role'] != 'assistant' else '' }}{% endfor %}"
    "{% if add_generation_prompt %}v{% endif %}"
)


@pytest.fixture
def chat(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def encode(source: Any, tokenizer: Any = None, length: int = 12) -> list[Prompt]:
    return encode_prompts(source, tokenizer, length, VOCABULARY)


def ids(prompts: Iterable[Prompt]) -> list[list[int]]:
    return [list(prompt) for prompt in prompts]


def conversation(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


@pytest.mark.parametrize(
    "source",
    [
        ["abc", "d"],
        ("abc", "d"),
        Dataset.from_dict({"prompt": ["abc", "d"], "answer": ["x", "y"]}),
        [{"prompt": "abc", "answer": "x"}, {"prompt": "d"}],
        [ABC, (3,)],
        [np.array(ABC), np.array([3])],
        Dataset.from_dict({"prompt": [ABC, [3]]}),
        Dataset.from_dict({"prompt": [ABC, [3]]}).with_format("torch"),
        pd.DataFrame({"prompt": ["abc", "d"], "answer": ["x", "y"]}),
    ],
    ids=["texts", "tuple", "dataset", "rows", "ids", "arrays", "dataset of ids", "tensors", "data frame"],
)
def test_prompts_of_every_form(tokenizer: PreTrainedTokenizerFast, source: Any) -> None:
    assert ids(encode(source, tokenizer)) == [ABC, [3]]


def test_texts_and_conversations_from_a_file(chat: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "abc"}, {"prompt": conversation("ab")}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source in (path, str(path)):
        assert ids(encode(source, chat)) == [ABC, [20, 0, 1, 22, 21]]
    path.write_text('{"prompt": 3}\n')
    with pytest.raises(UserError, match=r"line 1: \"prompt\" must be a string or a list"):
        encode(path, chat)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "is empty"),
        ([24], "holds a token"),
        ([3.5], "is neither text"),
        (["abc"], "is neither text"),
        ([{"role": "gold", "content": "a"}], "the chat template does not take this conversation"),
        (conversation("abcdefgh", "abc"), "is a conversation of 14 tokens"),
        (3, '"prompt" must be a string or a list'),
    ],
)
def test_a_prompt_of_a_file_is_named_with_its_line(chat: Any, tmp_path: Path, prompt: Any, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n\n\n' + json.dumps({"prompt": prompt}) + "\n")
    with pytest.raises(UserError, match=rf"prompts\.jsonl, line 4:? {message}"):
        encode(path, chat)
    with pytest.raises(UserError, match="cannot be read"):
        encode("abc", chat)


def test_prompts_remember_what_they_were_given_as(chat: PreTrainedTokenizerFast) -> None:
    messages = conversation("ab", "c", "d")
    text, plain, talk = encode(["abc", ABC, messages], chat)
    assert (text.text, text.messages) == ("abc", None)
    assert (plain.text, plain.messages) == (None, None)
    assert talk.messages == messages
    assert talk.text == "uab<eos>vc<eos>ud<eos>v"
    assert talk.text == chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    order = PromptOrder([text, plain, talk], seed=1)
    assert {prompt.text for prompt in order.take(3)} == {"abc", None, talk.text}


def test_a_prompt_is_a_sequence_that_keeps_its_text(chat: PreTrainedTokenizerFast) -> None:
    messages = conversation("ab")
    prompt = Prompt((1, 2, 3), text="abc", messages=messages)
    assert (len(prompt), prompt[0], prompt[-1], list(prompt), [*prompt, 4]) == (3, 1, 3, [1, 2, 3], [1, 2, 3, 4])
    for part, expected in ((prompt[1:], [2, 3]), (Prompt(prompt), [1, 2, 3]), (Prompt(prompt[:2]), [1, 2])):
        assert (list(part), part.text, part.messages) == (expected, "abc", messages)
    assert Prompt(prompt, text="other").text == "other"
    assert prompt == Prompt([1, 2, 3], "abc", messages) != Prompt([1, 2, 3])
    with pytest.raises(FrozenInstanceError):
        prompt.text = "other"  # type: ignore[misc]


def test_ids_with_their_text_are_taken_as_they_are_and_cut_with_it() -> None:
    (short,) = encode([Prompt(ABC, text="as it was")])
    assert (list(short), short.text) == (ABC, "as it was")
    (cut,) = encode([Prompt(ABC, text="as it was")], length=2)
    assert (list(cut), cut.text) == ([1, 2], "as it was")


def test_conversations_end_where_the_assistant_begins(chat: PreTrainedTokenizerFast) -> None:
    data = Dataset.from_dict({"prompt": [conversation("ab"), conversation("ab", "c")]})
    first, second = encode(data, chat)
    assert chat.decode(list(first)) == "uab<eos>v"
    assert chat.decode(list(second)) == "uab<eos>vc", "what the assistant has begun is gone on with"
    # A BOS that the template writes is not doubled by the tokenizer's own habit.
    chat.backend_tokenizer.post_processor = TemplateProcessing(single="a $A", special_tokens=[("a", 0)])
    assert chat.encode("b") == [0, 1]
    assert ids(encode([conversation("ab")], chat)) == ids([first])


def test_texts_keep_bos_and_get_no_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.bos_token = "a"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="a $A <eos>", special_tokens=[("a", 0), ("<eos>", 22)]
    )
    assert tokenizer.encode("bcd") == [0, 1, 2, 3, 22]
    assert ids(encode(["bcd"], tokenizer)) == [[0, 1, 2, 3]], "a prompt goes on: it does not end"
    assert encode(["bc<eos>"], tokenizer)[0][-1] == 22, "but an EOS that the user wrote stands"
    assert ids(encode(["bcdefg"], tokenizer, length=4)) == [[0, 4, 5, 6]], "a cut text still begins with BOS"
    assert ids(encode([[1, 2, 3, 4, 5]], tokenizer, length=4)) == [[2, 3, 4, 5]]
    assert encode(["bcdefg"], tokenizer, length=4)[0].text == "bcdefg"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "there are no prompts"),
        ([[]], "prompt 0 is empty"),
        (["abc", ""], "prompt 1 is empty"),
        ([ABC, [24]], "prompt 1 holds a token"),
        ([[-1]], "prompt 0 holds a token"),
        ([3.5], "neither text, nor"),
        ([["abc"]], "neither text, nor"),
        ([None], "neither text, nor"),
        (conversation("ab"), "a conversation is a list of messages"),
        ([conversation("ab")], "no chat template"),
        (Dataset.from_dict({"text": ["abc"]}), 'a column "prompt"; this dataset has text$'),
        (Dataset.from_dict({"input_ids": [ABC]}), r"rename_column\(\"input_ids\", \"prompt\"\)"),
        (DatasetDict({"train": Dataset.from_dict({"prompt": ["a"]})}), "a DatasetDict of train: choose one of these"),
        (BatchEncoding({"input_ids": [ABC]}), "a BatchEncoding of input_ids: choose one of these"),
        (pd.DataFrame({"text": ["abc"], "answer": ["x"]}), 'a column "prompt"; this dataset has text, answer$'),
        ({"abc", "d"}, "a set, which has no length or no order"),
        (Dataset.from_dict({"prompt": ["abc"]}).to_iterable_dataset(), "no length"),
        ((text for text in ["abc"]), "a generator, which has no length"),
        (None, "a NoneType"),
    ],
)
def test_what_is_no_prompt_is_said_in_one_line(tokenizer: Any, source: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        encode(source, tokenizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (conversation("abcdefgh", "abc"), "a conversation of 14 tokens, more than prompt_length 12: raise it"),
        ([{"role": "gold", "content": "a"}], r"chat template does not take this conversation \(no gold judges\)"),
        ([{"content": "a"}], "neither text, nor"),
    ],
)
def test_conversations_that_cannot_be_used(chat: Any, messages: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        encode([messages], chat)


def test_texts_need_a_tokenizer_and_ids_do_not() -> None:
    assert ids(encode([ABC])) == [ABC]
    with pytest.raises(UserError, match="prompt 0 is text and needs a tokenizer"):
        encode(["abc"])


def test_epochs_are_dealt_whole_and_in_orders_of_their_own() -> None:
    prompts = [Prompt([i]) for i in range(6)]
    order, same, other = (PromptOrder(prompts, seed) for seed in (1, 1, 2))
    dealt = ids(order.take(4) + order.take(8))
    assert sorted(dealt[:6]) == sorted(dealt[6:]) == [[i] for i in range(6)]
    assert dealt[:6] != dealt[6:]
    assert ids(same.take(12)) == dealt != ids(other.take(12))
    same.position = 4
    assert ids(same.take(8)) == dealt[4:], "the position is all there is to restore"
