"""Rewards: functions of texts, models of the policy's tokenizer and of another, sums of several; what is refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.decoders import WordPiece
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from data.console import UserError
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.base import PolicyTokens
from rlhf.ppo.rewards.build import build_reward
from rlhf.ppo.rewards.combine import CombinedReward
from rlhf.ppo.rewards.function import FunctionReward
from rlhf.ppo.rewards.model import ModelReward, TranslatedReward
from rlhf.ppo.rewards.rules import Scorer, ScoreRules, apply_missing_stop, overlong_share
from rlhf.ppo.trainer import PPOConfig, PPOTrainer

CPU = torch.device("cpu")
EOS = 22
Build = Callable[..., PreTrainedModel]
Letters = Callable[..., PreTrainedTokenizerFast]


@pytest.fixture
def tokens(tokenizer: PreTrainedTokenizerFast) -> PolicyTokens:
    return PolicyTokens(tokenizer, 24, frozenset([EOS]), 18)


def build(source: Any, tokens: PolicyTokens) -> Any:
    return build_reward(source, tokens, batch_rows=2, device=CPU)[0]


# ---- functions ----


@pytest.mark.parametrize(
    "give",
    [list, np.array, torch.tensor, lambda scores: [torch.tensor(s) for s in scores], lambda s: [x > 1 for x in s]],
    ids=["list", "array", "tensor", "tensors", "truth values"],
)
def test_a_function_reads_text_and_gives_numbers(tokens: PolicyTokens, give: Any) -> None:
    seen = []

    def count(prompts: list[str], responses: list[str]) -> Any:
        seen.append((prompts, responses))
        return give([float(len(text)) for text in responses])

    talk = Prompt([20, 0, 22, 21], "ua<eos>v", [{"role": "user", "content": "a"}])
    scores = build(count, tokens)([Prompt([0, 1], "Ab"), Prompt([2, 23]), talk], [[3, 4, EOS], [5, 6, 7], [EOS]])
    assert seen == [(["Ab", "c", "ua<eos>v"], ["de", "fgh", ""])]
    assert scores.dtype == torch.float32
    assert scores.tolist() == ([1, 1, 0] if give([2.0]) == [True] else [2, 3, 0])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p, r: [1.0], r"shape \(1,\) for 2 responses"),
        (lambda p, r: 1.0, r"shape \(\) for 2 responses"),
        (lambda p, r: [[1.0], [2.0]], r"shape \(2, 1\) for 2 responses"),
        (lambda p, r: None, "gave None as scores: return a list of numbers"),
        (lambda p, r: [1.0, None], r"gave \[1.0, None\] as scores: return a list"),
        (lambda p, r: ["good", "bad"], "return a list of numbers"),
        (lambda p, r: (1.0 for _ in r), "return a list of numbers"),
        (lambda p, r: [1.0, math.nan], "gave nan as scores for the response 'e': return finite"),
        (lambda p, r: [math.inf, 0.0], "gave inf as scores for the response 'd'"),
    ],
)
def test_what_a_function_may_not_give(tokens: PolicyTokens, function: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(function, tokens)([Prompt([0]), Prompt([1])], [[3], [4]])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (None, "the reward is a NoneType"),
        (3.5, "the reward is a float"),
        (lambda responses: [0.0], r"must accept \(prompts, responses\): too many"),
        (lambda prompts, responses, *, answer: [0.0], 'asks for the column "answer", which the data'),
        ([], "list of .reward, weight. is empty"),
        ([lambda p, r: [0.0]], "number 0 is <function"),
        ((lambda p, r: [0.0], 1.0), "number 0 is <function"),
        ([(lambda p, r: [0.0], "1")], r"a pair \(reward, weight\); number 0"),
        ([(lambda p, r: [0.0], 1.0), (lambda p, r: [0.0], math.nan)], "the weight of reward 1 is nan"),
        (nn.Linear(2, 1), "the reward model is a Linear: give a folder, a hub name or a model$"),
        ("no/such/folder", "cannot load the reward model from no/such/folder"),
    ],
)
def test_what_is_no_reward_is_said_in_one_line(tokens: PolicyTokens, reward: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(reward, tokens)
    assert "\n" not in str(caught.value)


def test_functions_need_a_tokenizer() -> None:
    with pytest.raises(UserError, match="reads text: pass the tokenizer"):
        build(lambda p, r: [0.0], PolicyTokens(None, 24, frozenset([EOS]), 18))


def test_functions_with_more_parameters_that_have_defaults_are_fine(tokens: PolicyTokens) -> None:
    assert isinstance(build(lambda prompts, responses, scale=1.0, **rest: [scale], tokens), FunctionReward)


@pytest.mark.parametrize("given", ["texts", "prompts"])
def test_a_function_gets_whole_prompts_of_which_the_policy_reads_the_end(
    causal_lm: Build, tokenizer: PreTrainedTokenizerFast, given: str
) -> None:
    """A reward that looks its prompts up finds every one, as it was given."""
    texts = ["abcdefghijk", "kjihgfedcba", "a"]
    worth = dict(zip(texts, (1.0, 2.0, 3.0), strict=True))
    prompts: Any = texts if given == "texts" else [Prompt(tokenizer.encode(text)[-4:], text=text) for text in texts]
    config = PPOConfig(total_episodes=6, batch_size=6, response_length=4, prompt_length=4, cpu=True)
    trainer = PPOTrainer(
        causal_lm("gpt2"), lambda p, r: [worth[prompt] for prompt in p], prompts, config, tokenizer=tokenizer
    )
    assert max(map(len, trainer.prompt_order.prompts)) == 4
    rollout = trainer.rollout()
    assert rollout.metrics["objective/reward_scores"] == pytest.approx(2.0)
    assert {prompt.text for prompt in rollout.prompts} == set(texts)


@pytest.mark.parametrize("several", [False, True])
def test_a_function_runs_outside_autocast_and_a_model_inside(
    causal_lm: Build, reward_model: Build, tokenizer: PreTrainedTokenizerFast, several: bool
) -> None:
    """What a function computes with a model of its own is in that model's precision."""
    own, seen, ours = nn.Linear(3, 1), [], []

    def score(prompts: list[str], responses: list[str]) -> list[float]:
        seen.append((torch.is_autocast_enabled("cpu"), own(torch.ones(len(responses), 3)).dtype))
        return [0.0] * len(responses)

    model: Any = reward_model("gpt2")
    model.score.register_forward_hook(lambda module, inputs, output: ours.append(output.dtype))
    reward: Any = [(score, 1.0), (model, 1.0)] if several else score
    config = PPOConfig(total_episodes=8, batch_size=8, response_length=4, bf16=True, cpu=True)
    PPOTrainer(causal_lm("gpt2"), reward, ["ab", "c"], config, tokenizer=tokenizer).train()
    assert seen == [(False, torch.float32)]
    assert set(ours) == ({torch.bfloat16} if several else set())


