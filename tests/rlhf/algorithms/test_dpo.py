"""DPO by TRL's trainer: the pairs and the ids that it is given, its loss, what it leaves and what it refuses."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM

from data.console import UserError
from data.dialogue import dialogue_pairs, encode_prompt
from data.run.folder import run_corpus
from data.run.record import read_metrics, read_stage
from data.tokenizers import Tokenizer
from reward.rankings import Ranking, write_rankings
from rlhf.algorithms.dpo import PRESETS, Preference, PreferenceConfig, build_trainer, prefer, read_preferences
from rlhf.algorithms.offline import OfflineRun
from sft.models.forward import sequence_logprobs
from sft.models.loading import load_causal_lm

RESPONSES = (("the lantern", True), ("and the", False), ("brings the harbour", True), ("the winter", False))
"""Two of them did not stop. Their ids are letters, of which nobody who reads the text would make tokens."""


def ids_of(tokenizer: Tokenizer) -> list[list[int]]:
    spelled = [[token for letter in text for token in tokenizer.encode(letter)] for text, _ in RESPONSES]
    return [[*ids, tokenizer.eos_id] if stopped else ids for ids, (_, stopped) in zip(spelled, RESPONSES, strict=True)]


def ranking_of(tokenizer: Tokenizer, prompt: str, order: list[list[int]]) -> Ranking:
    ids = ids_of(tokenizer)
    return Ranking(
        prompt=prompt,
        completions=[tokenizer.decode(each) for each in ids],
        stopped=[stopped for _, stopped in RESPONSES],
        ranking=order,
        annotator="gold",
        policy="sft",
        seed=1,
        prompt_ids=encode_prompt(tokenizer, prompt, 24),
        completion_ids=ids,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, run_maker: type[Any]) -> Path:
    """A run with rankings of twenty prompts, every fifth of nothing but ties."""
    maker = run_maker(tmp_path_factory.mktemp("dpo"))
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    maker.reward_model()
    prompts = [pair.prompt for pair in dialogue_pairs(run_corpus(maker.run, read_stage(maker.run / "sft")).train)]
    orders = [[[0, 1, 2, 3]] if number % 5 == 0 else [[2], [0, 1], [3]] for number in range(20)]
    rankings = [ranking_of(maker.tokenizer, *each) for each in zip(prompts, orders, strict=False)]
    write_rankings(maker.run / "reward" / "rankings.jsonl", rankings)
    return Path(maker.run)


def config_for(run: Path, **changes: Any) -> PreferenceConfig:
    settings = {"run": run, "max_pairs": None, "eval_prompts": 6, "precision": "fp32", "overwrite": True}
    config = dataclasses.replace(PRESETS["smoke"][1], **settings | changes)
    config.inherit(read_stage(run / "sft"))
    return config


def trainer_for(config: PreferenceConfig, folder: Path) -> Any:
    pairs = read_preferences(config.run / "reward" / "rankings.jsonl", config.max_pairs, config.seed).pairs
    arguments = {"output_dir": str(folder), "per_device_train_batch_size": 8, "use_cpu": True, "bf16": False}
    arguments |= {"train_sampling_strategy": "sequential", "max_length": None, "report_to": "none"}
    return build_trainer(config, pairs, torch.device("cpu"), arguments | {"gradient_checkpointing": False})


# ---- what is learned from ----


def test_the_pairs_are_those_of_the_rankings(run: Path) -> None:
    """2 before 0 and 1, all before 3; 0 and 1 are tied, and so is everything in every fifth ranking."""
    found = read_preferences(run / "reward" / "rankings.jsonl", None, 1)
    assert (len(found.pairs), found.rankings) == (16 * 5, 16)
    ids = ids_of(Tokenizer.load(run / "sft"))
    expected = [(ids[a], ids[b]) for a, b in ((2, 0), (2, 1), (2, 3), (0, 3), (1, 3))]
    for start in range(0, 80, 5):
        pairs = found.pairs[start : start + 5]
        assert sorted((pair.chosen_ids, pair.rejected_ids) for pair in pairs) == sorted(expected)
        assert all(pair.prompt_ids == pairs[0].prompt_ids for pair in pairs)
    assert found.tokens == 16 * sum(map(len, ids)), "each response counts once, in however many pairs it is"


def test_fewer_pairs_are_drawn_by_lot(run: Path) -> None:
    path = run / "reward" / "rankings.jsonl"
    everything, some = read_preferences(path, None, 1), read_preferences(path, 7, 1)
    assert len(some.pairs) == 7
    assert all(pair in everything.pairs for pair in some.pairs)
    assert some == read_preferences(path, 7, 1) != read_preferences(path, 7, 2)
    assert some.tokens < everything.tokens
    assert read_preferences(path, 80, 1) == read_preferences(path, 1000, 1) == everything


def test_trl_gets_the_ids_that_were_sampled_and_puts_no_end_on_them(run: Path, tmp_path: Path) -> None:
    config = config_for(run)
    tokenizer, trainer = Tokenizer.load(run / "sft"), trainer_for(config, tmp_path)
    assert isinstance(trainer._get_train_sampler(trainer.train_dataset), SequentialSampler)
    taken: list[Preference] = []
    for batch in trainer.get_train_dataloader():
        rows = []
        for ids, mask, answered in zip(
            batch["input_ids"], batch["attention_mask"].bool(), batch["completion_mask"].bool(), strict=True
        ):
            rows.append((ids[mask & ~answered].tolist(), ids[mask & answered].tolist()))
        half = len(rows) // 2
        for (prompt, chosen), (again, rejected) in zip(rows[:half], rows[half:], strict=True):
            assert prompt == again
            taken.append(Preference(prompt, chosen, rejected))
    expected = read_preferences(run / "reward" / "rankings.jsonl", None, config.seed).pairs
    assert sorted(taken) == sorted(expected)
    ids, eos = ids_of(tokenizer), tokenizer.eos_id
    for (text, stopped), sampled in zip(RESPONSES, ids, strict=True):
        assert sampled.count(eos) == stopped
        assert tokenizer.encode(text) not in (sampled, sampled[:-1]), "read as text it would be other tokens"
    answers = {tuple(answer) for pair in taken for answer in (pair.chosen_ids, pair.rejected_ids)}
    assert answers == {tuple(sampled) for sampled in ids}


def test_the_loss_is_dpos(run: Path, tmp_path: Path) -> None:
    """−log σ(β · (gain of the chosen − gain of the rejected)), gains in log-probability over the SFT model."""
    config = config_for(run, beta=0.3)
    trainer = trainer_for(config, tmp_path)
    reference = load_causal_lm(run / "sft")
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(0.693147, abs=1e-5)
    with torch.no_grad():
        for number, parameter in enumerate(trainer.model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(0.05 * noise)
    policy = load_causal_lm(run / "sft")
    policy.load_state_dict(trainer.model.state_dict())
    rows = trainer.train_dataset[:8]

    def gain(column: str) -> torch.Tensor:
        own, sft = (sequence_logprobs(lm, rows["prompt_ids"], rows[column]) for lm in (policy, reference))
        return own - sft

    expected = -F.logsigmoid(0.3 * (gain("chosen_ids") - gain("rejected_ids"))).mean()
    assert abs(expected.item() - 0.693147) > 0.01
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), abs=1e-4)


# ---- the stage ----


def test_it_learns_what_the_rankings_say(run: Path) -> None:
    folder = prefer(config_for(run, learning_rate=0.003, epochs=3), "smoke")
    steps = [line for line in read_metrics(folder) if "loss" in line]
    assert [line["step"] for line in steps] == [*range(1, 16)]
    assert steps[0]["loss"] == pytest.approx(0.69315, abs=1e-4)
    assert steps[0]["margin"] == 0
    assert steps[-1]["loss"] < 0.5
    assert steps[-1]["accuracy"] > 0.9
    pairs = read_preferences(run / "reward" / "rankings.jsonl", None, 1).pairs
    prompts = [pair.prompt_ids for pair in pairs]
    margins = []
    for where in (run / "sft", folder):
        lm = load_causal_lm(where)
        chosen = sequence_logprobs(lm, prompts, [pair.chosen_ids for pair in pairs])
        margins.append((chosen - sequence_logprobs(lm, prompts, [pair.rejected_ids for pair in pairs])).mean().item())
    assert margins[1] > margins[0] + 5


def test_a_stopped_run_continues_to_the_same_weights(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = (prefer(config_for(run), "smoke") / "model.safetensors").read_bytes()
    look = OfflineRun.look

    def killed(self: OfflineRun, lm: Any, step: int, bar: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt
        look(self, lm, step, bar)

    with monkeypatch.context() as patched:
        patched.setattr(OfflineRun, "look", killed)
        with pytest.raises(KeyboardInterrupt):
            prefer(config_for(run), "smoke")
    torch.manual_seed(99)
    resumed = prefer(config_for(run, resume=True, overwrite=False), "smoke")
    assert (resumed / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_its_row_counts_the_tokens_of_the_rankings(run: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    """By the commands, in a run of nothing else."""
    mine = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("*rlhf*"))
    done = command("rlhf", "smoke", "--algorithm", "dpo", "--run", mine, "--eval-prompts", "4")
    assert "64 pairs of 16 rankings" in done.stderr
    assert "Warning" not in done.stderr + done.stdout
    record = read_stage(mine / "rlhf-dpo")
    assert record.command == "python -m rlhf smoke --algorithm dpo"
    learned = read_preferences(mine / "reward" / "rankings.jsonl", 64, record.seed)
    assert record.results["learning_tokens"] == learned.tokens
    AutoModelForCausalLM.from_pretrained(mine / "rlhf-dpo")
    command("rlhf.algorithms", "--run", mine, "--prompts", "4")
    rows = json.loads((mine / "algorithms" / "algorithms.json").read_text("utf-8"))["algorithms"]
    assert list(rows) == ["SFT", "DPO"]
    assert rows["DPO"]["learning_tokens"] == record.results["learning_tokens"]
    assert "DPO: those of the rankings" in (mine / "algorithms" / "table.md").read_text("utf-8")


def test_what_cannot_be_learned_from_is_one_line(run: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    mine = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("*rlhf*"))
    path = mine / "reward" / "rankings.jsonl"

    def said(**changes: Any) -> str:
        with pytest.raises(UserError) as error:
            prefer(config_for(mine, **changes), "smoke")
        return str(error.value)

    assert "takes no --reward: leave it out" in said(reward="gold")
    assert "takes no --prompts: leave it out" in said(prompts=path)
    tied = [ranking_of(Tokenizer.load(run / "sft"), f"MASON {n}:\n", [[0, 1, 2, 3]]) for n in range(3)]
    write_rankings(path, tied)
    assert "every response is tied with every other" in said()
    path.unlink()
    assert "rankings.jsonl: cannot be read" in said()
    shutil.rmtree(mine / "reward")
    asked = refused("rlhf", "smoke", "--algorithm", "dpo", "--run", mine)
    assert "reward does not exist: run `python -m reward PRESET" in asked
    assert {each.name for each in mine.iterdir()} == {"pretrain", "sft", "corpus.txt"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"beta": 0.0}, "beta must be positive"), ({"max_pairs": 0}, "max_pairs must be at least 1")],
)
def test_bad_settings_are_refused(run: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prefer(config_for(run, **changes), "smoke")
