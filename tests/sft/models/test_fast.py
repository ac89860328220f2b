"""A packed model is the model: hidden states, gradients, with adapters; and what cannot be packed is not."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pretrain.fast.body import Body
from pretrain.fast.layout import Layout
from sft.models.batch import position_ids
from sft.models.fast import packed_body

pytestmark = pytest.mark.usefixtures("one_thread")

GROUPED = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "llama": GROUPED | {"attention_bias": True},
    "mistral": GROUPED | {"sliding_window": None},
    "qwen2": GROUPED | {"num_key_value_heads": 4},
    "qwen3": GROUPED,
}
LENGTHS = [3, 150, 1, 77, 20, 20, 64, 9, 31, 5, 12, 40, 2, 90, 8, 17, 33, 6]
"""More rows than one group holds, longer ones than one strip."""


def build(family: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, vocab_size=50, **ids, **FAMILIES[family] | changes)
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.1)
    return model.eval()


def batch(left: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """ids, mask and what is wanted, (B, T) each: the second half of every row, and of one row nothing."""
    lengths, width = torch.tensor(LENGTHS)[:, None], max(LENGTHS)
    position = torch.arange(width) - (width - lengths if left else 0)
    mask = (position >= 0) & (position < lengths)
    wanted = mask & (position >= lengths // 2)
    wanted[4] = False
    return torch.randint(50, mask.shape), mask, wanted


def gradients(model: nn.Module, hidden: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain(model: Any, ids: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
    positions = position_ids(mask)
    states = model(input_ids=ids, attention_mask=mask.long(), position_ids=positions, use_cache=False)
    return states.last_hidden_state[wanted]


def packed(body: Body, ids: Tensor, mask: Tensor, wanted: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return body(ids, Layout(mask, wanted), dtype)


def compare(model: Any, body: Body, left: bool = False) -> None:
    inputs = batch(left)
    expected, hidden = plain(model, *inputs), packed(body, *inputs)
    torch.testing.assert_close(hidden, expected, atol=2e-5, rtol=1e-4)
    theirs, ours = gradients(model, expected), gradients(model, hidden)
    assert theirs.keys() == ours.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=2e-5 * gradient.abs().max().item(), rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("left", [False, True])
def test_states_and_gradients_are_the_plain_models(family: str, left: bool) -> None:
    model = build(family).base_model
    body = packed_body(model)
    assert body is not None
    compare(model, body, left)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu"])
def test_activations_of_gpt2(activation: str) -> None:
    model = build("gpt2", activation_function=activation).base_model
    body = packed_body(model)
    assert body is not None
    compare(model, body)


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_in_bf16_it_is_as_near_as_autocast(family: str) -> None:
    model = build(family).base_model
    body = packed_body(model)
    assert body is not None
    inputs = batch()
    with torch.no_grad():
        exact = plain(model, *inputs)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = plain(model, *inputs).float()
        ours = packed(body, *inputs, dtype=torch.bfloat16)
    assert ours.dtype == torch.float32
    error = (autocast - exact).abs().mean().item()
    assert 0 < (ours - exact).abs().mean().item() < 1.2 * error


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_rows_do_not_see_each_other(family: str) -> None:
    body = packed_body(build(family).base_model)
    assert body is not None
    ids, mask, wanted = batch()
    with torch.no_grad():
        together = packed(body, ids, mask, wanted).split(wanted.sum(1).tolist())
        for row in (1, 3, 9):
            one = slice(row, row + 1)
            alone = packed(body, ids[one], mask[one], wanted[one])
            torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_adapters_work_as_they_do_elsewhere(family: str) -> None:
    model = build(family)
    get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", fan_in_fan_out=family == "gpt2"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    body = packed_body(model.base_model)
    assert body is not None
    compare(model.base_model, body)


def test_what_computes_something_else_stays_as_it_is() -> None:
    assert packed_body(build("mistral", sliding_window=8).base_model) is None
    hooked: Any = build("qwen3").base_model
    hooked.layers[0].mlp.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert packed_body(hooked) is None
    other: Any = build("qwen3").base_model
    other.norm = nn.Sequential(other.norm, nn.ReLU())
    assert packed_body(other) is None
    scaled: Any = build("gpt2").base_model
    scaled.h[1].attn.forward = lambda hidden, *args, **kwargs: (0 * hidden, None)
    assert packed_body(scaled) is None, "the two are compared, whatever the classes say"
    dynamic = build("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0})
    assert packed_body(dynamic.base_model) is None, "its angles are not those of a position alone"
    unknown = AutoConfig.for_model(
        "gpt_neox", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50
    )
    assert packed_body(AutoModelForCausalLM.from_config(unknown).base_model) is None
    assert packed_body(build("qwen3").bfloat16().base_model) is None, "the two could not be compared"
