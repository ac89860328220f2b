"""The stage: what it leaves, that it resumes, and that the rule is what it learns."""

import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from data.console import UserError
from data.corpus import load_corpus
from data.dialogue import heldout_pairs
from data.directions.headings import directions_of
from data.directions.specs import load_specs
from data.pastiche import pastiche
from data.run.folder import open_stage, run_corpus
from data.run.options import StageOptions
from data.run.record import read_metrics, read_stage
from data.tokenizers import Tokenizer, bpe_tokenizer
from pretrain.checkpoint import save_model
from pretrain.model import GPTConfig
from reward.following.config import PRESETS, FollowingConfig
from reward.following.rankings import follows
from reward.following.train import COMMAND, FollowingStage, train_following
from reward.model import RewardModel, new_reward_model
from reward.rankings import read_collected
from reward.training.trainer import RankingTrainer
from tests.tiny import learned

SPECS = load_specs("built-in")
TWO = (
    "from data.directions.table import SPECS\nMOODS = [spec for spec in SPECS if spec.text in ('asking', 'telling')]\n"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose SFT stage is a tiny model of the built-in directions. Read only."""
    run = tmp_path_factory.mktemp("base") / "run"
    run.mkdir()
    (run / "play.txt").write_text(pastiche(characters=60_000).text, "utf-8")
    corpus = load_corpus(str(run / "play.txt"))
    tokenizer = bpe_tokenizer(corpus.train, 400)
    torch.manual_seed(0)
    speeches = [[*tokenizer.encode(each), tokenizer.eos_id] for each in corpus.train.split("\n\n")]
    shape = GPTConfig(family="modern", vocab_size=400, context_length=64, width=32, layers=2, heads=2, feed_forward=64)
    model = learned(torch.tensor([token for speech in speeches for token in speech]), 60, shape)
    with open_stage("sft", StageOptions(run=run), preset="smoke", corpus=corpus) as folder:
        save_model(model, tokenizer, folder.path)
        tokenizer.save(folder.path, 64)
        folder.config = {"prompt_length": 32, "response_length": 24, "directions": "built-in"}
    return run


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "run"))


def config(run: Path, **changes: Any) -> FollowingConfig:
    settings = {"n_play": 24, "n_prompts": 12, "n_heldout": 12, "batch_size": 6, "save_every": 2, "log_every": 1}
    return replace(PRESETS["smoke"][1], run=run, **(settings | changes))


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(base, tmp_path_factory.mktemp("finished") / "run"))
    return train_following(config(run), "smoke")


def set_directions(run: Path, directions: str | None) -> None:
    path = run / "sft" / "stage.json"
    record = json.loads(path.read_text("utf-8"))
    del record["config"]["directions"]
    record["config"] |= {"directions": directions} if directions else {}
    path.write_text(json.dumps(record), "utf-8")


def test_the_stage_leaves_what_it_promises(finished: Path) -> None:
    record = read_stage(finished, "following")
    assert record.command == COMMAND.replace("PRESET", "smoke")
    assert record.config["directions"] == "built-in"
    assert record.parent == {"stage": "sft", "sha256": read_stage(finished.parent / "sft").weights_sha256}
    results = record.results
    assert 0 <= results["heldout_accuracy"] <= 1
    assert sum(kind["pairs"] for kind in results["by_kind"].values()) == results["heldout_pairs"] > 50
    for name in ("reward_mean", "reward_std", "follow_scale", "follow_bias", "log_loss", "followed"):
        assert math.isfinite(results[name]), name
    for name in ("loss.png", "samples.md", "pairs.jsonl", "tokenizer.json", "model.safetensors"):
        assert (finished / name).stat().st_size > 0, name
    assert [line["step"] for line in read_metrics(finished)] == [*range(1, math.ceil(results["rankings"] / 6) + 1)]
    assert not (finished / "resume").exists()


def test_the_rankings_are_the_rules_and_of_no_heldout_prompt(finished: Path) -> None:
    corpus = run_corpus(finished.parent, read_stage(finished, "following"))
    heldout = {pair.prompt.rpartition("\n\n")[0] for part in heldout_pairs(corpus.validation) for pair in part}
    training, judged = (read_collected(finished / f"{name}.jsonl") for name in ("rankings", "heldout"))
    assert {ranking.policy.split()[0] for ranking in training} == {"play", "sft"}
    assert {ranking.policy.split()[0] for ranking in judged} == {"play", "sft"}
    assert not {ranking.prompt.rpartition("\n\n")[0] for ranking in training} & heldout
    assert {ranking.prompt.rpartition("\n\n")[0] for ranking in judged} <= heldout
    for ranking in training + judged:
        asked = directions_of(ranking.prompt, SPECS)
        good = [follows(asked, text) for text in ranking.completions]
        assert ranking.ranking == [[i for i, each in enumerate(good) if each is side] for side in (True, False)]


def test_scores_are_normalised_on_sft_replies_and_their_probability_is_saved(finished: Path) -> None:
    stage = FollowingStage(config(finished.parent))
    samples = stage.sample(stage.asking(stage.dev, stage.config.seed + 1), stage.config.seed + 1)
    model = RewardModel.load(finished)
    scores = model.score([(r.prompt_ids, ids) for r in samples for ids in r.completion_ids])
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert scores.std().item() == pytest.approx(1.0, abs=1e-4)
    results, plain = read_stage(finished, "following").results, AutoConfig.from_pretrained(finished)
    assert (plain.follow_scale, plain.follow_bias) == (results["follow_scale"], results["follow_bias"])
    expected = torch.sigmoid(plain.follow_scale * scores + plain.follow_bias)
    torch.testing.assert_close(model.probability(scores), expected)
    # What the probabilities add up to is what follows.
    assert expected.mean().item() == pytest.approx(results["followed"], abs=0.03)


def test_a_model_of_craft_knows_no_such_probability(base: Path) -> None:
    model = RewardModel(new_reward_model(base / "sft", seed=1))
    with pytest.raises(UserError, match=r"no follow_scale.*python -m reward\.following"):
        model.probability(torch.zeros(2))


def test_every_beginning_of_a_reply_is_judged_by_the_rule(base: Path) -> None:
    stage = FollowingStage(config(base))
    prompt, text = "ANNE:\nHow now?\n\nBEN, asking, in one line:\n", "What? The sea?\nNo? Why?"
    ranking = stage.sample([stage.asking(stage.dev[:1], 1)[0]._replace(prompt=prompt)], 1)[0]
    ids = stage.tokenizer.encode(text)
    expected = []
    for end in range(1, len(ids) + 1):
        begun = stage.tokenizer.decode(ids[:end])
        expected.append(begun.rstrip().endswith("?") and "\nN" not in begun)
    assert stage.judge(ranking, ids) == expected
    assert any(expected)


def weights_of(folder: Path) -> str:
    return read_stage(folder, "following").weights_sha256


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """What was logged, but for how long it took."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read_metrics(folder)]


def test_a_killed_stage_continues_to_the_same_weights(
    run: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_loss, calls = RankingTrainer.compute_loss, []

    def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(RankingTrainer, "compute_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train_following(config(run), "smoke")
    monkeypatch.undo()
    assert not (run / "following").exists()
    with pytest.raises(UserError, match="holds an unfinished following: add --resume"):
        train_following(config(run), "smoke")
    monkeypatch.setattr("reward.train.collect_rankings", None)  # what was collected is not collected again
    monkeypatch.setattr("reward.following.train.play_rankings", None)
    folder = train_following(config(run, resume=True), "smoke")
    assert weights_of(folder) == weights_of(finished)
    assert metrics_of(folder) == metrics_of(finished)
    for name in ("rankings.jsonl", "heldout.jsonl"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()


def test_the_seed_decides_and_overwrite_replaces(run: Path, finished: Path) -> None:
    shutil.copytree(finished, run / "following")
    with pytest.raises(UserError, match="exists already"):
        train_following(config(run, seed=2), "smoke")
    assert weights_of(run / "following") == weights_of(finished)
    assert weights_of(train_following(config(run, seed=2, overwrite=True), "smoke")) != weights_of(finished)


@pytest.mark.parametrize("directions", ["none", None])
def test_a_run_without_directions_has_nothing_to_follow(run: Path, directions: str | None) -> None:
    set_directions(run, directions)
    with pytest.raises(UserError, match=r"nothing to follow: run `.*--directions built-in --overwrite`") as error:
        train_following(config(run), "smoke")
    assert "\n" not in str(error.value)
    assert [path.name for path in run.iterdir() if "following" in path.name] == []


def test_bad_configurations_are_one_line_and_leave_nothing(run: Path) -> None:
    for changes, message in (
        ({"batch_size": 4, "micro_batch_size": 3}, "not divisible by micro_batch_size 3"),
        ({"responses": 1}, "responses must be at least 2"),
        ({"of_play": 1}, "of_play must be at least 2"),
        ({"n_heldout": 2}, "n_heldout must be at least 8"),
        ({"n_play": 0}, "n_play must be at least 1"),
        ({"beginnings_coef": -1.0}, "beginnings_coef must not be negative"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"prompt_length": 50, "response_length": 15}, "exceed the model's context of 64"),
    ):
        with pytest.raises(UserError, match=message):
            train_following(config(run, **changes), "smoke")
        assert [path.name for path in run.iterdir() if "following" in path.name] == []


def test_what_the_rule_says_is_learned(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a model that knew nothing, of a table of two rows; and it says so of replies that it has not seen."""
    (run / "two_moods.py").write_text(TWO, "utf-8")
    monkeypatch.syspath_prepend(str(run))
    set_directions(run, "two_moods:MOODS")
    folder = train_following(
        config(run, n_play=500, n_prompts=0, batch_size=4, learning_rate=4e-3, n_heldout=40, save_every=1000), "smoke"
    )
    record = read_stage(folder, "following")
    assert record.config["directions"] == "two_moods:MOODS"
    assert set(record.results["by_kind"]) == {"mood"}
    assert record.results["heldout_accuracy"] > 0.9
    model, tokenizer = RewardModel.load(folder), Tokenizer.load(folder)
    rng = random.Random(3)
    sequences = []
    for mark in "?." * 40:
        words = "".join(rng.choice(["the sea ", "thy lantern ", "no man ", "we "]) for _ in range(rng.randint(1, 4)))
        sequences.append(
            (tokenizer.encode("ANNE:\nHow now?\n\nBEN, asking:\n"), tokenizer.encode(words.strip() + mark))
        )
    probability = model.probability(model.score([(p, [*r, tokenizer.eos_id]) for p, r in sequences]))
    assert probability[0::2].mean() > probability[1::2].mean() + 0.5


@pytest.mark.slow
def test_the_command(run: Path, refused: Callable[..., str]) -> None:
    set_directions(run, "none")
    assert "nothing to follow" in refused("reward.following", "smoke", "--run", run)
    assert "sft does not exist" in refused("reward.following", "smoke", "--run", run / "elsewhere")
