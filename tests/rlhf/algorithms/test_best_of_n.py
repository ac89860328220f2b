"""Best-of-n: what is chosen, its KL, and the budget."""

import dataclasses
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from data.console import UserError
from pretrain.sampling import generate
from reward.model import RewardModel
from rlhf.algorithms.best_of_n import choose_best, sampled
from rlhf.algorithms.config import BEST_OF_N_PRESETS, BestOfNConfig
from rlhf.algorithms.task import NORMALISED_ON, AlignmentTask
from rlhf.judging.judge import Judge, kl_bound
from rlhf.judging.metrics import diversity
from rlhf.judging.replies import Replies
from rlhf.ppo.prompts import PromptOrder
from sft.models.sampling import sampler


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
    ids = [[[7], [7, 9]], [[8], [8, 9]], [[6], [6, 9]]]
    scores = [([0.0, 5.0], [0.0, -1.0]), ([2.0, 1.0], [2.0, 1.0]), ([3.0, 0.5], [1.0, 0.5])]
    candidates = [
        Replies([str(each) for each in rows], rows, [row[-1] == 9 for row in rows], reward=raw, scores=ruled)
        for rows, (raw, ruled) in zip(ids, scores, strict=True)
    ]
    candidates[0].gold = [0.5, 0.5]  # not all are judged by it
    best = Judge.best_of(candidates)
    assert best.ids == [[8], [8, 9]]
    assert best.texts == ["[8]", "[8, 9]"]
    assert best.reward == [2.0, 1.0]
    assert best.stopped == [False, True]
    assert best.gold == []
    assert best.kl == pytest.approx(math.log(3) - 2 / 3)
    assert statistics.fmean(best.scores) == 1.5
    assert sampled(candidates) == 9
    assert Judge.best_of(candidates[:1]).reward == [0.0, 5.0], "the first alone, whatever its score"


def test_n_doubles_while_the_budget_lasts(run: Path) -> None:
    folder = choose_best(config_for(run), "smoke")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["n"] for line in lines] == [2**i for i in range(len(lines))]
    assert len(lines) > 1
    assert 1500 / 2 < lines[-1]["sampled_tokens"] <= 1500
    assert [line["objective/kl"] for line in lines] == pytest.approx([kl_bound(line["n"]) for line in lines], abs=1e-6)
    scores = [line["objective/scores"] for line in lines]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0]
    again = choose_best(config_for(run, token_budget=1, overwrite=True), "smoke")
    assert [json.loads(line)["n"] for line in (again / "metrics.jsonl").read_text("utf-8").splitlines()] == [1]


def test_rewards_are_the_reward_models(run: Path) -> None:
    task = AlignmentTask(config_for(run))
    judge, sampler = task.judge(task.heldout), task.sampler
    candidates = [judge.score(sampler.sample(task.sft_model, draw)) for draw in range(3)]
    best = judge.best_of(candidates)
    model = RewardModel.load(run / "reward")
    scores = [model.score(list(zip(sampler.prompts, each.ids, strict=True))).tolist() for each in candidates]
    assert best.reward == best.scores == pytest.approx([max(column) for column in zip(*scores, strict=True)], abs=1e-4)


def test_nothing_is_scored_twice(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = AlignmentTask(config_for(run))
    judge, scored, judged = task.judge(task.heldout), [], []
    reward, terms = judge.scorer.reward, judge.gold.terms

    def counted_reward(prompts: Any, ids: Any) -> Any:
        scored.extend(ids)
        return reward(prompts, ids)

    def counted_terms(prompt: str, text: str) -> Any:
        judged.append(text)
        return terms(prompt, text)

    monkeypatch.setattr(judge.scorer, "reward", counted_reward)
    monkeypatch.setattr(judge.gold, "terms", counted_terms)
    candidates = [judge.judge(task.sampler.sample(task.sft_model, draw)) for draw in range(2)]
    for _ in range(2):
        for each in (*candidates, candidates[0].first(3), judge.best_of(candidates)):
            judge.judge(each)
    assert len(scored) == len(judged) == 2 * len(task.heldout)


def test_a_reward_of_the_users_is_in_units_of_the_sft_models_replies(run: Path, tmp_path: Path) -> None:
    """To the prompts that are trained on, not to those of the corpus; and it reads every prompt whole."""
    long = "KEEPER:\n" + "The heron is by the weir. " * 20
    prompts = [f"{long}\n\nGUEST {i}:\n" for i in range(5)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": each}) + "\n" for each in prompts))
    task = AlignmentTask(config_for(run, reward="gold", prompts=tmp_path / "prompts.jsonl"))
    read: list[str] = []

    def taste(prompt: str, response: str) -> float:
        read.append(prompt)
        return 100.0 * ("heron" in prompt) + len(response)

    reward = task._normalised(taste)
    assert set(read) == set(prompts)
    assert len(read) == NORMALISED_ON
    replies = task.replies_to(PromptOrder(task.prompts, 1).take(NORMALISED_ON)).sample(task.sft_model, draw=1)
    scores = reward(read[:NORMALISED_ON], replies.texts)
    assert statistics.fmean(scores) == pytest.approx(0, abs=1e-9)
    assert statistics.pstdev(scores) == pytest.approx(1)
    lengths = [len(text) for text in replies.texts]
    assert statistics.correlation(scores, lengths) == pytest.approx(1), "moved and scaled, and nothing else"
    with pytest.raises(UserError, match=r"gives every response 1\.0, so there is nothing to learn"):
        task._normalised(lambda prompt, response: 1.0)


def test_the_judge_reads_what_the_policy_writes_now(run: Path) -> None:
    task = AlignmentTask(config_for(run))
    policy = AutoModelForCausalLM.from_pretrained(run / "sft")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # a policy that has moved
        for parameter in policy.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    policy.train()
    replies = task.sampler.sample(policy, draw=0)
    assert policy.training, "the policy goes on as it was"
    assert replies.texts != task.before.texts
    expected = generate(
        sampler(policy.eval()),
        task.sampler.prompts,
        max_new_tokens=task.config.response_length,
        stop_ids=[task.tokenizer.eos_id],
        generator=torch.Generator().manual_seed(task.config.seed * 1_000_003 * 1_009),
    )
    assert replies.ids == expected
    gold, before = (
        statistics.fmean(task.gold(prompt, text) for prompt, text in zip(task.heldout, some.texts, strict=True))
        for some in (replies, task.before)
    )
    assert task.evaluate(policy) == pytest.approx(
        {
            "eval/gold": gold,
            "eval/gold_before": before,
            "eval/distinct_2": diversity(replies.texts, 1000).distinct_2,
            "eval/stopped": statistics.fmean(reply[-1] == task.tokenizer.eos_id for reply in replies.ids),
            "eval/unknown_words": statistics.fmean(task.gold.unknown_words(text) for text in replies.texts),
        }
    )


def test_an_evaluation_computes_no_kl_to_be_dropped(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It samples, and runs no forward pass over what it sampled; nor is a GPT made of the policy."""
    task = AlignmentTask(config_for(run))
    assert task.before.kl is None
    passes: list[Any] = []
    monkeypatch.setattr("sft.models.forward.LogProbs.forward", lambda *arguments: passes.append(arguments))
    monkeypatch.setattr("pretrain.model.GPT.__init__", lambda *arguments: passes.append(arguments))
    task.evaluate(AutoModelForCausalLM.from_pretrained(run / "sft"))
    assert not passes


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
