"""Rejection sampling: what is sampled, what is chosen, and that just this is learned."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from data.console import UserError
from data.run.record import read_metrics, read_stage
from rlhf.algorithms import rejection
from rlhf.algorithms.offline import OfflineRun
from rlhf.algorithms.rejection import PRESETS, Chosen, RejectionConfig, choose, fine_tune_on_the_best
from rlhf.algorithms.task import AlignmentTask, rules_of
from rlhf.ppo.prompts import PromptOrder
from sft.models.forward import sequence_logprobs
from sft.models.loading import load_causal_lm
from sft.pairs import IGNORED


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, run_maker: type[Any]) -> Path:
    maker = run_maker(tmp_path_factory.mktemp("rejection"))
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    maker.reward_model()
    return Path(maker.run)


def config_for(run: Path, **changes: Any) -> RejectionConfig:
    settings: dict[str, Any] = {
        "run": run,
        "n": 3,
        "token_budget": 1500,
        "eval_prompts": 6,
        "precision": "fp32",
        "overwrite": True,
    }
    return dataclasses.replace(PRESETS["smoke"][1], **settings | changes)


def rows_of(folder: Path) -> list[Chosen]:
    return [Chosen(**json.loads(line)) for line in (folder / "chosen.jsonl").read_text("utf-8").splitlines()]


# ---- what is chosen ----


def test_the_best_of_every_group_is_chosen_within_the_budget(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(run)
    task = AlignmentTask(config)
    scorer, scored = task.scorer(rules_of(config)), list[tuple[list[int], list[int], float]]()

    def watched(prompts: Any, responses: Any) -> Any:
        found = scorer(prompts, responses)
        scored.extend(zip(map(list, prompts), responses, found.scores.tolist(), strict=True))
        return found

    chosen = choose(task, watched, config, 1500)  # type: ignore[arg-type]
    groups = [scored[start : start + 3] for start in range(0, len(scored), 3)]
    assert len(groups) == len(chosen) > 5
    for group, best in zip(groups, chosen, strict=True):
        prompts, responses, scores = zip(*group, strict=True)
        assert best.prompt_ids == prompts[0] == prompts[1] == prompts[2]
        assert best.score == max(scores)
        assert best.response_ids == responses[scores.index(max(scores))], "the sampled ids"
        assert best.mean_score == pytest.approx(fmean(scores))
        assert best.sampled_tokens == sum(map(len, responses))
        assert best.response == task.tokenizer.decode(best.response_ids)
    assert sum(len(response) for _, response, _ in scored) == sum(each.sampled_tokens for each in chosen)
    assert 1500 - 3 * 32 < sum(each.sampled_tokens for each in chosen) <= 1500, "three more might not have fitted"
    first = PromptOrder(task.prompts, config.seed).take(len(chosen))
    assert [each.prompt for each in chosen] == [prompt.text for prompt in first], "PPO's order"
    assert choose(task, scorer, config, 1500) == chosen
    assert len({tuple(response) for _, response, _ in scored}) > len(scored) // 2, "all draws are independent"


def test_a_reward_function_reads_whole_prompts(run: Path) -> None:
    config = config_for(run, reward="gold")
    task = AlignmentTask(config)
    seen: list[str] = []

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        seen.extend(prompts)
        return [float(len(response)) for response in responses]

    task.reward = reward
    chosen = choose(task, task.scorer(rules_of(config)), config, 1500)
    assert seen == [each.prompt for each in chosen for _ in range(3)]
    assert any(len(task.tokenizer.encode(prompt)) > 24 for prompt in seen), "none is cut: the test shows nothing"


def test_a_response_that_did_not_stop_loses_as_the_rule_says(run: Path) -> None:
    task = AlignmentTask(config_for(run))
    eos, shares = task.tokenizer.eos_id, []
    for penalty in (0.0, 1000.0):
        config = config_for(run, missing_eos_penalty=penalty, token_budget=6000)
        chosen = choose(task, task.scorer(rules_of(config)), config, 6000)
        shares.append(fmean(each.response_ids[-1] == eos for each in chosen))
    assert shares[0] < 1
    assert shares[1] > shares[0]


# ---- what is learned ----


def test_what_is_learned_is_what_was_chosen_to_the_token(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No response gets an end that it had not: the reward here likes those that run on."""
    trainers: list[Any] = []
    made = rejection.exact_trainer

    def watched(*arguments: Any) -> Any:
        trainers.append(made(*arguments))
        return trainers[-1]

    monkeypatch.setattr(rejection, "exact_trainer", watched)
    folder = fine_tune_on_the_best(config_for(run, missing_eos_penalty=-1000.0, epochs=1), "smoke")
    chosen, taken = rows_of(folder), trainers[0].train_dataset
    eos = AlignmentTask(config_for(run)).tokenizer.eos_id
    running = [each for each in chosen if each.response_ids[-1] != eos]
    assert running
    expected = sorted(each.prompt_ids + each.response_ids for each in chosen)
    assert sorted(taken["input_ids"]) == expected
    labels = sorted([IGNORED] * len(each.prompt_ids) + each.response_ids for each in chosen)
    assert sorted(taken["labels"]) == labels
    batches = [batch["labels"] for batch in trainers[0].get_train_dataloader()]
    ends = sum(int((batch == eos).sum()) for batch in batches)
    assert ends == len(chosen) - len(running)


