"""Several rewards as one: sums, ensembles, and names in the log that never hide each other."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data.console import UserError
from rlhf import RewardEnsemble
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.base import PolicyTokens
from rlhf.ppo.rewards.build import build_reward
from rlhf.ppo.rewards.combine import names_of
from rlhf.ppo.trainer import PPOConfig, PPOTrainer

CPU = torch.device("cpu")
PROMPTS, RESPONSES = [Prompt([1]), Prompt([2]), Prompt([3])], [[4, 5], [6], [7, 8, 9]]
Build = Callable[..., PreTrainedModel]


def build(source: Any, tokens: PolicyTokens) -> tuple[Any, PreTrainedModel | None]:
    return build_reward(source, tokens, 2, CPU)


@pytest.fixture
def tokens(tokenizer: PreTrainedTokenizerFast) -> PolicyTokens:
    return PolicyTokens(tokenizer, 24, frozenset([22]), 18)


def giving(*scores: float, name: str = "") -> Any:
    """A reward function of that name that gives these scores; for any number of responses where it is one."""

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        return list(scores) if len(scores) > 1 else [*scores] * len(prompts)

    reward.__name__ = name or "<lambda>"
    return reward


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (["reward_1", ""], ["reward_1", "reward_2"]),
        (["", "reward_0", ""], ["reward_1", "reward_0", "reward_2"]),
        (["quality_2", "quality", "quality"], ["quality_2", "quality", "quality_3"]),
        (["a", "a", "a_1", "a_2", "a"], ["a", "a_3", "a_1", "a_2", "a_4"]),
        (["", "", ""], ["reward_0", "reward_1", "reward_2"]),
    ],
)
def test_no_two_rewards_have_one_name(tokens: PolicyTokens, own: list[str], expected: list[str]) -> None:
    """So that none takes the place of another: the sum has all of them, and the log too."""
    parts = [(giving(10.0**number, name=name), 1.0) for number, name in enumerate(own)]
    assert names_of(parts, [part for part, _ in parts]) == expected
    reward, _ = build(parts, tokens)
    assert reward(PROMPTS, RESPONSES).tolist() == [sum(10.0**number for number in range(len(own)))] * 3
    assert reward.means == {name: 10.0**number for number, name in enumerate(expected)}


def test_metrics_of_a_reward_hide_no_other(tokens: PolicyTokens) -> None:
    def count(prompts: list[str], responses: list[str]) -> Any:
        return [1.0] * len(prompts), {"b": [3.0, 6.0, 9.0], "deviation": [5.0] * 3}

    reward, _ = build({"a": (count, 1.0), "a/b": (giving(2.0), 1.0)}, tokens)
    reward(PROMPTS, RESPONSES)
    assert reward.means == {"a": 1.0, "a/b": 2.0, "a/b_2": 6.0, "a/deviation": 5.0}
    reward, _ = build(RewardEnsemble({"deviation": giving(2.0), "x": giving(4.0)}), tokens)
    reward(PROMPTS, RESPONSES)
    assert reward.means == {"deviation": 2.0, "x": 4.0, "deviation_2": 1.0}


@pytest.mark.parametrize("name", [3, None, ""])
def test_names_are_texts(tokens: PolicyTokens, name: Any) -> None:
    with pytest.raises(UserError, match=f"the name of a reward is {name!r}"):
        build({name: (giving(1.0), 1.0)}, tokens)


# Scores of three rewards for three responses; by hand: means 2, 0, 3; population deviations √(2/3)·1, √(2/3)·3, 0.
TABLE = [(1.0, 3.0, 3.0), (2.0, 0.0, 3.0), (3.0, -3.0, 3.0)]
DEVIATION = (2 / 3) ** 0.5


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1.0, -3.0, 3.0]),
        ({"rule": "mean"}, [2.0, 0.0, 3.0]),
        ({"rule": "mean", "deviation_coef": 0.5}, [2 - 0.5 * DEVIATION, -0.5 * 3 * DEVIATION, 3.0]),
    ],
)
def test_ensembles_by_hand(tokens: PolicyTokens, settings: dict[str, Any], expected: Sequence[float]) -> None:
    reward, first = build(RewardEnsemble([giving(*row) for row in TABLE], **settings), tokens)
    assert reward(PROMPTS, RESPONSES).tolist() == pytest.approx(expected)
    assert first is None
    own = {"reward_0": 7 / 3, "reward_1": 5 / 3, "reward_2": 1.0, "deviation": 4 / 3 * DEVIATION}
    assert reward.means == pytest.approx(own)


def test_an_ensemble_holds_models_and_other_combinations(tokens: PolicyTokens, reward_model: Build) -> None:
    models = [reward_model("gpt2", seed=seed) for seed in (1, 2)]
    alone = [build(model, tokens)[0](PROMPTS, RESPONSES) for model in models]
    weighted = [(giving(1.0, 2.0, 4.0), 2.0)]
    reward, first = build([(RewardEnsemble([*models, weighted]), 0.5)], tokens)
    assert first is models[0], "the value starts from it"
    expected = 0.5 * torch.stack([*alone, torch.tensor([2.0, 4.0, 8.0])]).amin(0)
    torch.testing.assert_close(reward(PROMPTS, RESPONSES), expected)


def test_a_member_with_the_policys_body_does_not_learn_with_it(
    causal_lm: Build, reward_model: Build, tokenizer: PreTrainedTokenizerFast
) -> None:
    policy, judge = causal_lm("gpt2"), reward_model("gpt2")
    judge.transformer = policy.transformer
    config = PPOConfig(total_episodes=8, batch_size=8, response_length=4, cpu=True)
    trainer = PPOTrainer(policy, RewardEnsemble([judge, giving(1.0)]), ["ab"], config, tokenizer=tokenizer)
    own = {weight.data_ptr() for weight in policy.parameters()}
    reward: Any = trainer.reward
    assert not own & {weight.data_ptr() for weight in reward.parts["reward_0"][0].model.parameters()}


@pytest.mark.parametrize(
    ("rewards", "settings", "message"),
    [
        ([giving(1.0)], {}, "at least two rewards"),
        ("my/reward", {}, "needs a list"),
        ([giving(1.0)] * 2, {"rule": "median"}, "rule of an ensemble is 'median': it is min or mean"),
        ([giving(1.0)] * 2, {"rule": "mean", "deviation_coef": -1.0}, "deviation_coef is -1.0"),
        ([giving(1.0)] * 2, {"rule": "mean", "deviation_coef": float("nan")}, "deviation_coef is nan"),
        ([giving(1.0)] * 2, {"deviation_coef": 1.0}, 'deviation_coef has no effect on rule "min"'),
    ],
)
def test_what_is_no_ensemble_is_said_in_one_line(rewards: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RewardEnsemble(rewards, **settings)


def test_an_ensemble_trains_and_is_logged(causal_lm: Build, tokenizer: PreTrainedTokenizerFast) -> None:
    def length(prompts: list[str], responses: list[str]) -> Any:
        lengths = [float(len(text)) for text in responses]
        return lengths, {"long": [length > 3 for length in lengths], "double": [2 * length for length in lengths]}

    config = PPOConfig(total_episodes=8, batch_size=8, response_length=6, cpu=True)
    ensemble = RewardEnsemble({"length": length, "two": giving(2.0)}, rule="mean", deviation_coef=1.0)
    (metrics,) = PPOTrainer(causal_lm("gpt2"), ensemble, ["ab"], config, tokenizer=tokenizer).train()
    mean = metrics["objective/rewards/length"]
    # Mean less deviation of two is the smaller one.
    assert metrics["objective/reward_scores"] == pytest.approx(
        (mean + 2) / 2 - metrics["objective/rewards/deviation"], abs=1e-5
    )
    assert metrics["objective/rewards/length/double"] == pytest.approx(2 * mean)
    assert 0 < metrics["objective/rewards/length/long"] <= 1
