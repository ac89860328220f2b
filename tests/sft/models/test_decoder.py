"""The packed sampler draws what transformers' model would, from the same random numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from pretrain.fast.body import Linear
from pretrain.fast.decoder import KVDecoder
from pretrain.sampling import generate, sample_tokens
from sft.models.fast import packed_body
from sft.models.forward import LogProbs
from sft.models.sampling import HFCachedModel, sampler
from tests.sft.models.test_fast import FAMILIES, build

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ["gpt2", "qwen3"]
Build = Callable[..., PreTrainedModel]
PROMPTS = [[3, 7], [1, 2, 3, 4, 5, 6, 7], [9], [4, 4, 4, 8], [3, 7]] * 5
STOPS = {22, 0, 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stops", [STOPS, set()])
def test_the_same_numbers_draw_the_same_tokens(causal_lm: Build, kind: str, stops: set[int]) -> None:
    policy = LogProbs(causal_lm(kind))
    noise = torch.rand(len(PROMPTS), 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    decoder = sampler(policy)
    assert isinstance(decoder, KVDecoder)
    drawn, expected = (
        generate(model, PROMPTS, max_new_tokens=20, stop_ids=stops, noise=noise)
        for model in (decoder, HFCachedModel(policy.lm))
    )
    assert drawn == expected
    if stops:
        assert len({len(response) for response in drawn}) > 5, "rows must leave the batch at different times"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [True, False])
def test_only_what_goes_on_is_computed_and_no_cache_is_made_twice(causal_lm: Build, kind: str, packed: bool) -> None:
    policy = LogProbs(causal_lm(kind))
    decoder: Any = sampler(policy) if packed else HFCachedModel(policy.lm)
    step, seen, addresses = decoder.step, [], set()

    def spy(ids: torch.Tensor, positions: torch.Tensor, key_mask: torch.Tensor, cache: Any) -> torch.Tensor:
        seen.append(tuple(ids.shape))
        if len(seen) > 1:  # each continuation has its row
            addresses.add((cache.states if packed else cache.layers[0].keys).data_ptr())
        return step(ids, positions, key_mask, cache)

    decoder.step = spy
    noise = torch.rand(len(PROMPTS), 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    lengths = [len(ids) for ids in generate(decoder, PROMPTS, max_new_tokens=20, stop_ids=STOPS, noise=noise)]
    going_on = [sum(length > done for length in lengths) for done in range(1, max(lengths))]
    assert seen == [(4, 7), *((rows, 1) for rows in going_on)], "four distinct prompts, then the rows that go on"
    assert going_on[0] > going_on[-1]
    assert len(addresses) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_may_outgrow_the_context(causal_lm: Build, kind: str) -> None:
    policy = LogProbs(causal_lm(kind))
    noise = torch.rand(3, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    models = (sampler(policy), HFCachedModel(policy.lm))
    drawn, expected = (generate(model, PROMPTS[:3], max_new_tokens=100, noise=noise) for model in models)
    assert drawn == expected


@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_the_logits_are_those_of_the_forward_pass(causal_lm: Build, kind: str) -> None:
    """Token by token from the cache as in one pass over the whole text, but for rounding."""
    policy = LogProbs(causal_lm(kind, std=0.1))
    decoder: Any = sampler(policy, torch.bfloat16)
    ids = torch.randint(2, 22, (3, 12), generator=torch.Generator().manual_seed(1))
    cache = decoder.new_cache(3, 12)
    with torch.inference_mode():
        logits = [decoder.step(ids[:, :4], torch.arange(4).expand(3, 4), None, cache)]
        logits += [decoder.step(ids[:, t, None], torch.full((3, 1), t), None, cache) for t in range(4, 12)]
        exact = policy.lm(input_ids=ids).logits[:, 3:]
    error = (torch.stack(logits, 1) - exact).abs().max().item()
    assert 1e-5 < error < 0.02 * exact.abs().max().item()


def test_a_model_that_is_not_packed_is_sampled_as_it_is(causal_lm: Build) -> None:
    model = causal_lm("qwen3")
    model.model.layers[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert isinstance(sampler(LogProbs(model), torch.bfloat16), HFCachedModel)


def plain_decoder(model: PreTrainedModel) -> KVDecoder:
    body = packed_body(model.base_model)
    assert body is not None
    return KVDecoder(body, Linear(model.get_output_embeddings()), 256, torch.float32)


NOISE = torch.rand(4, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def drawn(model: KVDecoder) -> list[list[int]]:
    return generate(model, PROMPTS[:4], max_new_tokens=15, noise=NOISE)


def drawn_by(model: Any) -> list[list[int]]:
    """The same draws, every token by the model's plain forward pass over all before it."""
    texts = [list(prompt) for prompt in PROMPTS[:4]]
    for step in range(15):
        for text, noise in zip(texts, NOISE[:, step, None], strict=True):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([text]), use_cache=False).logits[:, -1]
            text.append(int(sample_tokens(logits, 1.0, None, None, None, noise)))
    return [text[-15:] for text in texts]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_is_the_plain_model_whatever_it_has_learned(family: str) -> None:
    model = build(family)
    sampled = plain_decoder(model)
    before = drawn(sampled)
    assert before == drawn_by(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    after = drawn(sampled)
    assert before != after == drawn_by(model), "the weights of one rollout are not those of the next"


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_adapters_are_merged_into_the_products_as_they_are(family: str) -> None:
    model = build(family)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", fan_in_fan_out=family == "gpt2"))
    sampled = plain_decoder(model)
    for deviation in (0.1, 0.3):
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=deviation)
        layers = sampled.new_cache(1, 8).layers
        assert all(layer.projections.weight is not None and layer.up.weight is not None for layer in layers)
        with_adapter = drawn(sampled)
        assert with_adapter == drawn_by(model)
        with adapted.disable_adapter():
            assert with_adapter != drawn(sampled) == drawn_by(model)


class Bent(nn.Module):
    """An adapter that is no matrix."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + x.tanh().sum(-1, keepdim=True)


def test_an_adapter_that_is_no_matrix_is_called() -> None:
    model: Any = build("llama")
    attention, mlp = model.model.layers[1].self_attn, model.model.layers[0].mlp
    attention.q_proj, mlp.up_proj, mlp.down_proj = map(Bent, (attention.q_proj, mlp.up_proj, mlp.down_proj))
    sampled = plain_decoder(model)
    layers = sampled.new_cache(1, 8).layers
    assert [layer.projections.weight is None for layer in layers] == [False, True]
    assert drawn(sampled) == drawn_by(model)
