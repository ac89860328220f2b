"""Our GPT as a body is the GPT; its decoder samples the weights as they are."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.fast.gpt import body, decoder
from pretrain.fast.layout import Layout
from pretrain.model import GPT, GPTConfig
from pretrain.sampling import generate

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("modern", {}),
    ("gpt2", {}),
    ("gpt2", {"activation": "gelu", "bias": False}),
    ("gpt2", {"activation": "relu"}),
]


def tiny(family: Any, **changes: Any) -> GPT:
    torch.manual_seed(0)
    config = {"vocab_size": 20, "context_length": 32, "width": 16, "layers": 2, "heads": 2, "feed_forward": 32}
    model = GPT(GPTConfig(family=family, dropout=0.3, **config | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(("family", "changes"), KINDS)
def test_states_and_gradients_are_the_gpts(family: str, changes: dict[str, Any]) -> None:
    model = tiny(family, **changes).eval()
    ids, lengths = torch.randint(20, (5, 30)), torch.tensor([30, 4, 17, 1, 30])
    mask = torch.arange(30) < lengths[:, None]
    wanted = mask & (torch.arange(30) >= lengths[:, None] // 2)
    weights = torch.linspace(-1, 1, int(wanted.sum()))[:, None]

    def gradients(logits: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((weights * logits).sum(), list(model.parameters())))

    expected = model(ids)[wanted]
    logits = body(model)(ids, Layout(mask, wanted), torch.float32) @ model.embedding.weight.T
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(gradients(logits), gradients(expected), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 + 1e-4 * theirs.abs().max().item(), rtol=1e-3)


@pytest.mark.parametrize("family", ["modern", "gpt2"])
def test_a_decoder_samples_the_weights_as_they_are(family: str) -> None:
    """Made once, also for a model in training: what is learned between two calls is sampled, dropout never is."""
    model, prompts = tiny(family), [[1, 2, 3], [4]]
    sampled = decoder(model)
    settings: dict[str, Any] = {"max_new_tokens": 20, "temperature": 0}
    before = generate(sampled, prompts, **settings)
    assert before == generate(decoder(tiny(family).eval()), prompts, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.5)
    after = generate(sampled, prompts, **settings)
    assert before != after == generate(decoder(model), prompts, **settings)


def test_several_tokens_at_once_want_an_empty_cache() -> None:
    sampled = decoder(tiny("modern"))
    cache = sampled.new_cache(1, 8)
    ids = torch.ones(1, 2, dtype=torch.long)
    with torch.no_grad():
        sampled.step(ids, torch.arange(2)[None], None, cache)
    with pytest.raises(ValueError, match="2 tokens at once"):
        sampled.step(ids, torch.arange(2, 4)[None], None, cache)