# ---- sums ----


def test_several_rewards_add_up_by_their_weights(tokens: PolicyTokens, reward_model: Build) -> None:
    def length(prompts: list[str], responses: list[str]) -> list[float]:
        return [float(len(text)) for text in responses]

    model = reward_model("qwen3")
    prompts, responses = [Prompt([1, 2]), Prompt([3])], [[4, EOS], [5, 6, 7]]
    parts = [(length, 3), (model, -0.5), ([(lambda p, r: [10.0, 0.0], 0.1)], 2.0), (length, 1.0)]
    reward, first = build_reward(parts, tokens, 2, CPU)
    assert isinstance(reward, CombinedReward)
    assert first is model
    alone = ModelReward(model, 2)(prompts, responses)
    torch.testing.assert_close(reward(prompts, responses), torch.tensor([6.0, 12.0]) - 0.5 * alone)
    own = {"length": 2.0, "reward_1": alone.mean().item(), "reward_2": 0.5, "length_3": 2.0, "reward_2/reward_0": 5.0}
    assert reward.means == pytest.approx(own)


def test_each_of_several_rewards_is_logged(causal_lm: Build, tokenizer: PreTrainedTokenizerFast) -> None:
    def length(prompts: list[str], responses: list[str]) -> list[float]:
        return [float(len(text)) for text in responses]

    def one(prompts: list[str], responses: list[str]) -> list[float]:
        return [1.0] * len(prompts)

    config = PPOConfig(total_episodes=8, batch_size=8, response_length=6, cpu=True)
    trainer = PPOTrainer(causal_lm("gpt2"), [(length, -2.0), (one, 0.5)], ["ab"], config, tokenizer=tokenizer)
    (metrics,) = trainer.train()
    assert metrics["objective/rewards/one"] == 1
    expected = -2 * metrics["objective/rewards/length"] + 0.5
    assert metrics["objective/reward_scores"] == pytest.approx(expected, abs=1e-5)


