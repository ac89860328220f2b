"""Sampling: the cache changes nothing, filters keep what they say, rows that stop leave."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pretrain.fast.gpt import decoder
from pretrain.model import GPT, GPTConfig
from pretrain.sampling import draw, filter_logits, generate, generate_without_cache, sample_tokens

torch.manual_seed(0)
MODELS = {
    family: GPT(
        GPTConfig(family=family, vocab_size=20, context_length=16, width=16, layers=2, heads=2, feed_forward=32)
    ).eval()
    for family in ("modern", "gpt2")
}
for _model in MODELS.values():
    with torch.no_grad():
        for _parameter in _model.parameters():
            _parameter.add_(0.3 * torch.randn_like(_parameter))


def greedy_without_cache(model: GPT, prompt: list[int], steps: int, stops: set[int]) -> list[int]:
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] in stops:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", ["modern", "gpt2"])
@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=6), min_size=1, max_size=5),
    stops=st.sets(st.integers(0, 19), max_size=8),
)
def test_greedy_batch_equals_one_row_without_cache(family: str, prompts: list[list[int]], stops: set[int]) -> None:
    model = MODELS[family]
    prompts = [*prompts, *prompts[::2]]  # some are given twice
    together = generate(decoder(model), prompts, max_new_tokens=9, temperature=0, stop_ids=stops)
    assert together == [greedy_without_cache(model, prompt, 9, stops) for prompt in prompts]


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=5),
    stops=st.sets(st.integers(0, 19), max_size=2),
    twice=st.integers(0, 19),
)
def test_a_token_that_comes_twice_ends_a_row_too(prompts: list[list[int]], stops: set[int], twice: int) -> None:
    model = MODELS["modern"]
    noise = torch.rand(len(prompts), 12, dtype=torch.float64, generator=torch.Generator().manual_seed(twice))
    settings: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.3, "stop_ids": stops, "noise": noise}
    whole = generate(decoder(model), prompts, **settings)
    cut = generate(decoder(model), prompts, stop_twice=twice, **settings)
    for prompt, long, short in zip(prompts, whole, cut, strict=True):
        seen = [prompt[-1], *long]
        ends = [end for end in range(1, len(seen)) if seen[end - 1] == seen[end] == twice]
        assert short == long[: ends[0] if ends else len(long)]


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(20_000, 4)
    drawn = sample_tokens(logits, 0.7, None, None, torch.Generator().manual_seed(0))
    expected = (logits[0] / 0.7).softmax(0)
    counted = drawn.bincount(minlength=4) / len(drawn)
    assert torch.allclose(counted, expected, atol=4 * math.sqrt(0.25 / 20_000))


class DataTypes(TorchDispatchMode):
    """Keeps the data types of all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.seen |= {tensor.dtype for tensor in tree_leaves(made) if isinstance(tensor, torch.Tensor)}
        return made


def test_nothing_on_another_device_is_float64() -> None:
    """Apple's GPUs have no float64. A device without values stands for them."""
    for device, types in (("meta", {torch.float32}), ("cpu", {torch.float32, torch.float64})):
        logits = torch.zeros(3, 5, device=device)
        for noise in (None, torch.rand(3, device=device)):
            with DataTypes() as kept:
                chosen = sample_tokens(logits, 0.7, 4, 0.9, None, noise)
            assert chosen.shape == (3,)
            assert {dtype for dtype in kept.seen if dtype.is_floating_point} == types


def test_noise_that_float32_rounds_to_one_draws_a_token_that_can_be_drawn() -> None:
    mass = torch.tensor([[0.25, 0.5, 1 / 3, 0.0], [0.1, 0.2, 0.7, 0.0]]).cumsum(-1)
    noise = torch.full((2,), 1 - 2**-40, dtype=torch.float64)
    assert noise.max() < 1 == noise.float().max()
    for total in (mass, mass.double()):
        assert draw(total, noise).tolist() == [2, 2]


def test_top_k_and_top_p_keep_what_they_say() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    assert filter_logits(logits, 2, None).isfinite().tolist() == [[False, True, False, True]]
    assert filter_logits(logits, None, 0.5).isfinite().tolist() == [[False, True, False, False]]
    assert filter_logits(logits, None, 0.51).isfinite().tolist() == [[False, True, False, True]]
    assert filter_logits(logits, None, 1e-9).isfinite().sum() == 1
    assert filter_logits(logits, 9, 1.0).equal(logits)


def test_a_continuation_ends_with_its_first_stop() -> None:
    generator = torch.Generator().manual_seed(3)
    texts = generate(decoder(MODELS["modern"]), [[1]] * 200, max_new_tokens=12, stop_ids=[4, 5], generator=generator)
    assert any(len(text) < 12 for text in texts)
    for text in texts:
        assert not {4, 5} & set(text[:-1])
        assert text[-1] in (4, 5) or len(text) == 12


def test_equal_seeds_equal_text_and_other_seeds_other_text() -> None:
    def texts(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return generate(decoder(MODELS["gpt2"]), [[1, 2]] * 8, max_new_tokens=10, generator=generator)

    assert texts(1) == texts(1) != texts(2)


@pytest.mark.parametrize("family", ["modern", "gpt2"])
def test_the_plain_loop_draws_the_same_text(family: str) -> None:
    prompts = [[1, 2], [3, 4], [5, 6]]
    generator = torch.Generator().manual_seed(5)
    with_cache = generate(decoder(MODELS[family]), prompts, max_new_tokens=12, generator=generator)
    plain = generate_without_cache(
        MODELS[family], torch.tensor(prompts), max_new_tokens=12, generator=torch.Generator().manual_seed(5)
    )
    assert plain.tolist() == [prompt + text for prompt, text in zip(prompts, with_cache, strict=True)]


def test_the_plain_loop_slides_over_the_context_of_any_model() -> None:
    class Counter:
        context_length = 3

        def __call__(self, ids: torch.Tensor) -> torch.Tensor:
            """Sure of the sum of what it sees, modulo 7."""
            sums = torch.nn.functional.one_hot(ids.sum(1) % 7, 7).float()
            return sums[:, None].expand(-1, ids.shape[1], -1)

    ids = generate_without_cache(Counter(), torch.tensor([[1], [5]]), max_new_tokens=5, temperature=0)
    assert ids.tolist() == [[1, 1, 2, 4, 0, 6], [5, 5, 3, 6, 0, 2]]


def test_text_longer_than_the_context_goes_on() -> None:
    model = MODELS["gpt2"]
    [text] = generate(decoder(model), [[1, 2, 3]], max_new_tokens=50, temperature=0)
    assert len(text) == 50
    # Until the context is full, nothing differs from the plain loop.
    assert text[:13] == greedy_without_cache(model, [1, 2, 3], 13, set())
    [after_long_prompt] = generate(decoder(model), [[1] * 40], max_new_tokens=3, temperature=0)
    assert len(after_long_prompt) == 3


def test_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        generate(decoder(MODELS["modern"]), [[]], max_new_tokens=1)
