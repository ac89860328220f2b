"""Finding a model's tokenizer, knowing the same tokens again, and what ends a response."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data.console import UserError
from sft.models.tokens import continuation, find_stop_ids, load_tokenizer, same_tokens, without_stop

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


BROKEN: dict[str, Callable[[Path], Any]] = {
    "half a file": lambda file: file.write_text(file.read_text()[:40]),
    "empty": lambda file: file.write_text(""),
    "a pointer in place of a file": lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid 1"),
    "of a newer release": lambda file: file.write_text(file.read_text().replace('"WordLevel"', '"WordLevel2"')),
    "missing": Path.unlink,
}


@pytest.mark.parametrize(
    ("name", "how"),
    [*(("tokenizer.json", how) for how in BROKEN), *(("tokenizer_config.json", how) for how in [*BROKEN][:3])],
)
def test_a_tokenizer_that_cannot_be_read_is_not_taken_for_none(
    causal_lm: Build, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, name: str, how: str
) -> None:
    causal_lm("gpt2").config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    BROKEN[how](tmp_path / name)
    with pytest.raises(UserError, match=rf"of the reward model in {tmp_path} cannot be read \(.+\): ") as caught:
        load_tokenizer(tmp_path, "reward model")
    assert "\n" not in str(caught.value)


def test_a_repository_has_no_tokenizer_only_where_the_hub_said_so(
    causal_lm: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository, model = tmp_path / "models--some--model", causal_lm("gpt2")
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1234")
    model.save_pretrained(repository / "snapshots" / "1234")
    for gone in ("some/model", "some/folder/that-is-gone", str(tmp_path / "gone")):
        model.config.name_or_path = gone
        with pytest.raises(UserError, match=f"the tokenizer of the policy in {gone} cannot be read"):
            load_tokenizer(model)
    (repository / ".no_exist" / "1234").mkdir(parents=True)
    (repository / ".no_exist" / "1234" / "tokenizer_config.json").touch()
    assert load_tokenizer("some/model") is None


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


# ---- text ----

WORDS = ["<s>", "the", "miller", "sleeps", "."]


def spelled(kind: str) -> Any:
    """A tokenizer that writes words the way of this kind; ids 1 to 4 are the words, 0 is a special token."""
    word = "{}"
    options: dict[str, Any] = {"clean_up_tokenization_spaces": False}
    if kind == "wordpiece":
        decoder: Any = decoders.WordPiece()
    elif kind == "cleaned up":
        decoder, options = decoders.WordPiece(cleanup=False), {"clean_up_tokenization_spaces": True}
    else:
        word = "▁{}"
        pieces: Any = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        decoder = decoders.Metaspace() if kind == "sentencepiece" else decoders.Sequence(pieces)
    vocabulary = {text if text in ("<s>", ".") else word.format(text): i for i, text in enumerate(WORDS)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<s>"))
    backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", **options)


@pytest.mark.parametrize("kind", ["sentencepiece", "llama", "wordpiece", "cleaned up"])
def test_a_continuation_is_what_follows_the_text_before_it(kind: str) -> None:
    """Text before and continuation make the whole text, wherever it is cut; decoded alone they do not."""
    tokenizer, ids = spelled(kind), [1, 2, 3, 4, 1, 2]
    whole = tokenizer.decode(ids)
    assert whole == "the miller sleeps. the miller"
    for cut in range(1, len(ids)):
        assert tokenizer.decode(ids[:cut]) + continuation(tokenizer, ids[cut:], ids[:cut]) == whole
    assert tokenizer.decode([1]) + tokenizer.decode([2]) == "themiller"
    assert continuation(tokenizer, [2, 3], [1] * 50) == " miller sleeps"
    assert continuation(tokenizer, [], [1]) == ""


def test_a_continuation_completes_half_a_character_and_keeps_special_tokens() -> None:
    backend = Tokenizer(BPE({char: i for i, char in enumerate(ByteLevel.alphabet())}, []))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    ids = tokenizer.encode("aé<think>ü")
    assert len(ids) == 6
    assert [continuation(tokenizer, ids[cut:], ids[:cut]) for cut in range(1, 6)] == [
        *("é<think>ü", "é<think>ü", "<think>ü", "ü", "ü")
    ]