# ---- models with a tokenizer of their own ----


@pytest.fixture
def other_tokenizer(letters: Letters) -> PreTrainedTokenizerFast:
    """The same letters, numbered backwards, and none after p: o is 1, p is 0."""
    return letters("ponmlkjihgfedcba", "<end>", "<fill>")


@pytest.fixture
def saved(reward_model: Build, tmp_path: Path) -> Callable[..., Path]:
    """`saved(tokenizer, **config)`: the folder of a reward model with that tokenizer."""

    def save(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> Path:
        folder = tmp_path / f"reward{len(list(tmp_path.iterdir()))}"
        known = {"vocab_size": len(tokenizer), "eos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
        reward_model("qwen3", **known | changes).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


def test_a_model_of_the_same_tokenizer_gets_the_very_tokens(
    tokens: PolicyTokens, tokenizer: PreTrainedTokenizerFast, letters: Letters, saved: Callable[..., Path]
) -> None:
    reward, first = build_reward(saved(tokenizer), tokens, 2, CPU)
    assert isinstance(reward, ModelReward)
    assert reward.model is first
    # A tokenizer that knows more tokens, after the same ones, reads these as they are.
    larger = letters("abcdefghijklmnopqrstuv", "<eos>", "<pad>")
    larger.add_tokens(["w", "x"])
    assert isinstance(build(saved(larger), tokens), ModelReward)
    # Ids are taken for the same where nobody can tell: a model with no tokenizer beside it.
    assert isinstance(build(reward.model, PolicyTokens(None, 24, frozenset([EOS]), 18)), ModelReward)


def test_a_reward_model_that_starts_the_value_model_too_is_loaded_once(
    causal_lm: Build,
    tokenizer: PreTrainedTokenizerFast,
    saved: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, other, read = saved(tokenizer), saved(tokenizer), []
    load = AutoModelForSequenceClassification.from_pretrained

    def counted(source: str, **options: Any) -> Any:
        read.append(source)
        return load(source, **options)

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", counted)
    config = PPOConfig(total_episodes=8, batch_size=8, response_length=4, cpu=True)
    for value, times in ((None, 1), (folder, 1), (str(folder), 1), (other, 2)):
        read.clear()
        trainer = PPOTrainer(causal_lm("qwen3"), folder, ["ab"], config, tokenizer=tokenizer, value=value)
        assert len(read) == times
        ours: Any = trainer.reward
        pairs = zip(trainer.value.backbone.parameters(), ours.model.base_model.parameters(), strict=True)
        assert all(torch.equal(own, theirs) and own is not theirs and own.requires_grad for own, theirs in pairs)


def test_a_model_of_another_tokenizer_reads_the_text(
    tokens: PolicyTokens, other_tokenizer: PreTrainedTokenizerFast, saved: Callable[..., Path]
) -> None:
    """abc + de <eos> -> the other tokenizer's ids of "abcde" and its own end; without the policy's stop no end."""
    reward, first = build_reward(saved(other_tokenizer), tokens, 2, CPU)
    assert isinstance(reward, TranslatedReward)
    assert first is None, "its body cannot read the policy's tokens: no value model starts from it"
    wide = build(saved(other_tokenizer, vocab_size=24), tokens)
    assert isinstance(wide, TranslatedReward), "ids that it could look up, and that mean other tokens"
    prompts, responses = [Prompt([0, 1, 2]), Prompt([9], "j"), Prompt([3])], [[3, 4, EOS], [5, 6], [EOS]]
    expected = [[15, 14, 13, 12, 11, 16], [6, 10, 9], [12, 16]]
    assert [reward.encode(p, r) for p, r in zip(prompts, responses, strict=True)] == expected
    scores = reward(prompts, responses)
    for score, ids in zip(scores, expected, strict=True):
        hidden = reward.model.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state
        assert score.item() == pytest.approx(reward.model.model.score(hidden[0, -1]).item(), abs=1e-5)


def test_what_is_too_long_for_the_other_model_loses_its_beginning(
    tokens: PolicyTokens, other_tokenizer: PreTrainedTokenizerFast, saved: Callable[..., Path]
) -> None:
    reward = build(saved(other_tokenizer, max_position_embeddings=4), tokens)
    long, short = reward([Prompt([0, 1, 2]), Prompt([2])], [[3, 4, EOS], [3, 4, EOS]])
    assert long.item() == pytest.approx(short.item(), abs=1e-6)


def test_conversations_go_through_the_other_models_own_template(
    tokens: PolicyTokens, other_tokenizer: PreTrainedTokenizerFast, saved: Callable[..., Path]
) -> None:
    talk = Prompt([20, 0, 22, 21], "ua<eos>v", [{"role": "user", "content": "a"}])
    begun = Prompt([20, 0, 22, 21, 1], "ua<eos>vb", [*(talk.messages or []), {"role": "assistant", "content": "b"}])
    with pytest.raises(UserError, match="tokenizer, which is not the policy's, has no chat template"):
        build(saved(other_tokenizer), tokens)([talk], [[3, EOS]])
    other_tokenizer.chat_template = (
        "{% for m in messages %}{{ 'o' if m['role'] == 'user' else 'p' }}{{ m['content'] }}<end>{% endfor %}"
    )
    reward = build(saved(other_tokenizer), tokens)
    assert reward.encode(talk, [3, EOS]) == [1, 15, 16, 0, 12, 16]
    assert reward.encode(begun, [3, EOS]) == [1, 15, 16, 0, 14, 12, 16], "one message of the assistant, not two"


def test_too_small_a_vocabulary_without_a_tokenizer_is_refused(tokens: PolicyTokens, reward_model: Build) -> None:
    small = reward_model("qwen3", vocab_size=20, pad_token_id=19, eos_token_id=18)
    with pytest.raises(UserError, match=r"the reward model \(.*\) knows 20 tokens and the policy 24"):
        build(small, tokens)


def test_a_whole_update_with_a_reward_model_of_another_tokenizer(
    causal_lm: Build,
    tokenizer: PreTrainedTokenizerFast,
    other_tokenizer: PreTrainedTokenizerFast,
    saved: Callable[..., Path],
    tmp_path: Path,
) -> None:
    policy, reward = causal_lm("gpt2"), saved(other_tokenizer)
    config = PPOConfig(total_episodes=8, batch_size=8, response_length=6, cpu=True)
    trainer = PPOTrainer(policy, reward, ["abc", "d"], config, tokenizer=tokenizer)
    start = [p.clone() for p in policy.base_model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(start, trainer.value.backbone.parameters(), strict=True))
    assert trainer.train()[0]["val/first_ratio_error"] < 2e-5
    wide = saved(other_tokenizer, vocab_size=24)
    with pytest.raises(UserError, match="the value model has another tokenizer than the policy"):
        PPOTrainer(causal_lm("gpt2"), reward, ["abc"], config, tokenizer=tokenizer, value=wide)


def test_rewards_read_the_text_that_the_policy_wrote(
    tokenizer: PreTrainedTokenizerFast, other_tokenizer: PreTrainedTokenizerFast, saved: Callable[..., Path]
) -> None:
    """Prompt + response is the text of all tokens but the stop; "a" and "b" are written as words, "v" is special."""
    tokenizer.backend_tokenizer.decoder = WordPiece()
    tokenizer.add_special_tokens({"additional_special_tokens": ["v"]})
    policy, prompt = PolicyTokens(tokenizer, 24, frozenset([EOS]), 18), Prompt([0, 1], "a b")
    seen = build(lambda p, r: [float((p, r) == (["a b"], [" c v d"]))], policy)
    assert seen([prompt], [[2, 21, 3, EOS]]).tolist() == [1.0]
    assert policy.response_text([2, 21, 3, EOS]) == " c v d", "without a prompt: as after any other text"
    assert policy.prompt_text(Prompt([21, 0, 23])) == "v a", "of token ids too, but for PAD"
    assert build(saved(other_tokenizer), policy).encode(prompt, [2, EOS]) == [*other_tokenizer.encode("a b c"), 16]


@pytest.mark.parametrize("role", ["reward model", "value model", "reference", "policy"])
def test_a_tokenizer_that_cannot_be_read_is_said_when_the_trainer_is_made(
    causal_lm: Build, tokenizer: PreTrainedTokenizerFast, saved: Callable[..., Path], tmp_path: Path, role: str
) -> None:
    """Its ids would else be taken for the policy's."""
    folder, policy = saved(tokenizer), tmp_path / "policy"
    if role in ("reference", "policy"):
        causal_lm("qwen3").save_pretrained(policy)
        tokenizer.save_pretrained(policy)
    ((policy if policy.exists() else folder) / "tokenizer.json").write_text("{")
    given: dict[str, dict[str, Any]] = {
        "reward model": {"reward": folder},
        "value model": {"value": folder},
        "reference": {"reference": policy},
        "policy": {"policy": policy, "tokenizer": None},
    }
    usual: dict[str, Any] = {"policy": causal_lm("qwen3"), "reward": lambda p, r: [0.0], "tokenizer": tokenizer}
    with pytest.raises(UserError, match=f"the tokenizer of the {role} in .* cannot be read"):
        PPOTrainer(prompts=["ab"], config=PPOConfig(cpu=True), **usual | given[role])


# ---- rules ----


def test_the_length_budget_is_soft() -> None:
    """Nothing up to four tokens before the limit, then in a line to the whole penalty; on what the other rules left."""
    lengths = [3, 16, 17, 18, 20]
    expected = [0.0, 0.0, 0.25, 0.5, 1.0]
    for buffer in (4, None):  # a fifth of 20
        assert overlong_share(torch.tensor(lengths, dtype=torch.float32), 20, buffer).tolist() == expected
    assert overlong_share(torch.tensor([1.0, 2.0]), 2, None).tolist() == [0.0, 1.0]
    rules = ScoreRules("subtract", 1.0, 2.0, overlong_penalty=3.0, overlong_buffer=4)
    scorer = Scorer(lambda prompts, responses: torch.full((5,), 5.0), frozenset([EOS]), rules, response_length=20)
    responses = [[1] * (length - 1) + [EOS if length < 18 else 2] for length in lengths]
    assert scorer([Prompt([1])] * 5, responses).scores.tolist() == [2.0, 2.0, 2.0 - 0.75, 1.0 - 1.5, 1.0 - 3.0]


def test_rules_for_responses_that_never_stop() -> None:
    scores, stopped = torch.tensor([2.0, 0.5]), torch.tensor([True, False])
    assert apply_missing_stop(scores, stopped, "subtract", 1.0).tolist() == [2.0, -0.5]
    assert apply_missing_stop(scores, stopped, "replace", 1.0).tolist() == [2.0, -1.0]
    with pytest.raises(ValueError, match="subtract or replace"):
        apply_missing_stop(scores, stopped, "forgive", 1.0)
