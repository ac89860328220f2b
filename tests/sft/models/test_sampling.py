"""The cached sampler and the packing against plain full forward passes, for learned and rotary positions."""

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from pretrain.sampling import generate
from rlhf.ppo.networks import PolicyModel, ValueModel
from rlhf.ppo.rewards import ModelReward
from sft.models.sampling import HFCachedModel, PreallocatedLayer, pack, position_ids, response_mask

CPU = torch.device("cpu")
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
    assert not isinstance(cached.new_cache(1, 8).states.layers[0], PreallocatedLayer)
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
    layer: Any = cache.states.layers[0]
    address = layer.keys.data_ptr()
    assert layer.keys.shape == (2, 1, 6, 16)
    cached.step(torch.ones(2, 1, dtype=torch.long), torch.full((2, 1), 3), torch.ones(2, 4, dtype=torch.bool), cache)
    assert layer.keys.data_ptr() == address
    assert layer.filled == 4


def test_positions_do_not_count_padding() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 2, 2]]


def test_pack_masks_by_length_even_where_pad_is_the_stop_token() -> None:
    stop = 9
    batch = pack([[1, 2, 3], [4]], [[5, stop], [6, 7, 8, stop]], pad_id=stop, device=CPU)
    assert batch.ids.tolist() == [[1, 2, 3, 5, stop], [4, 6, 7, 8, stop]]
    assert batch.predicts.tolist() == [[False, False, True, True, False], [True, True, True, True, False]]
    assert batch.ids[:, 1:][batch.predicts[:, :-1]].tolist() == [5, stop, 6, 7, 8, stop]
    assert batch.last.tolist() == [4, 4]
    short = pack([[1], [4]], [[stop], [6, stop]], pad_id=stop, device=CPU)
    assert short.attention_mask.tolist() == [[True, True, False], [True, True, True]]
    assert short.last.tolist() == [1, 2]
    assert response_mask([[stop], [6, stop]], CPU).tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize("kind", KINDS)
class TestPolicyModel:
    responses = ([5, 6, 7], [8], [1, 2, 3, 4, 5], [22])

    def test_logprobs_and_entropy_match_single_rows(self, causal_lm: Build, kind: str) -> None:
        model = causal_lm(kind)
        batch = pack(PROMPTS, self.responses, 23, CPU)
        logprobs, entropy = PolicyModel(model)(batch.ids, batch.attention_mask, batch.predicts, 1.0)
        expected = torch.cat([response_logprobs(model, p, r) for p, r in zip(PROMPTS, self.responses, strict=True)])
        torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
        first = model(input_ids=torch.tensor([PROMPTS[0] + [5]])).logits[0, 1]
        assert entropy[0].item() == pytest.approx(torch.distributions.Categorical(logits=first).entropy().item(), 1e-5)
        assert not entropy.requires_grad

    def test_temperature_divides_the_logits(self, causal_lm: Build, kind: str) -> None:
        model = causal_lm(kind)
        batch = pack([[3, 7]], [[5]], 23, CPU)
        logprob, _ = PolicyModel(model)(batch.ids, batch.attention_mask, batch.predicts, 2.0)
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
        batch = pack(PROMPTS, self.responses, 23, CPU)
        total = max(widths)

        def padded(tensor: Tensor, fill: int) -> Tensor:
            """Every row moved to the right by its width, and what remains behind it."""
            moved = torch.full((len(PROMPTS), tensor.shape[1] + total), fill, dtype=tensor.dtype)
            for row, width in enumerate(widths):
                moved[row, width : width + tensor.shape[1]] = tensor[row]
            return moved

        inputs = (batch.ids, batch.attention_mask, batch.predicts)
        policy, value = PolicyModel(causal_lm(kind)), ValueModel(reward_model(kind).base_model)
        torch.nn.init.normal_(value.score.weight)
        for model, extra in ((policy, (1.0,)), (value, ())):
            moved = [padded(tensor, fill) for tensor, fill in zip(inputs, (filler, 0, 0), strict=True)]
            torch.testing.assert_close(model(*moved, *extra), model(*inputs, *extra), atol=1e-5, rtol=0)

    def test_a_model_that_caps_its_logits_is_not_bypassed(self, causal_lm: Build, kind: str) -> None:
        model = causal_lm(kind)
        assert PolicyModel(model).plain_head
        forward = model.forward

        def capped(*args: object, **kwargs: object) -> object:
            output = forward(*args, **kwargs)
            output.logits = 2.0 * torch.tanh(output.logits / 2.0)
            return output

        model.forward = capped
        policy = PolicyModel(model)
        assert not policy.plain_head
        batch = pack(PROMPTS, self.responses, 23, CPU)
        logprobs, _ = policy(batch.ids, batch.attention_mask, batch.predicts, 1.0)
        expected = torch.cat([response_logprobs(model, p, r) for p, r in zip(PROMPTS, self.responses, strict=True)])
        torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
class TestModelReward:
    def test_the_score_is_read_at_the_last_token_of_the_response(self, reward_model: Build, kind: str) -> None:
        model = reward_model(kind)
        pad = 23
        # A PAD inside a prompt, and a response that ends in PAD, mislead a search by token id.
        prompts, responses = [[1, pad, 2], [5], [6, 7]], [[3, 4], [pad, 9, pad], [8]]
        scores = ModelReward(model, pad, batch_rows=2)(prompts, responses)
        for score, prompt, response in zip(scores, prompts, responses, strict=True):
            hidden = model.base_model(input_ids=torch.tensor([prompt + response])).last_hidden_state
            assert score.item() == pytest.approx(model.score(hidden[0, -1]).item(), abs=1e-5)

    def test_scores_are_normalised_by_the_stored_numbers(self, reward_model: Build, kind: str, tmp_path) -> None:
        model = reward_model(kind)
        raw = ModelReward(model, 23, batch_rows=8)(PROMPTS, [[1, 2]] * 4)
        model.config.reward_mean, model.config.reward_std = 0.5, 2.0
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path)
        scores = ModelReward(loaded, 23, batch_rows=8)(PROMPTS, [[1, 2]] * 4)
        torch.testing.assert_close(scores, (raw - 0.5) / 2.0)
