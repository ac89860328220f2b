"""RLOO and GRPO by TRL's trainers: that they are given, and that they write down, what PPO would."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.console import UserError
from data.dialogue import dialogue_pairs, encode_prompt
from data.run.record import read_stage
from data.tokenizers import bpe_tokenizer, character_tokenizer
from rlhf.algorithms import group_relative
from rlhf.algorithms.budget import sampled_tokens, token_budget
from rlhf.algorithms.config import GRPO_PRESETS, PRESETS, RLOO_PRESETS, AlignConfig, GroupConfig
from rlhf.algorithms.task import AlignmentTask
from rlhf.algorithms.trl_trainers import BudgetedReward, PromptTokenizer, TokenBudget, build_trainer, prompt_dataset
from rlhf.ppo.prompts import Prompt, PromptOrder
from rlhf.ppo.rewards.rules import Scorer, ScoreRules
from sft.models.forward import sequence_logprobs
from sft.models.loading import load_causal_lm

RULES = ScoreRules("subtract", 1.0, None)
ALPHABET = "aeb :\n'<|>endoftext.É港"
TEXT = "MASON:\nThe lantern <|endoftext|> is out; it's 12 o'clock.\n\nPILOT:\nÉtrange… says the 港 keeper.\n\n"


@pytest.fixture(scope="module", params=["modern", "gpt2"])
def room(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, run_maker: type[Any]) -> Any:
    """A run with rotary and one with learned positions; the reward is a function, so there is no reward model."""
    maker = run_maker(tmp_path_factory.mktemp(request.param), request.param)
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    return maker


def config_for(run: Path, algorithm: str, **changes: Any) -> GroupConfig:
    preset = (RLOO_PRESETS if algorithm == "rloo" else GRPO_PRESETS)["smoke"][1]
    settings: dict[str, Any] = {"reward": "gold", "token_budget": 1500, "eval_prompts": 8, "bf16": False} | changes
    return dataclasses.replace(preset, run=run, **settings)


def trainer_for(config: GroupConfig, folder: Path) -> tuple[AlignmentTask, Any]:
    task = AlignmentTask(config)
    budget = TokenBudget(config, config.token_budget or 0, task.device)
    return task, build_trainer(task, task.scorer(RULES), budget, folder)


# ---- tokens ----


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, Any, int]]:
    """(ours, TRL's, prompt_length) of two kinds and three lengths."""
    made: list[tuple[Any, Any, int]] = []
    for ours in (bpe_tokenizer(TEXT * 3, 300), character_tokenizer(TEXT + ALPHABET)):
        folder = tmp_path_factory.mktemp(ours.kind)
        ours.save(folder, 64)
        for length in (5, 24, 500):
            theirs = PromptTokenizer.from_pretrained(folder, model_max_length=length, truncation_side="left")
            made.append((ours, theirs, length))
    return made


@given(text=st.text(ALPHABET, max_size=60))
def test_trl_reads_the_ids_that_ppo_reads(tokenizers: list[tuple[Any, Any, int]], text: str) -> None:
    for ours, theirs, length in tokenizers:
        assert theirs(text=[TEXT + text])["input_ids"] == [encode_prompt(ours, TEXT + text, length)]


def test_prompts_come_in_ppos_order_as_text_and_as_ids(room: Any, tmp_path: Path) -> None:
    config = config_for(room.run, "rloo")
    run, trainer = trainer_for(config, tmp_path)
    rows = trainer.train_dataset
    texts = [pair.prompt for pair in dialogue_pairs(run.corpus.train)]
    assert sorted(rows["prompt"]) == sorted(texts)
    prompts = [Prompt(encode_prompt(run.tokenizer, text, 24)) for text in texts]
    assert rows["prompt_ids"][:] == [list(prompt) for prompt in PromptOrder(prompts, config.seed).take(len(prompts))]
    assert any(len(run.tokenizer.encode(text)) > 24 for text in texts), "none is cut: the test shows nothing"


def test_a_reward_function_reads_whole_prompts_though_the_policy_reads_their_end(room: Any, tmp_path: Path) -> None:
    """Best-of-n, RLOO and GRPO, whose prompts reach the scorer in two ways."""
    task, trainer = trainer_for(config_for(room.run, "rloo"), tmp_path)
    seen: list[str] = []

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        seen.extend(prompts)
        return [0.0] * len(prompts)

    task.reward = reward
    task.judge(task.heldout, RULES).score(task.sampler.sample(task.sft_model, draw=0))
    assert seen == task.heldout
    assert any(len(task.tokenizer.encode(text)) > 24 for text in seen), "none is cut: the test shows nothing"
    seen.clear()
    rows = trainer.train_dataset[:4]
    counted = BudgetedReward(task.scorer(RULES), trainer.budget)
    counted(rows["prompt"], ["a"] * 4, [[5]] * 4, rows["prompt_ids"])
    assert seen == rows["prompt"]


def test_another_tokenizer_is_refused(room: Any, tmp_path: Path) -> None:
    run = AlignmentTask(config_for(room.run, "rloo"))
    other = bpe_tokenizer(TEXT, 300)
    other.save(tmp_path / "other")
    with pytest.raises(UserError, match="other tokens than ours"):
        prompt_dataset(run, PromptTokenizer.from_pretrained(tmp_path / "other", model_max_length=24))


# ---- what is measured ----


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
@pytest.mark.parametrize("mini_batches", [1, 2])
def test_kl_and_log_probabilities_are_those_of_the_responses(
    room: Any, tmp_path: Path, algorithm: str, mini_batches: int
) -> None:
    """Row by row, without padding, by another path: learned positions must not count TRL's padding."""
    config = config_for(room.run, algorithm, num_mini_batches=mini_batches, temperature=0.8)
    run, trainer = trainer_for(config, tmp_path)
    with torch.no_grad():  # a policy that has moved
        for parameter in trainer.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    trainer.model.train()
    texts = [
        trainer.train_dataset["prompt"][place][cut:] for place, cut in enumerate((0, -9, -15, -20)) for _ in range(4)
    ]
    rows = [{"prompt": text, "prompt_ids": encode_prompt(run.tokenizer, text, 24)} for text in texts]
    batch = trainer._generate_and_score_completions(rows)
    responses = [
        ids[mask.bool()].tolist() for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    ]
    prompts = [row["prompt_ids"] for row in rows]
    assert [
        ids[mask.bool()].tolist() for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
    ] == prompts
    assert len({len(prompt) for prompt in prompts}) > 1, "no prompt is padded: the test shows nothing"
    trainer.model.save_pretrained(tmp_path / "moved")
    run.tokenizer.save(tmp_path / "moved", 64)
    moved = load_causal_lm(tmp_path / "moved")
    own, reference = (sequence_logprobs(lm, prompts, responses, 0.8).float() for lm in (moved, run.sft_model))
    if algorithm == "rloo":
        assert torch.allclose(batch["old_logps"], own, atol=2e-3)
    else:
        sums = (batch["ref_per_token_logps"] * batch["completion_mask"]).sum(1)
        assert torch.allclose(sums, reference, atol=2e-3)
    assert trainer.budget.rollout["objective/kl"] == pytest.approx((own - reference).mean().item(), abs=2e-3)
    assert trainer.budget.rollout["objective/kl"] > 0.05
    assert trainer.budget.tokens == sum(map(len, responses))


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_a_reward_function_reads_whole_prompts_without_autocast(
    room: Any, tmp_path: Path, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the labeller does, however few tokens of a prompt the policy sees."""
    read: list[tuple[str, bool]] = []

    def taste(prompt: str, response: str) -> float:
        read.append((prompt, torch.is_autocast_enabled("cpu")))
        return float(len(response))

    monkeypatch.setattr("rlhf.algorithms.task.load_score_function", lambda name: taste)
    task, trainer = trainer_for(config_for(room.run, algorithm, reward="own:taste", bf16=True), tmp_path)
    assert not any(autocast for _, autocast in read)
    read.clear()
    rows = [{name: trainer.train_dataset[name][i // 4] for name in ("prompt", "prompt_ids")} for i in range(16)]
    trainer.model.train()
    trainer._generate_and_score_completions(rows)
    assert [prompt for prompt, _ in read] == [row["prompt"] for row in rows]
    assert any(len(task.tokenizer.encode(row["prompt"])) > len(row["prompt_ids"]) for row in rows), "none was cut"
    assert not any(autocast for _, autocast in read)


def test_scores_follow_ppos_rules() -> None:
    """Clip first, then the rule for what never stops: hand-worked."""

    def reward(prompts: Any, responses: Any) -> torch.Tensor:
        assert all(isinstance(prompt, Prompt) for prompt in prompts)
        return torch.tensor([5.0, -5.0, 1.0])

    prompts, responses = [Prompt([1]), Prompt([2]), Prompt([3])], [[4, 9], [4, 4], [9]]
    scored = Scorer(reward, frozenset([9]), ScoreRules("subtract", 1.5, 2.0))(prompts, responses)
    assert scored.raw.tolist() == [5.0, -5.0, 1.0]
    assert scored.scores.tolist() == [2.0, -3.5, 1.0]
    assert scored.stopped.tolist() == [True, False, True]
    replaced = Scorer(reward, frozenset([9]), ScoreRules("replace", 1.5, None))(prompts, responses)
    assert replaced.scores.tolist() == [5.0, -1.5, 1.0]
    with pytest.raises(UserError, match="not a finite number"):
        Scorer(lambda p, r: torch.tensor([math.nan]), frozenset([9]), RULES)([Prompt([1])], [[9]])


# ---- the stage ----


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_stopped_and_resumed_is_never_stopped(
    room: Any, tmp_path: Path, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if room.shape.family == "gpt2":
        pytest.skip("one family is enough")
    config = config_for(room.run, algorithm, save_every=2, eval_every=2, num_iterations=2, learning_rate=1e-3)
    whole = group_relative.run_group_relative(dataclasses.replace(config, overwrite=True), "smoke")
    expected = (whole / "model.safetensors").read_bytes()
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) >= 4

    logged = group_relative.Watch.on_log

    def killed(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logged(self, args, state, control, **kwargs)
        if state.global_step == 3 * config.steps_per_rollout:
            raise KeyboardInterrupt

    monkeypatch.setattr(group_relative.Watch, "on_log", killed)
    with pytest.raises(KeyboardInterrupt):
        group_relative.run_group_relative(dataclasses.replace(config, overwrite=True), "smoke")
    monkeypatch.undo()
    folder = group_relative.run_group_relative(dataclasses.replace(config, overwrite=False, resume=True), "smoke")
    assert (folder / "model.safetensors").read_bytes() == expected
    again = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    timeless = [{k: v for k, v in line.items() if "time" not in k and k != "seconds"} for line in lines]
    assert [{k: v for k, v in line.items() if "time" not in k and k != "seconds"} for line in again] == timeless


def test_learning_rate_falls_with_the_budget() -> None:
    budget = TokenBudget(dataclasses.replace(RLOO_PRESETS["smoke"][1], lr_floor=0.1), 1000, torch.device("cpu"))
    assert budget.rate(0) == 1.0
    assert budget.rate(500) == pytest.approx(0.55)
    assert budget.rate(1000) == budget.rate(5000) == pytest.approx(0.1)


def test_a_loss_that_is_no_number_stops_the_run(room: Any) -> None:
    config = config_for(room.run, "grpo", learning_rate=1e30, overwrite=True, num_mini_batches=4)
    with pytest.raises(UserError, match="the loss is no longer a number at step 4: lower --learning-rate"):
        group_relative.run_group_relative(config, "smoke")


# ---- budget and settings ----


def test_tokens_that_ppo_sampled_are_counted_in_its_metrics(tmp_path: Path) -> None:
    lines = [
        {"episode": 16.0, "objective/response_length": 10.25},
        {"episode": 32.0, "objective/response_length": 7.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    assert sampled_tokens(tmp_path) == 16 * 10.25 + 16 * 7.5
    (tmp_path / "metrics.jsonl").write_text(json.dumps(lines[0] | {"sampled_tokens": 77}) + "\n", "utf-8")
    assert sampled_tokens(tmp_path) == 77


def test_the_budget_needs_ppo_or_a_number(room: Any) -> None:
    sft = read_stage(room.run / "sft")
    with pytest.raises(UserError, match=r"no .*rlhf whose budget.*--token-budget"):
        token_budget(config_for(room.run, "rloo", token_budget=None), sft)
    assert token_budget(config_for(room.run, "rloo", token_budget=5), sft) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_budget": 0}, "token_budget is 0"),
        ({"num_generations": 1}, "num_generations is 1"),
        ({"num_generations": 3}, "num_generations 3 does not divide batch_size 16"),
        ({"num_mini_batches": 3}, "num_mini_batches 3 does not divide batch_size 16"),
        ({"micro_batch_size": 3}, "not divisible by micro_batch_size 3"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0"),
        ({"num_iterations": 0}, "num_iterations is 0"),
        ({"kl_coef": 0.0}, "kl_coef is 0.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"lr_floor": 1.5}, "lr_floor is 1.5"),
        ({"eval_prompts": 0}, "eval_prompts is 0"),
    ],
)
def test_settings_that_make_no_sense(room: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        group_relative.run_group_relative(config_for(room.run, "rloo", **changes), "smoke")
    assert not (room.run / ".rlhf-rloo-gold.partial").exists()


def test_processes_that_cannot_share(room: Any) -> None:
    with pytest.raises(UserError, match="a step's batch of 8 is not divisible by 3 processes"):
        config_for(room.run, "rloo").check(3)


def test_presets_have_ppos_settings_where_nothing_else_is_said() -> None:
    for name, (_, ppo) in PRESETS.items():
        assert isinstance(ppo, AlignConfig)
        for presets, algorithm in ((RLOO_PRESETS, "rloo"), (GRPO_PRESETS, "grpo")):
            config = presets[name][1]
            config.check()
            assert config.algorithm == algorithm
            for setting in ("temperature", "missing_eos_rule", "missing_eos_penalty", "score_clip", "batch_size"):
                assert getattr(config, setting) == getattr(ppo, setting), (name, setting)
