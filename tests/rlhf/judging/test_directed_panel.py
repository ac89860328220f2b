"""The first screen says no more than the figures do."""

from typing import Any

import pytest

from rlhf.judging.directed_panel import REWARDS, craft_panel, directed_panel, first_sentence, print_directions
from rlhf.judging.metrics import wilson_interval

CRAFT = {
    "gold": 0.5, "gold_low": 0.45, "gold_high": 0.55, "kl_to_sft": 1.25, "tokens": 20.0, "tokens_free": 30.0,
    "stopped": 1.0, "distinct_2": 0.9, "longest_copy_mean": 2.5, "longest_copy_max": 5, "copying": 0.0,
}  # fmt: skip


def share(rate: float, n: int = 540) -> dict[str, Any]:
    low, high = wilson_interval(rate * n, n)
    return {"rate": rate, "low": low, "high": high, "n": n}


def told(rlhf: float, sft: float = 0.3, wrong: float | None = 0.1, **more: float) -> dict[str, Any]:
    one = {"pretrain": 0.2, "sft": sft, "rlhf": rlhf, "best_of_4": 0.5, "original": 0.25} | more
    return {
        "one": {key: share(rate) for key, rate in one.items()},
        "two": {},
        "three": {},
        "wrong": {} if wrong is None else dict.fromkeys(one, share(wrong)),
        "by_kind": {"mood": {}, "lines": {}},
        "held_out": {},
        "craft": dict.fromkeys(one, CRAFT),
    }


@pytest.mark.parametrize(
    ("figures", "said", "not_said"),
    [
        (told(0.7), ["Asked for a mood or a number of lines, the aligned model does it in 70%", "SFT model, which it",
                     "in 30%", "pretrained one in 20%", "meet in 10%."], ["apart", "less often", "no difference"]),
        (told(0.32), ["cannot be told apart from before"], ["no difference"]),
        (told(0.2), ["less often than before"], ["no difference"]),
        (told(0.5, wrong=0.48), ["meet in 48%, so that what is asked makes no difference"], ["apart"]),
        (told(0.7, wrong=None), ["pretrained one in 20%."], ["nobody"]),
    ],
)  # fmt: skip
def test_the_sentence_follows_the_figures(figures: dict[str, Any], said: list[str], not_said: list[str]) -> None:
    sentence = first_sentence(figures)
    for part in said:
        assert part in sentence
    for part in not_said:
        assert part not in sentence
    assert sentence.count(".") == sentence.endswith("."), "one sentence"


def test_a_table_of_ones_own_is_named() -> None:
    figures = told(0.7) | {"by_kind": {"colour": {}, "animal": {}}}
    assert first_sentence(figures).startswith("Asked for one thing (colour, animal), the aligned model")


def result(figures: dict[str, Any], following: str = "model") -> dict[str, Any]:
    sample: dict[str, Any] = {
        "prompt": "A:\nb.\n\nC, asking, in two lines:\n",
        "directions": ["asking", "in two lines"],
    }
    samples = [sample | {"sft": str(i)} for i in range(9)]
    return {"settings": {"reward_following": following}, "directions": figures, "directed_samples": samples}


def test_the_picture_has_everybody_and_the_control_next_to_each() -> None:
    panel = directed_panel(result(told(0.7, rlhf_rule=0.9)))
    assert panel
    for title in ("pretrained", "SFT", "best of 4 from SFT", "aligned", "PPO on the rule itself"):
        assert f">{title}</text>" in panel["chart"]
    assert "the original" not in panel["chart"]
    assert panel["chart"].count(">0.10</text>") == 5, "the control of each"
    assert ">0.90</text>" in panel["chart"]
    assert [sample["sft"] for _, _, sample in panel["exchanges"]] == [*"012345"]
    assert panel["exchanges"][0][:2] == ("A:\nb.\n\nC", "asking, in two lines")


def test_what_ppo_was_rewarded_by_is_said() -> None:
    for following, said in REWARDS.items():
        panel = directed_panel(result(told(0.7), following))
        assert panel
        assert panel["reward"] == said
    assert "itself in PPO's reward" in REWARDS["rule"]


def test_a_run_without_directions_has_no_panel() -> None:
    assert directed_panel({"directions": None}) is None
    assert directed_panel({}) is None


def test_the_price_stands_next_to_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    [pretrain, _, rlhf, *_] = craft_panel(told(0.7))["rows"]
    assert rlhf[0].title == "aligned"
    assert rlhf[1] == [
        "70.0% ±\u00a03.9", "10%", "0.500 ±\u00a00.050", "1.2", "20.0", "30.0", "100.0%", "0.900", "2.5 / 5", "0.0%",
    ]  # fmt: skip
    assert pretrain[1][0].startswith("20.0%")
    bare = told(0.7, wrong=None)
    bare["craft"] = {"rlhf": CRAFT | {"kl_to_sft": None, "tokens_free": None}}
    assert craft_panel(bare)["rows"][0][1][1:6] == ["-", "0.500 ±\u00a00.050", "-", "20.0", "-"]
    print_directions(told(0.7))
    print_directions(bare)
    lines = [line.split() for line in capsys.readouterr().err.splitlines() if "rlhf" in line]
    assert lines == [
        ["rlhf", "0.70", "0.66-0.74", "0.10", "0.500", "20", "30", "100.0%", "0.900"],
        ["rlhf", "0.70", "0.66-0.74", "0.500", "20", "100.0%", "0.900"],
    ]
