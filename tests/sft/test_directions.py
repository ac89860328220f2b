"""Directions in fine-tuning: what a pair is told, in every epoch anew, and how often replies do as told."""

import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data.console import UserError
from data.dialogue import Pair
from data.directions.drawing import Directions
from data.directions.headings import directions_of, split_prompt
from data.directions.specs import Direction, load_specs
from data.directions.table import HELD_OUT_COMBINATIONS
from data.run.record import StageRecord, read_stage
from data.tokenizers import Tokenizer, bpe_tokenizer
from sft.config import PRESETS, FineTuneConfig
from sft.directions import (
    Request,
    draw_requests,
    hindsight_epochs,
    run_directions,
    share_followed,
    usable_directions,
)
from sft.pairs import encode_pairs, order_of_epochs, training_order
from sft.train import FineTuning, fine_tune

SPECS = load_specs("built-in")
SAID = ("What, is the harbour shut?", "I love thee, Anne,\nand so good night.", "O, hear me! I am come again!", "No.")
PAIRS = [Pair(f"ANNE:\nHow now {n}?\n\nBEN:\n", SAID[n % 4]) for n in range(400)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return bpe_tokenizer("\n\n".join(prompt + reply for prompt, reply in PAIRS), 340)


def few(run: Path, **changes: object) -> FineTuneConfig:
    settings = {"max_pairs": 48, "batch_size": 8, "micro_batch_size": 4, "samples": 24, "epochs": 2}
    return replace(PRESETS["smoke"][1], run=run, **(settings | changes))  # type: ignore[arg-type]


def test_a_pair_is_told_what_its_reply_follows_and_something_else_every_epoch(tokenizer: Tokenizer) -> None:
    config = FineTuneConfig(prompt_length=200, response_length=64, min_words=0, epochs=3)
    train = encode_pairs(PAIRS, tokenizer, config)
    epochs = hindsight_epochs(train, usable_directions(SPECS, PAIRS), tokenizer, config)
    assert [len(epoch) for epoch in epochs] == [400] * 3
    told: list[Counter[int]] = []
    for epoch in epochs:
        counts: Counter[int] = Counter()
        for example, undirected, pair in zip(epoch, train.examples, PAIRS, strict=True):
            prompt = tokenizer.decode(example.prompt)
            directions = directions_of(prompt, SPECS)
            assert all(each.followed(pair.completion) for each in directions)
            assert len({each.kind for each in directions}) == len(directions)
            assert all(each.spec.trained and each.value not in each.spec.held_out for each in directions)
            assert not any(combination <= set(map(str, directions)) for combination in HELD_OUT_COMBINATIONS)
            before, heading = split_prompt(prompt, SPECS)
            assert heading is not None
            assert f"{before}{heading.speaker}:\n" == pair.prompt
            assert example.completion == undirected.completion
            counts[len(directions)] += 1
        told.append(counts)
        assert counts[0] == pytest.approx(40, abs=5 * 6)
        assert counts[1] > counts[2] > counts[3] > 4
    prompts = [[tuple(example.prompt) for example in epoch] for epoch in epochs]
    assert sum(len({epoch[n] for epoch in prompts}) > 1 for n in range(400)) > 300
    again = hindsight_epochs(train, usable_directions(SPECS, PAIRS), tokenizer, config)
    assert again == epochs
    other = hindsight_epochs(train, usable_directions(SPECS, PAIRS), tokenizer, replace(config, seed=2))
    assert other != epochs


def test_what_is_inferred_is_what_is_learned_and_not_what_was_cut_off(tokenizer: Tokenizer) -> None:
    whole = "No. I hear thee, Anne, and I am come again " + "and again " * 40 + "to ask: is it so?"
    pairs = [Pair("ANNE:\nHow?\n\nBEN:\n", whole)] * 60
    config = FineTuneConfig(prompt_length=200, response_length=24, min_words=2)
    train = encode_pairs(pairs, tokenizer, config)
    assert {pair.completion for pair in train.pairs} == {"No."}
    (epoch,) = hindsight_epochs(train, Directions(SPECS, SAID), tokenizer, config)
    told = {str(each) for example in epoch for each in directions_of(tokenizer.decode(example.prompt), SPECS)}
    assert told == {"telling", "in one line", "beginning with No"}


def test_without_a_heading_or_a_table_nothing_is_told(tokenizer: Tokenizer) -> None:
    questions = [Pair(f"Is it {n}?", "It is good, Anne, and I love it!") for n in range(20)]
    config = FineTuneConfig(min_words=0, epochs=2)
    train = encode_pairs(questions, tokenizer, config)
    for directions in (usable_directions(SPECS, questions), usable_directions((), PAIRS)):
        assert directions is None
        assert hindsight_epochs(train, directions, tokenizer, config) == [train.examples] * 2
        assert draw_requests(questions, directions, seed=1) == []
    both = [*questions, *PAIRS[:40]]
    train = encode_pairs(both, tokenizer, config)
    for epoch in hindsight_epochs(train, usable_directions(SPECS, both), tokenizer, config):
        assert epoch[:20] == train.examples[:20]
        assert epoch[20:] != train.examples[20:]


def test_epochs_of_the_same_examples_have_the_order_they_had() -> None:
    """The order of before, written out: a run without directions learns the same steps as ever."""
    rng = random.Random(5)
    lengths = [rng.randrange(5, 60) for _ in range(37)]
    config = FineTuneConfig(batch_size=8, epochs=3, seed=5)
    shuffled, generator = [], random.Random(5)
    for _ in range(3):
        epoch = list(range(37))
        generator.shuffle(epoch)
        shuffled += epoch
    expected = [
        index
        for first in range(0, 3 * 37, 8)
        for index in sorted(shuffled[first : first + 8], key=lambda index: lengths[index], reverse=True)
    ]
    assert training_order(lengths, config) == expected
    longer = [lengths, [length + 1 for length in lengths], lengths]
    assert [index for _, index in order_of_epochs(longer, replace(config, batch_size=1))] == shuffled
    assert sorted(order_of_epochs(longer, config)) == [(epoch, index) for epoch in range(3) for index in range(37)]


def test_requests_are_for_mood_and_lines_in_turn_and_the_other_is_another() -> None:
    directions = Directions(SPECS, SAID)
    requests = draw_requests(PAIRS, directions, seed=1)
    assert [request.direction.kind for request in requests] == ["mood", "lines"] * 200
    for request, pair in zip(requests, PAIRS, strict=True):
        assert directions_of(request.pair.prompt, SPECS) == (request.direction,)
        assert request.pair.completion == pair.completion
        assert request.other is not None
        assert request.other.kind == request.direction.kind
        assert request.other != request.direction
    assert requests == draw_requests(PAIRS, directions, seed=1) != draw_requests(PAIRS, directions, seed=2)


def test_the_share_followed_is_counted() -> None:
    asking, telling = Direction(SPECS[0]), Direction(SPECS[2])
    pair = PAIRS[0]
    requests = [Request(pair, asking, telling), Request(pair, telling, None), Request(pair, asking, telling)]
    replies = ["Is it?", "It is.", "It is."]
    assert share_followed(requests, replies) == pytest.approx(2 / 3)
    assert share_followed(requests, replies, other=True) == pytest.approx(1 / 2)
    assert share_followed([], []) is None
    assert share_followed(requests[1:2], ["No."], other=True) is None


def test_the_stage_says_how_often_it_is_followed(run: Path) -> None:
    config = few(run)
    fine_tune(config, "smoke")
    record = read_stage(run / "sft", "sft")
    assert record.config["directions"] == "built-in"
    assert run_directions(record) == SPECS
    results = record.results
    assert results["requests"] == 24
    assert 0 <= results["followed_before"] <= 1
    assert 0 <= results["followed_other_before"] <= 1
    run_again = FineTuning(replace(config, overwrite=True))
    assert results["followed_before"] == pytest.approx(
        share_followed(run_again.requests, run_again.directed_replies(ends_at_blank_line=True)), abs=1e-4
    )
    page = (run / "sft" / "samples.md").read_text("utf-8")
    assert page.count("directed: ") == 6
    assert page.count("\nSFT (as directed):\n") + page.count("\nSFT (not as directed):\n") == 6
    assert all(request.pair.prompt.strip() in page for request in run_again.requests[:6])


def test_a_run_without_directions_is_what_it_was(run: Path) -> None:
    config = few(run, directions="none")
    tuning = FineTuning(config)
    assert tuning.epochs == [tuning.train.examples] * 2
    fine_tune(config, "smoke")
    record = read_stage(run / "sft", "sft")
    assert record.config["directions"] == "none"
    assert run_directions(record) == ()
    assert not [name for name in record.results if "followed" in name or name == "requests"]
    assert "directed" not in (run / "sft" / "samples.md").read_text("utf-8")
    older = StageRecord(stage="sft", preset="", command="", config={}, parent=None, corpus={}, seed=1)
    assert run_directions(older) == ()


OWN = """
from data.directions.specs import Spec

def has_comma(reply):
    return "," in reply

def infer(reply):
    return "" if has_comma(reply) else None

SPECS = [Spec("comma", "with a comma", has_comma, lambda r: float(has_comma(r)), infer)]
NOTHING = []
WORDS = ["asking"]
NOBODY = [Spec("digit", "with a thousand", lambda r: "1000" in r, lambda r: 1.0, lambda r: "" if "1000" in r else None)]
def broken(reply):
    raise ValueError("no\\nidea")
RAISES = [Spec("comma", "with a comma", broken, lambda r: 1.0, lambda r: "")]
MAYBE = [Spec("comma", "with a comma", lambda r: 1, lambda r: 1.0, lambda r: "")]
HALF = [Spec("comma", "with a comma", has_comma, lambda r: 0.5, infer)]
"""


def test_a_table_of_ones_own_from_the_current_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_specs_here.py").write_text(OWN, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    fine_tune(few(run, directions="own_specs_here:SPECS", epochs=1), "smoke")
    record = read_stage(run / "sft")
    assert record.config["directions"] == "own_specs_here:SPECS"
    assert [spec.text for spec in run_directions(record)] == ["with a comma"]
    assert record.results["requests"] == 24
    assert "followed_other" not in record.results  # there is no other request of its kind


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        ("builtin", "write it as built-in, none or module:SPECS"),
        ("nowhere_at_all:SPECS", "no module 'nowhere_at_all'"),
        ("own_specs_bad:MISSING", "MISSING"),
        ("own_specs_bad:NOTHING", "give a list of"),
        ("own_specs_bad:WORDS", "give a list of"),
        ("own_specs_bad:has_comma", "give a list of"),
        ("own_specs_bad:NOBODY", "no speech of the training text fits a direction of the kind 'digit'"),
        ("own_specs_bad:RAISES", "its check raised ValueError"),
        ("own_specs_bad:MAYBE", "its check gave 1: return True or False"),
        ("own_specs_bad:HALF", "its score is 0.5 where its check holds"),
    ],
)
def test_a_bad_table_is_one_line_and_nothing_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directions: str, message: str
) -> None:
    (tmp_path / "own_specs_bad.py").write_text(OWN, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message):
        fine_tune(few(run, directions=directions), "smoke")
    assert not (run / ".sft.partial").exists()


def test_the_command_refuses_a_bad_table_in_one_line(refused: Callable[..., str], run: Path, tmp_path: Path) -> None:
    (tmp_path / "own_specs_raises.py").write_text(OWN, "utf-8")
    line = refused("sft", "smoke", "--run", run, "--directions", "own_specs_raises:RAISES", PYTHONPATH=str(tmp_path))
    assert "its check raised ValueError: no idea" in line
    assert not (run / ".sft.partial").exists()
