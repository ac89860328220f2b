"""Reward functions: the columns that they ask for, and metrics next to the score."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data.console import UserError
from rlhf.ppo.prompts import Prompt, columns_of, encode_prompts
from rlhf.ppo.rewards.base import PolicyTokens
from rlhf.ppo.rewards.build import build_reward
from rlhf.ppo.trainer import PPOConfig, PPOTrainer

CPU = torch.device("cpu")
ROWS = [
    {"prompt": "ab", "answer": "c", "level": 1},
    {"prompt": "ab", "answer": "d", "level": 2},
    {"prompt": "e", "answer": "f", "level": 3},
]
Build = Callable[..., PreTrainedModel]


def sources(folder: Path) -> dict[str, Any]:
    """The same rows in all forms in which prompts may be given."""
    file = folder / "prompts.jsonl"
    file.write_text("\n\n".join(map(json.dumps, ROWS)))
    return {
        "rows": ROWS,
        "Dataset": Dataset.from_list(ROWS),
        "DataFrame": pd.DataFrame(ROWS),
        "JSONL": file,
        "Prompts": [Prompt([0, 1], "ab", columns={"answer": "c", "level": 1}), *ROWS[1:]],
    }


@pytest.fixture
def build(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Any]:
    """`build(function, data)`: the reward, and the prompts of these data."""

    def make(function: Any, data: Any) -> Any:
        prompts = encode_prompts(data, tokenizer, None, 24)
        policy = PolicyTokens(tokenizer, 24, frozenset([22]), 18, columns_of(prompts))
        return build_reward(function, policy, 2, CPU)[0], prompts

    return make


@pytest.mark.parametrize("form", ["rows", "Dataset", "DataFrame", "JSONL", "Prompts"])
def test_columns_come_by_name_and_belong_to_their_rows(build: Any, tmp_path: Path, form: str) -> None:
    """Two rows with one prompt keep their own, in any order of the batch."""
    seen = []

    def named(prompts: list[str], responses: list[str], answer: list[str]) -> list[float]:
        seen.append((prompts, responses, answer))
        return [float(a == r) for a, r in zip(answer, responses, strict=True)]

    reward, prompts = build(named, sources(tmp_path)[form])
    order = [prompts[i] for i in (2, 1, 0, 1)]
    assert reward(order, [[5], [3], [3], [2]]).tolist() == [1.0, 1.0, 0.0, 0.0]
    assert seen == [(["e", "ab", "ab", "ab"], ["f", "d", "d", "c"], ["f", "d", "c", "d"])]


def test_what_a_signature_asks_for(build: Any) -> None:
    seen: dict[str, Any] = {}

    def given(prompts: list[str], **columns: list[Any]) -> list[float]:
        seen.clear()
        seen.update(columns)
        return [0.0] * len(prompts)

    functions: dict[str, tuple[Any, dict[str, Any]]] = {
        "none": (lambda p, r: given(p), {}),
        "keyword only": (lambda p, r, *, level: given(p, level=level), {"level": [1, 2, 3]}),
        "a default": (
            lambda p, r, level=0, other=5: given(p, level=level, other=other),
            {"level": [1, 2, 3], "other": 5},
        ),
        "all": (lambda p, r, **rest: given(p, **rest), {"answer": ["c", "d", "f"], "level": [1, 2, 3]}),
        "one and the others": (lambda p, r, answer, **rest: given(p, **rest), {"level": [1, 2, 3]}),
        "set already": (
            functools.partial(lambda p, r, answer, level: given(p, answer=answer, level=level), answer="x"),
            {"answer": "x", "level": [1, 2, 3]},
        ),
    }
    for name, (function, expected) in functions.items():
        reward, prompts = build(function, ROWS)
        reward(prompts, [[1], [2], [3]])
        assert seen == expected, name


def test_a_column_called_like_a_parameter_of_ours_is_none_of_all(build: Any) -> None:
    rows = [{"prompt": "a", "responses": "x", "r": "y", "z": 1}]
    reward, prompts = build(lambda p, r, **rest: [float(list(rest) == ["responses", "z"])], rows)
    assert reward(prompts, [[1]]).tolist() == [1.0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["ab"], r'asks for the column "answer", which the data of the prompts lack \(they have none but the prompt\)'),
        ([{"prompt": "a", "x": 1, "y": 2}], r"lack \(they have x, y\): add it$"),
        (
            [ROWS[0], {"prompt": "a", "level": 2}],
            'prompt 1 has no "answer", which the reward function asks for: add it',
        ),
        ("JSONL", r'prompts.jsonl, line 4 has no "answer"'),
    ],
)
def test_a_column_that_the_data_lack_is_said_in_one_line(build: Any, tmp_path: Path, data: Any, message: str) -> None:
    if data == "JSONL":
        data = tmp_path / "prompts.jsonl"
        data.write_text(json.dumps(ROWS[0]) + "\n\n\n" + '{"prompt": "a"}\n')
    with pytest.raises(UserError, match=message):
        build(lambda prompts, responses, answer: [0.0], data)


def test_optional_columns_are_none_where_a_row_has_none(build: Any) -> None:
    reward, prompts = build(lambda p, r, level=None: [float(x or 0) for x in level], [ROWS[0], {"prompt": "a"}])
    assert reward(prompts, [[1], [2]]).tolist() == [1.0, 0.0]


def test_rows_in_a_rollout_keep_their_columns(causal_lm: Build, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"prompt": "ab", "worth": float(worth)} for worth in (1, 2, 4, 8)]
    config = PPOConfig(total_episodes=8, batch_size=4, response_length=4, cpu=True)
    trainer = PPOTrainer(causal_lm("gpt2"), lambda p, r, worth: worth, rows, config, tokenizer=tokenizer)
    rollout = trainer.rollout()
    assert rollout.scores.tolist() == [prompt.columns["worth"] for prompt in rollout.prompts]
    assert sorted(rollout.scores.tolist()) == [1, 2, 4, 8]
    others = [{"prompt": "ab", "worth": float(worth)} for worth in (1, 2, 4, 9)]
    again = PPOTrainer(causal_lm("gpt2"), lambda p, r, worth: worth, others, config, tokenizer=tokenizer)
    assert trainer.prompt_order.fingerprint != again.prompt_order.fingerprint, "other data make another run"


def test_prompts_that_are_evaluated_need_the_columns_too(causal_lm: Build, tokenizer: PreTrainedTokenizerFast) -> None:
    config = PPOConfig(total_episodes=8, batch_size=8, response_length=4, cpu=True)
    reward: Any = lambda p, r, answer: [float(a == "x") for a in answer]  # noqa: E731
    bad: dict[str, Any] = {'0 has no "answer"': ["ab"], "0 is empty": [{"prompt": ""}]}
    for message, held_out in bad.items():
        with pytest.raises(UserError, match=f"eval prompt {message}"):
            PPOTrainer(causal_lm("gpt2"), reward, ROWS, config, tokenizer=tokenizer, eval_prompts=held_out)
    good = [{"prompt": "ab", "answer": "x"}]
    trainer = PPOTrainer(causal_lm("gpt2"), reward, ROWS, config, tokenizer=tokenizer, eval_prompts=good)
    assert trainer.train()[0]["eval/reward"] == 1.0


# ---- metrics ----


def test_metrics_next_to_the_score_are_logged(causal_lm: Build, tokenizer: PreTrainedTokenizerFast) -> None:
    def count(prompts: list[str], responses: list[str]) -> Any:
        return [0.5] * len(prompts), {"half": [i % 2 for i in range(len(prompts))], 7: torch.arange(len(prompts))}

    config = PPOConfig(total_episodes=8, batch_size=8, response_length=4, cpu=True)
    (metrics,) = PPOTrainer(causal_lm("gpt2"), count, ["ab"], config, tokenizer=tokenizer).train()
    assert metrics["objective/reward_scores"] == 0.5
    assert {name: value for name, value in metrics.items() if name.startswith("objective/rewards/")} == {
        "objective/rewards/half": 0.5,
        "objective/rewards/7": 3.5,
    }


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"a": [1.0]}, r"gave the metric 'a' of shape \(1,\) for 2 responses"),
        ({"a": 1.0}, r"gave the metric 'a' of shape \(\)"),
        ({"a": ["x", "y"]}, r"gave \['x', 'y'\] as the metric 'a': return a list of numbers"),
        ({"a": [1.0, math.nan]}, "gave nan as the metric 'a' for the response 'd'"),
    ],
)
def test_what_metrics_may_not_be(build: Any, metrics: Any, message: str) -> None:
    reward, prompts = build(lambda p, r: ([0.0] * len(p), metrics), ["a", "b"])
    with pytest.raises(UserError, match=message):
        reward(prompts, [[2], [3]])


def test_two_scores_are_not_scores_and_metrics(build: Any) -> None:
    reward, prompts = build(lambda p, r: (1.0, 2.0), ["a", "b"])
    assert reward(prompts, [[2], [3]]).tolist() == [1.0, 2.0]
    assert reward.means == {}
