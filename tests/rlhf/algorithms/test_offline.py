"""What the algorithms share that make passes over examples: the steps, the looks, the saved state, what is left."""

import dataclasses
import json
import math
import random
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from trl import SFTConfig

from data.console import UserError
from data.run.folder import open_stage
from data.run.record import read_metrics, read_stage
from pretrain.fast.decoder import KVDecoder
from rlhf.algorithms import ALGORITHMS
from rlhf.algorithms.offline import HeldoutWatch, OfflineOptions, OfflineRun
from rlhf.algorithms.table import learning_path
from rlhf.algorithms.task import AlignmentTask
from sft.models.loading import load_causal_lm, quiet
from sft.models.sampling import sampler
from sft.pairs import Example, training_order
from sft.trainer import exact_trainer

EXAMPLES, STEPS = 18, 5
"""18 examples in steps of 4: the last one is short."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, run_maker: type[Any]) -> Path:
    maker = run_maker(tmp_path_factory.mktemp("offline"))
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    maker.reward_model()
    return Path(maker.run)


def config_for(run: Path, **changes: Any) -> OfflineOptions:
    often: dict[str, Any] = {"log_every": 1, "eval_every": 2, "save_every": 2, "overwrite": True}
    small: dict[str, Any] = {"batch_size": 4, "micro_batch_size": 2, "learning_rate": 0.01, "eval_prompts": 6}
    return OfflineOptions(run=run, algorithm="rloo", **often | small | changes)


def learn(config: OfflineOptions) -> Path:
    """An algorithm of a few lines: SFT on ids that were drawn by lot."""
    config.check()
    task, rng = AlignmentTask(config), random.Random(0)
    examples = [Example(list(prompt), rng.choices(range(300), k=8)) for prompt in task.prompts[:EXAMPLES]]
    with quiet(), open_stage(config.folder_name, config, preset="smoke", parent=task.sft) as stage:
        offline = OfflineRun(config, task, task.judge(task.heldout), stage, len(examples))
        ordered = [examples[i] for i in training_order([len(example.ids) for example in examples], config)]
        arguments = SFTConfig(**offline.arguments())
        trainer = exact_trainer(load_causal_lm(config.run / "sft"), arguments, ordered, config.run / "sft")
        offline.learn(trainer, {"loss": "nats"})
    return stage.final


@pytest.fixture(scope="module")
def learned(run: Path) -> Path:
    return learn(config_for(run, lr_floor=0.2, warmup_fraction=0.4))


def test_every_step_has_its_line_and_its_rate(learned: Path) -> None:
    lines = [line for line in read_metrics(learned) if "nats" in line]
    assert [line["step"] for line in lines] == [*range(1, STEPS + 1)]
    # Two steps of warm-up, then a line that would be at its floor after the last step.
    assert [line["learning_rate"] for line in lines] == pytest.approx(
        [0, 0.005, 0.01, 0.01 - 0.008 / 3, 0.01 - 0.016 / 3]
    )
    assert lines[-1]["nats"] < lines[0]["nats"]


def test_the_looks_are_at_the_policy_as_it_is(run: Path, learned: Path) -> None:
    looks = [line for line in read_metrics(learned) if "eval/gold" in line]
    assert [line["step"] for line in looks] == [0, 2, 4, 5]
    first, last = looks[0], looks[-1]
    assert first["eval/kl"] == 0
    assert first["eval/gold"] == first["eval/gold_before"] == last["eval/gold_before"]
    task = AlignmentTask(config_for(run))
    judge, lm = task.judge(task.heldout), load_causal_lm(learned)
    replies = judge.score(task.sampler.sample(lm, draw=0))
    assert [sample["response"] for sample in last["samples"]] == replies.texts[:4]
    assert [sample["score"] for sample in last["samples"]] == replies.reward[:4]
    assert last["eval/reward"] == pytest.approx(sum(replies.reward) / 6, abs=1e-5)
    assert last["eval/kl"] == pytest.approx(judge.kl(lm, replies), abs=1e-3)
    assert last["eval/kl"] > 0.1
    assert learning_path(learned) == {
        name: ([line["eval/kl"] for line in looks], [line[f"eval/{name}"] for line in looks])
        for name in ("reward", "gold")
    }


def test_it_leaves_what_every_algorithm_leaves(run: Path, learned: Path) -> None:
    names = {path.name for path in learned.iterdir()}
    assert names >= {"samples.md", "reward.png", "kl.png", "gold.png", "generation_config.json", "tokenizer.json"}
    assert "resume" not in names
    record, last = read_stage(learned), read_metrics(learned)[-2]
    assert record.tokenizer_sha256 == read_stage(run / "sft").tokenizer_sha256
    assert record.results["reward"] == last["eval/reward"]
    assert record.results["kl"] == last["eval/kl"]
    assert record.results["gold"] == last["eval/gold"]
    assert json.loads((learned / "config.json").read_text("utf-8"))["use_cache"]
    page = (learned / "samples.md").read_text("utf-8")
    assert [page.count(f"## Step {step}, score") for step in (0, 2, 4, 5)] == [1, 1, 1, 1]


def test_a_look_leaves_the_policy_in_training(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[bool] = []
    on_log = HeldoutWatch.on_log

    def watched(self: HeldoutWatch, *arguments: Any, **more: Any) -> None:
        modes.append(more["model"].training)
        on_log(self, *arguments, **more)

    monkeypatch.setattr(HeldoutWatch, "on_log", watched)
    learn(config_for(run, eval_every=1))
    assert modes[:STEPS] == [True] * STEPS


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_judged_is_float32(run: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """TRL wraps the policy in autocast; with it the sampler would neither be fast nor the model that is left."""
    seen: list[Any] = []
    monkeypatch.setattr(OfflineRun, "look", lambda self, lm, step, bar: seen.append(type(sampler(lm))))
    monkeypatch.setattr("rlhf.algorithms.offline.conclude", lambda *arguments, **more: None)
    learn(config_for(run, precision=precision))
    assert seen == [KVDecoder] * 4


def test_a_stopped_run_continues_to_the_same_weights(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = learn(config_for(run))
    weights, lines = (folder / "model.safetensors").read_bytes(), read_metrics(folder)
    look = OfflineRun.look

    def killed(self: OfflineRun, lm: Any, step: int, bar: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt
        look(self, lm, step, bar)

    with monkeypatch.context() as patched:
        patched.setattr(OfflineRun, "look", killed)
        with pytest.raises(KeyboardInterrupt):
            learn(config_for(run))
    torch.manual_seed(99)
    resumed = learn(config_for(run, resume=True, overwrite=False))
    assert (resumed / "model.safetensors").read_bytes() == weights
    assert [line | {"seconds": 0} for line in read_metrics(resumed)] == [line | {"seconds": 0} for line in lines]


def test_a_loss_that_is_no_number_is_one_line(run: Path) -> None:
    with pytest.raises(UserError, match=r"the loss is no longer a number at step \d: lower --learning-rate"):
        learn(config_for(run, learning_rate=1e30))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, but is 0"),
        ({"micro_batch_size": 3}, "batch of 4 is not divisible by micro_batch_size 3"),
        ({"epochs": 0}, "epochs must be at least 1, but is 0"),
        ({"eval_every": 0}, "eval_every must be at least 1, but is 0"),
        ({"learning_rate": math.nan}, "learning_rate must be positive, but is nan"),
        ({"lr_floor": 1.0}, r"lr_floor must be in \[0, 1\), but is 1.0"),
        ({"warmup_fraction": -0.1}, r"warmup_fraction must be in \[0, 1\), but is -0.1"),
    ],
)
def test_bad_settings_are_refused(run: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_for(run, **changes).check()


def test_every_row_has_settings_that_name_it() -> None:
    """A preset of an algorithm is one of that algorithm, whatever file it is in."""
    for name, algorithm in ALGORITHMS.items():
        presets = resolve_name(algorithm.presets)
        assert set(presets) == {"smoke", "laptop", "gpu"}
        assert {config.algorithm for _, config in presets.values()} == {name}
        assert callable(resolve_name(algorithm.run))
        assert all(dataclasses.is_dataclass(config) for _, config in presets.values())
