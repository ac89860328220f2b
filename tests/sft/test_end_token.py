"""The end token's row: where it starts, and what it is fitted to."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from data.tokenizers import bpe_tokenizer
from pretrain.checkpoint import save_model
from pretrain.model import GPT, GPTConfig
from sft.end_token import fit_end_row, start_end_row
from sft.models.loading import load_causal_lm
from sft.pairs import Example
from tests.sft.small import TEXT


@pytest.mark.parametrize(("family", "tied"), [("modern", True), ("modern", False), ("gpt2", True)])
def test_the_end_token_starts_as_the_newline(tmp_path: Path, family: str, tied: bool) -> None:
    tokenizer = bpe_tokenizer(TEXT, 300)
    shape = GPTConfig(
        family=family,  # type: ignore[arg-type]
        vocab_size=tokenizer.vocab_size,
        context_length=16,
        width=16,
        layers=1,
        heads=2,
        feed_forward=32,
        dropout=0.3 if family == "gpt2" else 0.0,
        tied=tied,
    )
    save_model(GPT(shape), tokenizer, tmp_path)
    tokenizer.save(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tmp_path)
    model: Any = load_causal_lm(tmp_path, dropout=0.1)
    newline, end = tokenizer.encode("\n")[0], tokenizer.eos_id
    start_end_row(model, newline, end)
    both: Any = (
        (model.get_input_embeddings(), base.get_input_embeddings()),
        (model.get_output_embeddings(), base.get_output_embeddings()),
    )
    for ours, theirs in both:
        assert torch.equal(ours.weight[end], theirs.weight[newline])
        others = [row for row in range(tokenizer.vocab_size) if row != end]
        assert torch.equal(ours.weight[others], theirs.weight[others])
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == ({0.1} if family == "gpt2" else set())
    assert model.config.to_dict()["attn_pdrop" if family == "gpt2" else "attention_dropout"] == 0.1


@pytest.mark.parametrize(("family", "tied"), [("modern", True), ("modern", False), ("gpt2", True)])
def test_fitting_the_end_tokens_row_finds_where_replies_end(tmp_path: Path, family: str, tied: bool) -> None:
    """By the whole model's own logits: the best row there is, and no other weight is touched."""
    tokenizer = bpe_tokenizer(TEXT, 300)
    torch.manual_seed(0)
    shape = GPTConfig(
        family=family,  # type: ignore[arg-type]
        vocab_size=tokenizer.vocab_size,
        context_length=64,
        width=32,
        layers=1,
        heads=2,
        feed_forward=64,
        tied=tied,
    )
    save_model(GPT(shape), tokenizer, tmp_path)
    tokenizer.save(tmp_path)
    model: Any = load_causal_lm(tmp_path)
    end = tokenizer.eos_id
    start_end_row(model, tokenizer.encode("\n")[0], end)
    texts = ["Good morrow.", "What news abroad, my lord? I hear of none.", "No.", "The road is empty, and so am I."]
    prompt = tokenizer.encode("ANNE:\n")
    examples = [Example(prompt, [*tokenizer.encode(text), end]) for text in texts]
    before = {name: weights.clone() for name, weights in model.named_parameters()}
    start = model.get_output_embeddings().weight[end].detach().clone()

    def objective(row: torch.Tensor) -> torch.Tensor:
        head, losses = model.get_output_embeddings().weight, []
        for example in examples:
            states = model.base_model(torch.tensor([example.ids])).last_hidden_state[0]
            logits = states @ torch.cat([head[:end].detach(), row[None], head[end + 1 :].detach()]).T
            for position, token in enumerate(example.completion, start=len(prompt) - 1):
                ending = logits[position].softmax(-1)[end]
                losses.append(-(ending if token == end else 1 - ending).log())
        return torch.stack(losses).mean() + (row - start).square().sum() / len(losses)

    fit_end_row(model, examples, end)
    fitted = model.get_output_embeddings().weight[end].detach().requires_grad_(True)
    best = objective(fitted)
    (gradient,) = torch.autograd.grad(best, fitted)
    assert best < 0.5 * objective(start)
    assert gradient.norm() < 1e-3
    others = [row for row in range(tokenizer.vocab_size) if row != end]
    for name, weights in model.named_parameters():
        if len(weights) == tokenizer.vocab_size:
            assert torch.equal(weights[others], before[name][others])
            assert torch.equal(weights[end], fitted)
        else:
            assert torch.equal(weights, before[name])
