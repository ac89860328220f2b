"""The models of a run answer by name, together and with the same numbers, and their replies are judged as elsewhere."""

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from data.console import UserError
from data.dialogue import speeches
from data.tokenizers import Tokenizer
from pretrain.sampling import generate
from reward.model import RewardModel
from rlhf.judging.cast import LONGEST, Cast, Sampling
from sft.models.forward import sequence_logprobs
from sft.models.loading import load_causal_lm
from sft.models.sampling import sampler
from sft.models.streaming import noise_of

PROMPT = "MASON:\nThe lantern keeps the river,\nand candle finds 3.\n\nWEAVER:\n"
EVERYBODY = ["pretrain", "sft", "rlhf", "tastes/mine"]


@pytest.fixture(scope="module")
def cast(whole_run: Path) -> Cast:
    return Cast(whole_run, "cpu")


def last(events: list[dict[str, Any]], who: str) -> dict[str, Any]:
    return [event for event in events if event["who"] == who][-1]


def test_whoever_is_finished_can_answer(cast: Cast, own_run: Path) -> None:
    assert {key: speaker.title for key, speaker in cast.speakers.items()} == {
        "pretrain": "pretrained",
        "sft": "SFT",
        "rlhf": "aligned",
        "tastes/mine": "mine",
    }
    assert list(cast.rewards) == ["reward", "reward, mine"]
    shutil.rmtree(own_run / "rlhf")
    (own_run / "tastes/mine/rlhf/stage.json").unlink()
    shutil.rmtree(own_run / "reward")
    fewer = Cast(own_run, "cpu")
    assert list(fewer.speakers) == ["pretrain", "sft"]
    assert fewer.rewards == {}


def test_a_heading_asks_by_the_runs_own_table(directed_maker: Any, cast: Cast) -> None:
    told = Cast(directed_maker.run, "cpu")
    assert told.choices["mood"] == (["asking", "crying out", "telling"], [])
    assert told.choices["beginning"] == ([], ["beginning with {}"])
    typed = {"speakers": ["A"], "texts": ["Go."], "answerer": "B", "asked": " in two lines , beginning with Now"}
    assert told.typed(typed) == "A:\nGo.\n\nB, in two lines, beginning with Now:\n"
    assert (
        told.typed(typed | {"answerer": "B, in two lines", "asked": "asking"})
        == "A:\nGo.\n\nB, in two lines, asking:\n"
    )
    assert told.typed(typed | {"asked": " "}) == "A:\nGo.\n\nB:\n"
    with pytest.raises(UserError, match="exclude each other"):
        told.typed(typed | {"asked": "in two lines, in one line"})
    with pytest.raises(UserError, match="knows no direction 'singing'"):
        told.typed(typed | {"asked": "singing"})
    with pytest.raises(UserError, match="exclude each other"):
        told.typed(typed | {"answerer": "B, asking", "asked": "telling"})
    assert told.directions
    assert list(told.rewards) == ["reward", "following"]
    assert (cast.specs, cast.choices, cast.directions) == ((), {}, None), "a run without directions"
    with pytest.raises(UserError, match="knows no direction 'asking'"):
        cast.typed(typed | {"asked": "asking"})
    ids = told.reply(told.typed(typed), "rlhf", Sampling(length=5))["ids"]
    assert told.judge_typed(typed | {"who": "rlhf", "ids": ids}) == told.judged(told.typed(typed), "rlhf", ids)


def test_replies_are_those_of_generate_with_the_same_noise(cast: Cast, whole_run: Path) -> None:
    tokenizer = Tokenizer.load(whole_run / "sft")
    options: dict[str, Any] = {"temperature": 0.8, "top_k": 40}
    for seed in range(3):
        events = list(cast.answers(PROMPT, EVERYBODY, Sampling(seed=seed, length=20, **options)))
        for who, folder in [("sft", "sft"), ("rlhf", "rlhf"), ("tastes/mine", "rlhf")]:
            [ids] = generate(
                sampler(load_causal_lm(whole_run / folder)),
                [cast.encode(PROMPT)],
                max_new_tokens=20,
                stop_ids=[tokenizer.eos_id],
                noise=noise_of(seed, 20),
                **options,
            )
            found = last(events, who)
            assert found == {
                "who": who,
                "ids": ids,
                "text": tokenizer.decode(ids),
                "stopped": ids[-1] == tokenizer.eos_id,
            }


def test_a_reply_grows_and_all_of_them_grow_together(cast: Cast) -> None:
    events = list(cast.answers(PROMPT, EVERYBODY, Sampling(length=12)))
    assert [event["who"] for event in events[:4]] == EVERYBODY
    for who in EVERYBODY:
        texts = [event["text"] for event in events if event["who"] == who]
        assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
        assert ["ids" in event for event in events if event["who"] == who] == [False] * (len(texts) - 1) + [True]


@pytest.mark.parametrize(
    ("written", "said", "stopped"),
    [
        ("A day.\nNo more.\n\nMASON:\n", "A day.\nNo more.", True),
        ("\nMASON:\n", "", True),
        ("A day,\nand", "A day,\nand", False),
        ("A day.\n", "A day.\n", False),
    ],
)
def test_the_pretrained_model_ends_at_the_first_blank_line(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, written: str, said: str, stopped: bool
) -> None:
    """The others do not: a blank line is a mistake of theirs that is to be seen."""
    tokens = cast.tokenizer.encode(written)
    monkeypatch.setattr("rlhf.judging.cast.stream", lambda *_, **__: iter(tokens))
    events = list(cast.answers(PROMPT, ["pretrain", "sft"], Sampling()))
    assert not any("\n\n" in event["text"] for event in events if event["who"] == "pretrain")
    found = last(events, "pretrain")
    assert (found["text"], found["stopped"]) == (said, stopped)
    assert found["ids"] == ([*cast.tokenizer.encode(said), cast.tokenizer.eos_id] if stopped else tokens)
    assert last(events, "sft")["text"] == written


