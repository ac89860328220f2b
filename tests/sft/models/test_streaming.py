"""A reply token by token: the same as at once, and text that never holds half a character."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.tokenizers import bpe_tokenizer
from pretrain.sampling import generate
from sft.models.sampling import HFCachedModel, sampler
from sft.models.streaming import TextStream, noise_of, stream

Build = Callable[..., Any]
PROMPT = [3, 7, 7, 1]
BYTES = bpe_tokenizer("", 258)
"""Every token is one byte."""


@pytest.mark.parametrize("options", [{}, {"temperature": 0.6, "top_k": 9}, {"top_p": 0.7}, {"temperature": 0}])
@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_a_stream_equals_generate_with_the_noise_of_its_seed(
    causal_lm: Build, kind: str, options: dict[str, Any]
) -> None:
    lm = causal_lm(kind)
    for model in (sampler(lm), HFCachedModel(lm)):
        for seed in range(4):
            streamed = list(stream(model, PROMPT, max_new_tokens=20, seed=seed, **options))
            noise = noise_of(seed, 20)
            assert [streamed] == generate(model, [PROMPT], max_new_tokens=20, noise=noise, **options)
            stop = streamed[7]
            short = list(stream(model, PROMPT, max_new_tokens=20, seed=seed, stop_ids=[stop], **options))
            assert short == streamed[: streamed.index(stop) + 1]


@pytest.mark.parametrize("length", [1, 4, 16, 20])
def test_a_stream_outgrows_the_context_as_generate_does(causal_lm: Build, length: int) -> None:
    model = sampler(causal_lm("qwen3", max_position_embeddings=16))
    prompt = [token % 20 for token in range(length)]
    streamed = list(stream(model, prompt, max_new_tokens=50, seed=3))
    assert [streamed] == generate(model, [prompt], max_new_tokens=50, noise=noise_of(3, 50))


def test_streams_side_by_side_do_not_notice_each_other_and_leave_torch_as_it_is(causal_lm: Build) -> None:
    models = [sampler(causal_lm(kind)) for kind in ("gpt2", "qwen3")]
    alone = [list(stream(model, PROMPT, max_new_tokens=12, seed=1)) for model in models]
    together = zip(*(stream(model, PROMPT, max_new_tokens=12, seed=1) for model in models), strict=True)
    seen = []
    for tokens in together:
        assert not torch.is_inference_mode_enabled()
        seen.append(tokens)
    assert [list(column) for column in zip(*seen, strict=True)] == alone


def test_an_empty_prompt_is_an_error(causal_lm: Build) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        next(stream(sampler(causal_lm("gpt2")), [], max_new_tokens=3))


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=30), cut=st.integers(0, 6))
def test_text_is_given_out_in_whole_characters(text: str, cut: int) -> None:
    ids = BYTES.encode(text)
    ids = [*ids[: max(0, len(ids) - cut)], BYTES.eos_id]
    decoder = TextStream(BYTES)
    parts = [decoder.feed(token) for token in ids]
    assert "\ufffd" not in "".join(parts) or "\ufffd" in text
    assert "".join(parts) + decoder.end() == BYTES.decode(ids)


@given(ids=st.lists(st.integers(0, 257), max_size=12))
def test_bytes_that_are_no_text_decode_as_they_do_at_once(ids: list[int]) -> None:
    decoder = TextStream(BYTES)
    assert "".join(map(decoder.feed, ids)) + decoder.end() == BYTES.decode(ids)
