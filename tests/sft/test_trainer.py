"""The second loss of fine-tuning: what is judged, by how much, and that a direction is read by it."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from data.directions.drawing import Directions
from data.directions.specs import load_specs
from data.run.folder import open_stage
from sft.config import PRESETS, FineTuneConfig
from sft.directions import twin
from sft.pairs import IGNORED, Example
from sft.train import FineTuning, fine_tune
from sft.trainer import PairCollator, as_dataset, judgement_weights

SPECS = load_specs("built-in")
SAID = ("What, is the harbour shut?", "I love thee, Anne,\nand so good night.", "O, hear me! I am come again!", "No.")


def config(run: Path, **changes: object) -> FineTuneConfig:
    few = {"max_pairs": 8, "batch_size": 8, "micro_batch_size": 4, "log_every": 1, "precision": "fp32", "samples": 8}
    return replace(PRESETS["smoke"][1], run=run, **(few | changes))  # type: ignore[arg-type]


def test_a_batch_holds_each_pair_and_its_twin() -> None:
    examples = [Example([5, 6, 7], [8, 1], twin=[5, 9]), Example([5], [8, 3, 1])]
    batch = PairCollator(pad_id=0)([*as_dataset(examples)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 1], [5, 9, 8, 1, 0], [5, 8, 3, 1, 0]]
    assert batch["prompt_lengths"].tolist() == [3, 2, 1]
    assert batch["lengths"].tolist() == [5, 4, 4]
    x = IGNORED
    assert batch["labels"].tolist() == [[x, x, x, 8, 1], [x] * 5, [x, 8, 3, 1, x]]
    assert batch["follows"].tolist() == [1, 0, -1]


def test_a_judgement_weighs_its_share_and_one_more_at_the_end() -> None:
    weights = judgement_weights(torch.tensor([4, 1, 2]))
    assert weights.tolist() == [0.25, 0.25, 1.25, 1.25, 2.0, 1.5, 1.5]


def test_the_first_loss_is_that_of_the_completions_and_three_quarters_per_judged_reply(run: Path) -> None:
    """The head starts at zero: every estimate is ½ off, of weights with the sum 3. Two micro batches, one step."""
    fine_tuning = FineTuning(config(run, following_coef=2.0))
    with pytest.raises(KeyboardInterrupt), open_stage("sft", fine_tuning.config, preset="smoke") as stage:
        raise KeyboardInterrupt
    trainer = fine_tuning.trainer(stage)
    examples = fine_tuning.epochs[0]
    assert any(example.twin for example in examples)
    nats = []
    with torch.no_grad():
        for example in examples:
            logits = fine_tuning.model(torch.tensor([example.ids])).logits[0, len(example.prompt) - 1 : -1].float()
            nats.append(F.cross_entropy(logits, torch.tensor(example.completion), reduction="none"))
    trainer.train()
    (first,) = [line for line in trainer.state.log_history if line.get("step") == 1 and "loss" in line]
    assert first["following_loss"] == pytest.approx(0.75, abs=1e-6)
    assert first["loss"] == pytest.approx(torch.cat(nats).mean().item() + 2 * 0.75, abs=2e-5)


def test_it_is_learned_and_its_head_is_not_kept(run: Path) -> None:
    folder = fine_tune(config(run, max_pairs=64, epochs=12, following_coef=4.0), "smoke")
    lines = [line for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines() if "following_loss" in line]
    first, last = (float(line.split('"following_loss": ')[1].split(",")[0]) for line in (lines[0], lines[-1]))
    assert last < 0.85 * first
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert not [name for name in weights.keys() if "follows" in name]  # noqa: SIM118


@pytest.mark.parametrize("seed", range(40))
def test_a_twin_asks_for_something_else_of_the_kind_that_the_reply_does_not_do(seed: int) -> None:
    rng, reply = random.Random(seed), SAID[seed % 4]
    table = Directions(SPECS, SAID)
    chosen = table.hindsight(reply, rng)
    if (other := twin(chosen, reply, table, rng)) is None:
        return
    changed = [(own, new) for own, new in zip(chosen, other, strict=True) if own != new]
    assert len(changed) == 1
    ((own, new),) = changed
    assert own.kind == new.kind
    assert own.followed(reply)
    assert not new.followed(reply)
    assert table.may_be_learned(other)


def test_without_a_direction_there_is_no_twin() -> None:
    assert twin((), "No.", Directions(SPECS, SAID), random.Random(1)) is None