def test_it_learns_to_write_what_the_reward_likes(run: Path) -> None:
    folder = fine_tune_on_the_best(config_for(run, learning_rate=0.003, epochs=4), "smoke")
    record, chosen = read_stage(folder), rows_of(folder)
    losses = [line["loss"] for line in read_metrics(folder) if "loss" in line]
    assert fmean(losses[-3:]) < fmean(losses[:3])
    assert record.results["learning_tokens"] == sum(each.sampled_tokens for each in chosen)
    assert record.results["chosen_score"] == pytest.approx(fmean(each.score for each in chosen), abs=1e-4)
    assert record.results["chosen_score"] > record.results["sampled_score"]
    prompts, responses = ([getattr(each, name) for each in chosen] for name in ("prompt_ids", "response_ids"))
    before, after = (sequence_logprobs(load_causal_lm(run_), prompts, responses) for run_ in (run / "sft", folder))
    assert (after - before).mean() > 1


def test_a_stopped_run_continues_to_the_same_weights(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fine_tune_on_the_best(config_for(run), "smoke")
    weights, rows = (whole / "model.safetensors").read_bytes(), rows_of(whole)
    look = OfflineRun.look

    def killed(self: OfflineRun, lm: Any, step: int, bar: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt
        look(self, lm, step, bar)

    with monkeypatch.context() as patched:
        patched.setattr(OfflineRun, "look", killed)
        with pytest.raises(KeyboardInterrupt):
            fine_tune_on_the_best(config_for(run), "smoke")
    torch.manual_seed(99)
    monkeypatch.setattr(rejection, "choose", None)  # what was chosen is not sampled again
    resumed = fine_tune_on_the_best(config_for(run, resume=True, overwrite=False), "smoke")
    assert (resumed / "model.safetensors").read_bytes() == weights
    assert rows_of(resumed) == rows


@pytest.mark.slow
def test_its_row_counts_what_it_sampled(run: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    """By the commands, with the gold judge as the reward, whose scores are in units of the SFT model's replies."""
    mine = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("*rlhf*"))
    asked = ("--run", mine, "--eval-prompts", "4", "--token-budget", "600", "--reward", "gold")
    done = command("rlhf", "smoke", "--algorithm", "rejection", *asked)
    assert "600 sampled tokens, 2 responses per prompt" in done.stderr
    assert "Warning" not in done.stderr + done.stdout
    record = read_stage(mine / "rlhf-rejection-gold")
    assert record.command == "python -m rlhf smoke --algorithm rejection --reward gold"
    assert 600 - 2 * 32 < record.results["learning_tokens"] <= 600
    AutoModelForCausalLM.from_pretrained(mine / "rlhf-rejection-gold")
    command("rlhf.algorithms", "--run", mine, "--prompts", "4", "--gold")
    rows = json.loads((mine / "algorithms-gold" / "algorithms.json").read_text("utf-8"))["algorithms"]
    assert list(rows) == ["SFT", "rejection"]
    assert rows["rejection"]["learning_tokens"] == record.results["learning_tokens"]


def test_bad_settings_leave_nothing_behind(run: Path) -> None:
    for changes, message in (
        ({"n": 1}, "n must be at least 2"),
        ({"token_budget": 95}, "95 tokens do not last for 3 responses of 32: lower n or give a higher --token-budget"),
        ({"token_budget": None}, "no .*rlhf whose budget"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"reward": "nowhere:nothing"}, "no module 'nowhere'"),
    ):
        with pytest.raises(UserError, match=message):
            fine_tune_on_the_best(config_for(run, **changes), "smoke")
        assert not (run / ".rlhf-rejection.partial").exists(), message
