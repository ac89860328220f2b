"""The cached sampler against plain full forward passes, for learned and rotary positions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from pretrain.fast.decoder import KVDecoder
from pretrain.sampling import generate
from sft.models.sampling import HFCachedModel, PreallocatedLayer, sampler

PROMPTS = [[3, 7], [1, 2, 3, 4, 5, 6, 7], [9], [4, 4, 4, 8]]
KINDS = ["gpt2", "qwen3"]
Build = Callable[..., Any]


def sliding_window_model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=24,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=4,
        max_position_embeddings=64,
    )
    config._attn_implementation = "eager"
    return MistralForCausalLM(config).eval()


@torch.no_grad()
def greedy_without_cache(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@torch.no_grad()
def response_logprobs(model: PreTrainedModel, prompt: list[int], response: list[int]) -> Tensor:
    """One row, no padding, nothing clever: the truth."""
    ids = torch.tensor([prompt + response])
    logprobs = model(input_ids=ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
    return logprobs.gather(-1, ids[0, len(prompt) :, None]).squeeze(-1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_the_loop_without_cache(causal_lm: Build, kind: str, attention: str) -> None:
    model = causal_lm(kind, attn_implementation=attention)
    responses = generate(HFCachedModel(model), PROMPTS, max_new_tokens=20, temperature=0)
    assert responses == [greedy_without_cache(model, prompt, 20) for prompt in PROMPTS]


def test_greedy_with_a_sliding_window() -> None:
    model = sliding_window_model()
    cached = HFCachedModel(model)
    assert not isinstance(cached.new_cache(1, 8).layers[0], PreallocatedLayer)
    responses = generate(cached, PROMPTS, max_new_tokens=12, temperature=0)
    assert responses == [greedy_without_cache(model, prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_stop_leave_and_the_others_do_not_notice(causal_lm: Build, kind: str) -> None:
    model = causal_lm(kind)
    free = [greedy_without_cache(model, prompt, 16) for prompt in PROMPTS]
    stop = free[1][3]
    responses = generate(HFCachedModel(model), PROMPTS, max_new_tokens=16, temperature=0, stop_ids=[stop])
    expected = [ids[: ids.index(stop) + 1] if stop in ids else ids for ids in free]
    assert responses == expected
    assert len({len(ids) for ids in responses}) > 1


class Spy:
    """Notes the log-probability of every token at the moment the sampler has its logits."""

    def __init__(self, model: HFCachedModel) -> None:
        self.model = model
        self.logprobs: list[Tensor] = []
        self.context_length, self.device, self.new_cache = model.context_length, model.device, model.new_cache

    def step(self, *args: Any) -> Tensor:
        logits = self.model.step(*args)
        self.logprobs.append(logits.log_softmax(-1))
        return logits


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
def test_sampled_logprobs_match_a_full_forward_under_left_padding(causal_lm: Build, kind: str, attention: str) -> None:
    model = causal_lm(kind, attn_implementation=attention)
    spy = Spy(HFCachedModel(model))
    generator = torch.Generator().manual_seed(5)
    responses = generate(spy, PROMPTS, max_new_tokens=24, temperature=1.0, generator=generator)
    for row, (prompt, response) in enumerate(zip(PROMPTS, responses, strict=True)):
        seen = torch.stack([step[row, token] for step, token in zip(spy.logprobs, response, strict=True)])
        torch.testing.assert_close(seen, response_logprobs(model, prompt, response), atol=1e-4, rtol=0)


def test_the_cache_is_allocated_once(causal_lm: Build) -> None:
    cached = HFCachedModel(causal_lm("qwen3"))
    cache = cached.new_cache(2, 6)
    mask = torch.ones(2, 3, dtype=torch.bool)
    cached.step(torch.ones(2, 3, dtype=torch.long), torch.arange(3).expand(2, 3), mask, cache)
    layer: Any = cache.layers[0]
    address = layer.keys.data_ptr()
    assert layer.keys.shape == (2, 1, 6, 16)
    cached.step(torch.ones(2, 1, dtype=torch.long), torch.full((2, 1), 3), torch.ones(2, 4, dtype=torch.bool), cache)
    assert layer.keys.data_ptr() == address
    assert layer.filled == 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_sampler_is_fast_where_it_computes_the_same(causal_lm: Build, kind: str) -> None:
    model = causal_lm(kind).train()
    fast, slow = sampler(model), sampler(sliding_window_model())
    assert isinstance(fast, KVDecoder)
    assert not model.training, "dropout would be sampled with"
    assert isinstance(slow, HFCachedModel)
    for cached, lm in ((fast, model), (slow, slow.model)):
        responses = generate(cached, PROMPTS, max_new_tokens=6, temperature=0)
        assert responses == [greedy_without_cache(lm, prompt, 6) for prompt in PROMPTS]
