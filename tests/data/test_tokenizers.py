import hashlib
import json
import os
import random
import time

import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from data import tokenizers
from data.console import UserError
from data.corpus import Corpus, load_corpus
from data.tokenizers import (
    EOS,
    PAD,
    Tokenizer,
    bpe_tokenizer,
    build_tokenizer,
    character_tokenizer,
    gpt2_tokenizer,
)

SENTENCES = "MILLER:\nWho'll mend the wheel, if I'm away?\n\nBAKER:\nWe'll bake 12 stones -- or none!  Déjà vu.\n"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus("tinyshakespeare" if "TINYSHAKESPEARE_PATH" in os.environ else "pastiche")


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return bpe_tokenizer(SENTENCES * 3, 300)


@pytest.fixture(scope="module")
def fast(trained, tmp_path_factory) -> FastTokenizer:
    folder = tmp_path_factory.mktemp("bpe")
    trained.save(folder)
    return FastTokenizer.from_file(str(folder / "tokenizer.json"))


def gpt2_or_skip() -> Tokenizer:
    try:
        return gpt2_tokenizer()
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("kind", ["char", "bpe", "gpt2"])
def test_the_whole_corpus_has_the_same_ids_everywhere(kind, corpus, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = gpt2_or_skip() if kind == "gpt2" else build_tokenizer(kind, corpus.text, 1024)
    ids = tokenizer.encode(corpus.text)
    assert tokenizer.decode(ids) == corpus.text

    tokenizer.save(tmp_path, model_max_length=2**30)
    assert FastTokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(corpus.text).ids == ids
    # A checkpoint's config.json names a model family, and transformers must not take that family's tokenizer.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "vocab_size": tokenizer.vocab_size}))
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert auto.encode(corpus.text) == ids
    assert auto.decode(ids) == corpus.text
    assert (auto.eos_token_id, auto.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)
    assert (auto.eos_token, auto.pad_token) == (EOS, PAD)
    assert (len(auto), auto.padding_side, auto.model_max_length) == (tokenizer.vocab_size, "left", 2**30)
    assert auto.decode([ids[0], tokenizer.eos_id], skip_special_tokens=True) == auto.decode(ids[:1])


@pytest.mark.parametrize("kind", ["char", "bpe", "gpt2"])
def test_a_loaded_tokenizer_is_the_saved_one(kind, tmp_path):
    tokenizer = gpt2_or_skip() if kind == "gpt2" else build_tokenizer(kind, SENTENCES, 300)
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.kind == kind
    assert loaded.encode(SENTENCES) == tokenizer.encode(SENTENCES)
    assert (loaded.eos_id, loaded.pad_id, loaded.vocab_size) == (
        tokenizer.eos_id,
        tokenizer.pad_id,
        tokenizer.vocab_size,
    )
    content = (tmp_path / "tokenizer.json").read_bytes()
    assert loaded.sha256 == tokenizer.sha256 == hashlib.sha256(content).hexdigest()


ANY_TEXT = (
    st.text(max_size=60) | st.text("ab eé'sl\n\t\u00a0.-1½ \u3000", max_size=60) | st.text("aeilmw ", max_size=40)
).filter(lambda text: EOS not in text and PAD not in text)
"""Hypothesis takes strings from the source too, and a special token's name is a special token in `tokenizers` alone."""


@given(ANY_TEXT)
@settings(max_examples=400, deadline=None)
@example("who'll who'LL 's  \n\n  x \n")
@example("      ")
@example("\U0001f3ad café ﷽")
def test_any_text_survives_bpe_and_has_the_same_ids_in_both_libraries(trained, fast, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert fast.encode(text).ids == ids
    assert fast.decode(ids, skip_special_tokens=False) == text


@given(st.lists(st.integers(0, 299), max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_ids_decode_alike_in_both_libraries(trained, fast, ids):
    assert trained.decode(ids) == fast.decode(ids, skip_special_tokens=True)
    assert trained.decode(ids, keep_special=True) == fast.decode(ids, skip_special_tokens=False)


@given(st.text("aé漢🎭\n\r\u2028 ", max_size=30))
def test_characters_of_many_bytes_are_one_token_each(text):
    tokenizer = character_tokenizer("漢é🎭a\n\r\u2028 ")
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text


def test_characters_are_numbered_in_sorted_order():
    tokenizer = character_tokenizer("cab\n")
    assert tokenizer.encode("\nabc") == [0, 1, 2, 3]
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (4, 5, 6)


def test_an_unknown_character_is_named():
    with pytest.raises(UserError, match=r"does not know 'é' \(U\+00E9\)"):
        character_tokenizer("abc").encode("abé")


def test_no_merge_crosses_into_the_special_ids(trained):
    assert trained.vocab_size == 300
    assert (trained.eos_id, trained.pad_id) == (298, 299)
    assert max(trained.encode(SENTENCES)) < 298
    assert len(trained.encode(SENTENCES)) < len(SENTENCES.encode())


def test_a_special_token_in_the_text_stays_text(trained):
    ids = trained.encode(f"a{EOS}{PAD}")
    assert {trained.eos_id, trained.pad_id}.isdisjoint(ids)
    assert trained.decode(ids) == f"a{EOS}{PAD}"


def test_specials_are_decoded_only_on_request(trained):
    ids = [*trained.encode("mend"), trained.eos_id, trained.pad_id]
    assert trained.decode(ids) == "mend"
    assert trained.decode(ids, keep_special=True) == f"mend{EOS}{PAD}"


def test_training_is_deterministic_and_of_its_text_alone(trained):
    assert bpe_tokenizer(SENTENCES * 3, 300).sha256 == trained.sha256
    assert bpe_tokenizer("another text altogether " * 9, 300).sha256 != trained.sha256


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(UserError, match="vocab_size 257 is too small for BPE; give 258 or more"):
        bpe_tokenizer(SENTENCES, 257)
    assert bpe_tokenizer(SENTENCES, 258).encode("ab") != []


def test_a_short_text_gives_fewer_tokens_than_asked():
    tokenizer = bpe_tokenizer("ab ab", 1000)
    assert tokenizer.vocab_size < 300
    assert tokenizer.pad_id == tokenizer.vocab_size - 1


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="choose one of char, bpe, gpt2"):
        build_tokenizer("words", SENTENCES, 300)  # type: ignore[arg-type]


def test_gpt2_has_its_own_ids_and_a_pad():
    tokenizer = gpt2_or_skip()
    assert tokenizer.encode("hello world") == [31373, 995]
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (50_256, 50_257, 50_258)
    for text in (SENTENCES, "   \n\n  x\t's 'S 12½ 漢字"):
        assert tokenizer.encode(text) == tiktoken.get_encoding("gpt2").encode_ordinary(text)


def test_gpt2_without_network_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(UserError, match="TIKTOKEN_CACHE_DIR") as caught:
        gpt2_tokenizer()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file"),
        ("{", "not a tokenizer file"),
        ("{}", "not a tokenizer file"),
        ("[]", "not a tokenizer file"),
        ("version https://git-lfs.github.com/spec/v1", "not a tokenizer file"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0, "b": "x"}}, "added_tokens": []}', "not a tokenizer file"),
        ('{"model": {"type": "BPE", "vocab": {"\u2581a": 0}}, "added_tokens": []}', "not a tokenizer file"),
        ('{"model": ["BPE"], "added_tokens": []}', "not a tokenizer file"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0}}, "added_tokens": []}', "not a tokenizer of this project"),
        ('{"model": {"type": "Unigram", "vocab": {}}, "added_tokens": []}', "not a tokenizer of this project"),
    ],
)
def test_a_broken_tokenizer_file_is_refused(tmp_path, content, complaint):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=complaint):
        Tokenizer.load(tmp_path)


def test_a_text_without_spaces_takes_time_in_proportion_to_its_length():
    """Four times the length took sixteen times as long."""
    text, seconds = "".join(random.Random(1).choices("ACGT", k=120_000)), []
    for part in (text[: len(text) // 4], text):
        begin = time.process_time()
        tokenizer = bpe_tokenizer(part, 300)
        seconds.append(time.process_time() - begin)
        assert tokenizer.vocab_size == 300
        assert tokenizer.decode(tokenizer.encode(part)) == part
    assert seconds[1] < max(0.1, 9 * seconds[0])


def test_pieces_of_ordinary_length_are_trained_on_whole(monkeypatch):
    text = load_corpus("pastiche").text[:200_000]
    cut = bpe_tokenizer(text, 512).sha256
    monkeypatch.setattr(tokenizers, "LONGEST_PIECE", 20_000)
    assert bpe_tokenizer(text, 512).sha256 == cut
    monkeypatch.setattr(tokenizers, "LONGEST_PIECE", 3)
    assert bpe_tokenizer(text, 512).sha256 != cut
