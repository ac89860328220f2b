"""Best-of-n: what is chosen, its KL, and the budget."""

import dataclasses
import itertools
import json
import math
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from data.console import UserError
from reward.model import RewardModel
from rlhf.algorithms.best_of_n import Candidates, choose_best, kl_bound
from rlhf.algorithms.group_config import BEST_OF_N_PRESETS, BestOfNConfig
from rlhf.algorithms.task import Alignment, as_gpt
from rlhf.judging.measures import diversity
from rlhf.ppo.rewards import Scored, ScoreRules


def config_for(run: Path, **changes: Any) -> BestOfNConfig:
    return dataclasses.replace(BEST_OF_N_PRESETS["smoke"][1], run=run, **{"token_budget": 1500} | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, run_maker: type[Any]) -> Path:
    maker = run_maker(tmp_path_factory.mktemp("best_of_n"))
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    maker.reward_model()
    return Path(maker.run)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.integers(1, 9))
def test_the_bound_is_a_bound(weights: list[float], n: int) -> None:
    """KL of the best of n, exactly, where responses are few: each has a probability and a rank."""
    total, below, kl = sum(weights), 0.0, 0.0
    for weight in weights:  # from the worst to the best
        p = weight / total
        chosen = (below + p) ** n - below**n  # the best of n is this one
        kl += chosen * math.log(chosen / p) if chosen > 0 else 0.0
        below += p
    assert kl <= kl_bound(n) + 1e-9


def test_the_bound_is_met_where_no_two_are_the_same() -> None:
    count, n = 20_000, 4
    edges = [(i / count) ** n for i in range(count + 1)]
    kl = sum((b - a) * math.log((b - a) * count) for a, b in itertools.pairwise(edges) if b > a)
    assert kl == pytest.approx(kl_bound(n), abs=1e-3)
    assert kl_bound(1) == 0


def test_the_best_is_chosen_by_score_after_the_rules() -> None:
    scores = [([0.0, 5.0], [0.0, -1.0]), ([2.0, 1.0], [2.0, 1.0]), ([3.0, 0.5], [1.0, 0.5])]
    drawn = iter(scores)
    writer = SimpleNamespace(
        sft=None,
        prompts=[[1], [2]],
        tokenizer=SimpleNamespace(decode=lambda ids: str(ids)),
        sample=lambda model, draw, temperature: [[draw], [draw, 9]],
    )

    def scorer(prompts: Any, responses: Any) -> Scored:
        raw, ruled = next(drawn)
        return Scored(torch.tensor(raw), torch.tensor(ruled), torch.tensor([ids[-1] == 9 for ids in responses]))

    candidates = Candidates(writer, scorer, temperature=1.0, first_draw=7)  # type: ignore[arg-type]
    for _ in range(3):
        candidates.draw()
    assert candidates.tokens == 9
    best = candidates.best_of(3)
    assert best.ids == [[8], [8, 9]]
    assert best.reward == [2.0, 1.0]
    assert best.stopped == [False, True]
    assert best.kl == pytest.approx(math.log(3) - 2 / 3)
    assert candidates.score(3) == 1.5
    assert candidates.best_of(1).reward == [0.0, 5.0], "the first alone, whatever its score"


def test_n_doubles_while_the_budget_lasts(run: Path) -> None:
    folder = choose_best(config_for(run), "smoke")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert [line["n"] for line in lines] == [2**i for i in range(len(lines))]
    assert len(lines) > 1
    assert 1500 / 2 < lines[-1]["sampled_tokens"] <= 1500
    assert [line["objective/kl"] for line in lines] == pytest.approx([kl_bound(line["n"]) for line in lines], abs=1e-6)
    scores = [line["objective/scores"] for line in lines]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0]
    again = choose_best(config_for(run, token_budget=1, overwrite=True), "smoke")
    assert [json.loads(line)["n"] for line in (again / "metrics.jsonl").open()] == [1]


def test_rewards_are_the_reward_models(run: Path) -> None:
    room = Alignment(config_for(run))
    candidates = Candidates(room.writer, room.scorer(ScoreRules("subtract", 0.0, None), torch.device("cpu")), 1.0)
    for _ in range(3):
        candidates.draw()
    best = candidates.best_of(3)
    model = RewardModel.load(run / "reward")
    scores = [model.score(list(zip(room.writer.prompts, ids, strict=True))).tolist() for ids in candidates.ids]
    assert best.reward == pytest.approx([max(column) for column in zip(*scores, strict=True)], abs=1e-4)


def test_a_reward_of_the_users_is_in_units_of_the_sft_models_replies(run: Path) -> None:
    room = Alignment(config_for(run, reward="gold"))
    assert callable(room.reward)
    scores = room.reward(room.heldout, room.before)
    assert statistics.fmean(scores) == pytest.approx(0, abs=1e-9)
    assert statistics.pstdev(scores) == pytest.approx(1)
    raw = [room.gold(prompt, text) for prompt, text in zip(room.heldout, room.before, strict=True)]
    assert statistics.correlation(scores, raw) == pytest.approx(1), "moved and scaled, and nothing else"


def test_the_judge_reads_what_the_policy_writes_now(run: Path) -> None:
    room = Alignment(config_for(run))
    policy = AutoModelForCausalLM.from_pretrained(run / "sft")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # a policy that has moved
        for parameter in policy.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    ids = room.writer.sample(as_gpt(policy), draw=0)
    texts = [room.tokenizer.decode(reply) for reply in ids]
    assert texts != room.before
    gold, before = (
        statistics.fmean(room.gold(prompt, text) for prompt, text in zip(room.heldout, some, strict=True))
        for some in (texts, room.before)
    )
    assert room.judge_policy(policy) == pytest.approx(
        {
            "eval/gold": gold,
            "eval/gold_before": before,
            "eval/distinct_2": diversity(texts, 1000).distinct_2,
            "eval/stopped": statistics.fmean(reply[-1] == room.tokenizer.eos_id for reply in ids),
            "eval/unknown_words": statistics.fmean(room.gold.unknown_words(text) for text in texts),
        }
    )


def test_bad_settings_leave_nothing_behind(run: Path) -> None:
    for changes, message in (
        ({"token_budget": 0}, "token_budget is 0"),
        ({"token_budget": None}, "no .*rlhf whose budget"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"reward": "nowhere:nothing"}, "no module 'nowhere'"),
    ):
        with pytest.raises(UserError, match=message):
            choose_best(config_for(run, overwrite=True, **changes), "smoke")
    assert not (run / ".rlhf-best-of-n.partial").exists()
