"""A stage's README.md is a model card whose example gives what the project's own code gives."""

from pathlib import Path

import pytest

from data.run.card import parameters
from pretrain.checkpoint import load_model
from reward.model import REWARD_CARD, RewardModel
from rlhf.algorithms.learning import CARD
from tests.cards import check_card, run_snippets
from tests.tiny import RunMaker


def test_a_card_is_read_by_the_hubs_library_and_its_example_runs_in_plain_transformers(tmp_path: Path) -> None:
    maker = RunMaker(tmp_path)
    maker.cards = {"rlhf": CARD, "reward": REWARD_CARD}
    maker.language_model("pretrain", None, seed=0)
    maker.language_model("sft", "pretrain", seed=1)
    maker.language_model("rlhf", "sft", seed=2)
    maker.reward_model()
    written, score = run_snippets([maker.run / "rlhf", maker.run / "reward"])
    assert written.strip()
    encode = maker.tokenizer.encode
    ids = encode("PAGE:\nGood morrow, cousin.\n\nROMEO:\n"), [*encode("Good morrow to you."), maker.tokenizer.eos_id]
    ours = RewardModel.load(maker.run / "reward").score([ids]).item()
    assert float(score) == pytest.approx(ours, abs=1e-4)
    text = check_card(maker.run / "rlhf")
    assert f"{parameters(maker.run / 'rlhf'):,} parameters" in text
    assert parameters(maker.run / "rlhf") == load_model(maker.run / "rlhf").parameter_count()
    assert "`play.txt`" in text, "the name of a user's text, and not where it lies"
    assert not (maker.run / "sft" / "README.md").exists(), "a stage that says nothing of its model has no card"
