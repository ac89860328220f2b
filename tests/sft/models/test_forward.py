"""Log-probabilities and scores against plain forward passes of one row at a time."""

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from data.console import UserError
from sft.models.batch import Batch, Padded
from sft.models.forward import HiddenStates, LogProbs, Scores, score_sequences, sequence_logprobs

PROMPTS, RESPONSES = [[3, 7], [1, 2, 3, 4, 5, 6, 7], [9], [4, 4, 4, 8]], [[5, 6, 7], [8], [1, 2, 3, 4, 5], [22]]
KINDS = ["gpt2", "qwen3"]
Build = Callable[..., PreTrainedModel]


@torch.no_grad()
def response_logprobs(model: PreTrainedModel, prompt: list[int], response: list[int]) -> Tensor:
    """One row, no padding, nothing clever: the truth."""
    ids = torch.tensor([prompt + response])
    logprobs = model(input_ids=ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
    return logprobs.gather(-1, ids[0, len(prompt) :, None]).squeeze(-1)


def expected_logprobs(model: PreTrainedModel) -> list[Tensor]:
    return [response_logprobs(model, p, r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
class TestLogProbs:
    def test_logprobs_and_entropy_match_single_rows(self, causal_lm: Build, kind: str) -> None:
        model = causal_lm(kind)
        logprobs, entropy = LogProbs(model)(Batch(PROMPTS, RESPONSES))
        torch.testing.assert_close(logprobs, torch.cat(expected_logprobs(model)), atol=1e-5, rtol=0)
        first = model(input_ids=torch.tensor([PROMPTS[0] + [5]])).logits[0, 1]
        assert entropy[0].item() == pytest.approx(torch.distributions.Categorical(logits=first).entropy().item(), 1e-5)

    def test_temperature_divides_the_logits(self, causal_lm: Build, kind: str) -> None:
        model = causal_lm(kind)
        logprob, _ = LogProbs(model)(Batch([[3, 7]], [[5]]), 2.0)
        logits = model(input_ids=torch.tensor([[3, 7]])).logits[0, -1]
        assert logprob.item() == pytest.approx((logits / 2).log_softmax(-1)[5].item(), abs=1e-5)

    @hypothesis.settings(
        max_examples=15, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
    )
    @given(st.lists(st.integers(0, 17), min_size=4, max_size=4), st.integers(0, 23))
    def test_left_padding_of_any_width_changes_nothing(
        self, causal_lm: Build, reward_model: Build, kind: str, widths: list[int], filler: int
    ) -> None:
        """Each row has a width of its own, whatever token stands there."""
        batch, moved = Batch(PROMPTS, RESPONSES), Batch(PROMPTS, RESPONSES)
        total, plain = max(widths), batch.padded

        def padded(tensor: Tensor, fill: int) -> Tensor:
            """Every row moved to the right by its width, and what remains behind it."""
            places = torch.full((len(PROMPTS), tensor.shape[1] + total), fill, dtype=tensor.dtype)
            for row, width in enumerate(widths):
                places[row, width : width + tensor.shape[1]] = tensor[row]
            return places

        masks = (padded(mask, 0) for mask in (plain.mask, plain.predicts_response, plain.last))
        moved.padded = Padded(padded(plain.ids, filler), *masks)
        body = HiddenStates(reward_model(kind).base_model)
        for function in (lambda b: LogProbs(causal_lm(kind))(b)[0], body, lambda b: body(b, last=True)):
            torch.testing.assert_close(function(moved), function(batch), atol=2e-5, rtol=1e-5)

    def test_a_model_that_caps_its_logits_is_not_bypassed(self, causal_lm: Build, kind: str) -> None:
        model = causal_lm(kind)
        assert LogProbs(model).plain_head
        forward = model.forward

        def capped(*args: object, **kwargs: object) -> object:
            output = forward(*args, **kwargs)
            output.logits = 2.0 * torch.tanh(output.logits / 2.0)
            return output

        model.forward = capped
        logprobs = LogProbs(model)
        assert not logprobs.plain_head
        torch.testing.assert_close(
            logprobs(Batch(PROMPTS, RESPONSES))[0], torch.cat(expected_logprobs(model)), atol=1e-5, rtol=0
        )

    @pytest.mark.parametrize("size", [1, 3, 64])
    def test_many_sequences_in_any_batches(self, causal_lm: Build, kind: str, size: int) -> None:
        """Also one without a response, and in the order in which they came; dropout is off."""
        rate = {"resid_pdrop": 0.5} if kind == "gpt2" else {"attention_dropout": 0.5}
        sums = sequence_logprobs(causal_lm(kind, **rate).train(), [*PROMPTS, [3]], [*RESPONSES, []], batch_size=size)
        assert sums.dtype == torch.float64
        expected = torch.tensor([row.sum().item() for row in expected_logprobs(causal_lm(kind))] + [0.0])
        torch.testing.assert_close(sums.float(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
class TestScores:
    @pytest.mark.parametrize("size", [1, 2, 64])
    def test_the_score_is_read_at_the_last_token_of_the_response(
        self, reward_model: Build, kind: str, size: int
    ) -> None:
        model: Any = reward_model(kind)
        pad = 23
        # A PAD inside a prompt, and a response that ends in PAD, mislead a search by token id.
        prompts, responses = [[1, pad, 2], [5], [6, 7], [8, 9]], [[3, 4], [pad, 9, pad], [8], []]
        scores = score_sequences(model, prompts, responses, batch_size=size)
        for score, prompt, response in zip(scores, prompts, responses, strict=True):
            hidden = model.base_model(input_ids=torch.tensor([prompt + response])).last_hidden_state
            assert score.item() == pytest.approx(model.score(hidden[0, -1]).item(), abs=1e-5)

    def test_scores_are_normalised_by_the_stored_numbers(self, reward_model: Build, kind: str, tmp_path) -> None:
        model = reward_model(kind)
        raw = Scores(model)(Batch(PROMPTS, RESPONSES))
        assert torch.equal(Scores(model).normalised(raw), raw)
        model.config.reward_mean, model.config.reward_std = 0.5, 2.0
        model.save_pretrained(tmp_path)
        loaded = Scores(type(model).from_pretrained(tmp_path))
        torch.testing.assert_close(loaded.normalised(loaded(Batch(PROMPTS, RESPONSES))), (raw - 0.5) / 2.0)

    def test_what_cannot_score_is_refused(self, causal_lm: Build, reward_model: Build, kind: str) -> None:
        with pytest.raises(UserError, match="has no scalar `score` head: give a sequence-classification model of one"):
            Scores(causal_lm(kind))
        for changes in ({"reward_std": 0.0}, {"reward_mean": float("nan")}):
            with pytest.raises(UserError, match="cannot normalise a score"):
                Scores(reward_model(kind, **changes))
