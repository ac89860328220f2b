"""How a model is called: positions, caches and texts that padding, other rows or later tokens must not change."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from data.console import UserError
from pretrain.sampling import generate
from sft.models import sampling
from sft.models.batch import Batch
from sft.models.forward import LogProbs
from sft.models.loading import check_fits, context_length
from sft.models.reading import Reader
from sft.models.sampling import HFCachedModel, Rereader, sampler
from tests.architectures import tiny_architecture

PROMPTS, RESPONSES = [[3, 7], [12, 2, 3, 4, 5, 6, 7], [9]], [[5, 6, 7], [8], [11, 2, 3, 4, 5]]


def plain_logprobs(model: PreTrainedModel) -> Tensor:
    """One text at a time, as the model itself counts it."""
    rows = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        ids = torch.tensor([[*prompt, *response]])
        with torch.no_grad():
            table = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        rows.append(table.gather(-1, ids[0, len(prompt) :, None])[:, 0])
    return torch.cat(rows)


@pytest.mark.parametrize("kind", ["roberta", "xmod", "data2vec-text"])
def test_positions_begin_after_those_of_padding_where_the_model_has_them(kind: str) -> None:
    model = tiny_architecture(kind)
    logprobs = LogProbs(model)
    assert (logprobs.read.way, logprobs.read.first) == ("positions", 2)
    torch.testing.assert_close(logprobs(Batch(PROMPTS, RESPONSES))[0], plain_logprobs(model), atol=1e-5, rtol=0)
    assert isinstance(sampler(logprobs), HFCachedModel)
    assert context_length(model) == 62, "two of its 64 positions are those of padding"
    with pytest.raises(UserError, match="make 63 tokens, more than the 62 that the policy"):
        check_fits(model, "policy", 300, 63)


class Shifted(torch.nn.Module):
    """Counts positions from the end of the longest text of a batch: what it says depends on who is next to it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids: Tensor, attention_mask: Any = None, use_cache: bool = False, **_: Any) -> Any:
        width = input_ids.shape[1]
        real = width if attention_mask is None else int(attention_mask.sum(1).min())
        positions = torch.arange(width) + (width - real)
        return self.model(input_ids=input_ids, position_ids=positions[None], use_cache=False)


def test_a_model_that_other_rows_disturb_is_read_without_a_mask_or_a_row_at_a_time() -> None:
    model: Any = tiny_architecture("gpt2")
    reader = Reader(Shifted(model), "logits")
    assert reader.way == "ids"

    class Mixing(Shifted):
        def forward(self, input_ids: Tensor, attention_mask: Any = None, use_cache: bool = False, **_: Any) -> Any:
            return self.model(input_ids=input_ids.roll(1, 0))

    reader = Reader(Mixing(model), "logits")
    assert reader.way == "rows"
    padded = Batch(PROMPTS, RESPONSES).padded
    states = reader(padded)
    for state, real, prompt, response in zip(states, padded.mask, PROMPTS, RESPONSES, strict=True):
        torch.testing.assert_close(state[real], model(torch.tensor([prompt + response])).logits[0], atol=1e-5, rtol=0)
    states[padded.mask].sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_what_reads_both_sides_or_draws_lots_is_refused() -> None:
    with pytest.raises(UserError, match=r"the judge \(BertModel\) says something else of a token when others follow"):
        LogProbs(tiny_architecture("bert", is_decoder=False), "judge")
    noisy: Any = tiny_architecture("phi")
    noisy.model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: torch.rand(output.shape) + output)
    with pytest.raises(UserError, match=r"says something else of a token|says different things of the same"):
        LogProbs(noisy)


def test_longrope_is_read_as_far_as_its_angles_stay() -> None:
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
    model = tiny_architecture("phi3", rope_parameters=rope, original_max_position_embeddings=16)
    with pytest.raises(UserError, match=r"make 17 tokens, more than the 16 .* can read alike in every batch: lower"):
        check_fits(model, "policy", 300, 17)
    check_fits(model, "policy", 300, 16)


def test_without_a_cache_every_token_is_of_the_whole_text_and_that_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sampling._say_once.cache_clear()
    model = tiny_architecture("openai-gpt")
    slow = sampler(model)
    assert isinstance(slow, Rereader)
    assert isinstance(sampler(model), Rereader)
    assert capsys.readouterr().err.count("OpenAIGPTLMHeadModel: its cache cannot be used") == 1
    free = generate(slow, PROMPTS, max_new_tokens=9, temperature=0)
    stop = free[1][3]
    stopped = generate(slow, PROMPTS, max_new_tokens=9, temperature=0, stop_ids=[stop])
    assert stopped == [ids[: ids.index(stop) + 1] if stop in ids else ids for ids in free]
    for prompt, response in zip(PROMPTS, free, strict=True):
        text = list(prompt)
        for token in response:
            with torch.no_grad():
                assert int(model(torch.tensor([text])).logits[0, -1].argmax()) == token
            text.append(token)


def test_a_cache_that_goes_wrong_when_rows_leave_is_not_used() -> None:
    model = tiny_architecture("nemotron")
    assert isinstance(sampler(model), HFCachedModel)

    class Deaf(sampling.RowCache):
        def select_rows(self, rows: Tensor) -> None:
            super().select_rows(torch.arange(len(rows)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "RowCache", Deaf)
        assert isinstance(sampler(model), Rereader)