def test_a_reply_is_judged_as_by_the_stages(cast: Cast, whole_run: Path) -> None:
    for who in EVERYBODY:
        reply = cast.reply(PROMPT, who, Sampling(seed=5, length=24))
        found = cast.judged(PROMPT, who, reply["ids"])
        prompt = cast.encode(PROMPT)
        score = RewardModel.load(whole_run / "reward").score([(prompt, reply["ids"])]).item()
        assert found["scores"] == {
            "reward": pytest.approx(score, abs=1e-5),
            "reward, mine": pytest.approx(score, abs=1e-5),
        }
        terms = cast.gold.terms(PROMPT, reply["text"])
        assert found["terms"] == terms
        assert found["gold"] == cast.gold.score(terms)
        ids = [id for id in reply["ids"] if who != "pretrain" or id != cast.tokenizer.eos_id]
        models = [load_causal_lm(whole_run / ("rlhf" if "mine" in who else who)), load_causal_lm(whole_run / "sft")]
        own, sft = (sequence_logprobs(model, [prompt], [ids]).item() for model in models)
        assert sum(ratio for _, ratio in found["tokens"]) == pytest.approx(own - sft, abs=0.01)
        assert "".join(text for text, _ in found["tokens"]).rstrip("∎") == cast.tokenizer.decode(ids)
        assert any(ratio for _, ratio in found["tokens"]) == (who != "sft")


def test_a_token_that_is_no_character_is_joined_to_the_next(cast: Cast) -> None:
    ids = cast.tokenizer.encode("née")
    assert len(ids) > 3, "é is two tokens to this tokenizer"
    texts = [text for text, _ in cast.judged(PROMPT, "sft", ids)["tokens"]]
    assert texts == ["n", "é", "e"]


def test_no_gradient_is_kept_and_models_stay_loaded(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    cast.reply(PROMPT, "rlhf", Sampling(length=2))
    monkeypatch.setattr("rlhf.judging.cast.load_causal_lm", lambda *_: pytest.fail("loaded twice"))
    cast.reply(PROMPT, "rlhf", Sampling(length=2))
    assert not torch.is_inference_mode_enabled()


def test_a_taste_that_was_taught_again_is_loaded_again(own_run: Path) -> None:
    cast = Cast(own_run, "cpu")
    sampling = Sampling(temperature=0, length=16)
    before = cast.reply(PROMPT, "tastes/mine", sampling)["text"]
    assert before == cast.reply(PROMPT, "rlhf", sampling)["text"]
    taste = own_run / "tastes/mine/rlhf"
    shutil.rmtree(taste)
    shutil.copytree(own_run / "pretrain", taste)
    record = json.loads((own_run / "pretrain/stage.json").read_text())
    record |= {"stage": "rlhf", "parent": {"stage": "sft", "sha256": cast.sft.weights_sha256}}
    (taste / "stage.json").write_text(json.dumps(record))
    os.utime(taste / "stage.json", (1e9, 1e9))
    after = cast.reply(PROMPT, "tastes/mine", sampling)["text"]
    assert after != before


def test_a_model_of_another_chain_says_so_in_its_column_and_the_others_answer(own_run: Path) -> None:
    record = json.loads((own_run / "rlhf/stage.json").read_text())
    (own_run / "rlhf/stage.json").write_text(json.dumps(record | {"parent": {"stage": "sft", "sha256": "0" * 64}}))
    events = list(Cast(own_run, "cpu").answers(PROMPT, ["sft", "rlhf"], Sampling(length=6)))
    assert "made from another sft" in last(events, "rlhf")["error"]
    assert "ids" in last(events, "sft")


def test_a_cue_is_a_held_out_line(cast: Cast) -> None:
    cue = cast.cue()
    prompt = f"{cue['speaker']}:\n{cue['text']}\n\n{cue['answerer']}:\n"
    assert prompt in [pair.prompt for pair in cast.heldout]
    assert not {pair.prompt for pair in cast.heldout} & {pair.prompt for pair in cast.training}
    assert len(speeches(prompt)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"seed": 1.5},
        {"seed": True},
        {"temperature": -0.1},
        {"temperature": 101},
        {"temperature": float("nan")},
        {"temperature": "1"},
        {"temperature": None},
        {"top_k": 0},
        {"top_k": 2.0},
        {"top_p": 0},
        {"top_p": 1.1},
        {"length": 0},
        {"length": LONGEST + 1},
        {"length": None},
    ],
)
def test_settings_that_nothing_can_be_drawn_with_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling.of(wrong)


def test_settings_are_taken_from_whatever_is_there() -> None:
    given: dict[str, Any] = {"seed": 3, "top_k": None, "top_p": 0.5, "temperature": 0, "said": []}
    assert Sampling.of(given) == Sampling(seed=3, top_p=0.5, temperature=0)


def test_what_cannot_be_asked_is_refused_at_once(cast: Cast) -> None:
    for prompt, who, said in [(PROMPT, "nobody", "nobody"), (" \n", "sft", "characters"), ("x" * 5000, "sft", "5000")]:
        with pytest.raises(UserError, match=said):
            next(cast.answers(prompt, [who], Sampling()))
    for ids in ([], [10**6], [-1], [1] * 1000):
        with pytest.raises(UserError, match="token ids"):
            cast.judged(PROMPT, "sft", ids)


def test_a_run_without_sft_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sft does not exist"):
        Cast(tmp_path)
