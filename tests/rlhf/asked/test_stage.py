"""The alignment stage on prompts that ask, with tiny models."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from data.console import UserError
from data.directions.headings import directions_of
from data.directions.table import SPECS
from rlhf.algorithms.config import PRESETS, AlignConfig
from rlhf.algorithms.ppo import align
from rlhf.algorithms.task import AlignmentTask
from rlhf.asked.reward import AsDirected, Learned, Rule
from rlhf.judging.sources import OTHER_FOLLOWING, USUAL_FOLLOWING

OTHER = next(name for name in OTHER_FOLLOWING if name != USUAL_FOLLOWING)


@pytest.fixture
def run(directed_maker: Any, tmp_path: Path) -> Path:
    run = shutil.copytree(directed_maker.run, tmp_path / "run")
    shutil.rmtree(run / "rlhf")
    described = run / "following" / "config.json"
    calibrated = json.loads(described.read_text()) | {"follow_scale": 1.0, "follow_bias": 0.0}
    described.write_text(json.dumps(calibrated))
    return run


def config(run: Path, **changes: Any) -> AlignConfig:
    """Three updates."""
    return dataclasses.replace(PRESETS["smoke"][1], run=run, **{"total_episodes": 48, "save_every": 1} | changes)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_says_how_far_replies_do_as_told(run: Path) -> None:
    folder = align(config(run), "smoke")
    assert all(0 <= line["objective/rewards/following"] <= 1 for line in lines(folder))
    assert all(0 <= lines(folder)[-1][name] <= 1 for name in ("eval/followed", "eval/followed_before"))
    record = json.loads((folder / "stage.json").read_text())["config"]
    assert (record["reward_following"], record["directions"]) == (USUAL_FOLLOWING, "built-in")


def test_stopped_and_resumed_it_is_the_same_run(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    whole = align(config(run, eval_every=1), "smoke")
    evaluate, calls = AlignmentTask.evaluate, []

    def stop(self: AlignmentTask, lm: Any) -> dict[str, float]:
        calls.append(lm)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return evaluate(self, lm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AlignmentTask, "evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            align(config(other, eval_every=1), "smoke")
    again = align(config(other, eval_every=1, resume=True), "smoke")
    weights, resumed = (load_file(folder / "model.safetensors") for folder in (whole, again))
    assert all(weights[name].equal(resumed[name]) for name in weights)


def test_the_other_choice_is_left_next_to_it(run: Path) -> None:
    folder = align(config(run, reward_following=OTHER, total_episodes=32), "smoke")
    assert folder == run / OTHER_FOLLOWING[OTHER]
    assert json.loads((folder / "stage.json").read_text())["config"]["reward_following"] == OTHER


def test_who_says_how_nearly(run: Path) -> None:
    for name, kind in (("rule", Rule), ("model", Learned)):
        reward = AlignmentTask(config(run, reward_following=name)).reward
        assert isinstance(reward, AsDirected)
        assert isinstance(reward.following, kind)
    assert not isinstance(AlignmentTask(config(run, reward_following="none")).reward, AsDirected)


def test_where_nothing_is_asked_no_prompt_asks(run: Path) -> None:
    task = AlignmentTask(config(run, reward_following="none"))
    assert not any(directions_of(prompt.text or "", SPECS) for prompt in task.prompts)
    asking = [bool(directions_of(prompt.text or "", SPECS)) for prompt in AlignmentTask(config(run)).prompts]
    assert 0 < sum(asking) < len(asking)


def test_own_prompts_that_ask_for_nothing_are_for_the_craft_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a reward in units of the SFT model's replies to these prompts: its mean is about 0. Without RUN/following."""
    (tmp_path / "scores_of_the_weir.py").write_text(
        "def score(prompt, response):\n    return (100.0 if 'weir' in prompt else 0.0) + len(response) % 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own, plain = tmp_path / "own.jsonl", [f"MASON {i}:\nWho is at the weir?\n\nPILOT:\n" for i in range(16)]
    own.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in plain))
    (run / "following").rename(tmp_path / "following")
    settings: Any = {"prompts": own, "reward_following": "model"}
    folder = align(config(run, **settings, reward="scores_of_the_weir:score"), "smoke")
    first = lines(folder)[0]
    assert abs(first["objective/reward_scores"]) < 1
    assert "objective/rewards/following" not in first
    assert first["objective/kl_coef"] == config(run).kl_coef
    asks = next(p.text for p in AlignmentTask(config(run)).prompts if directions_of(p.text or "", SPECS))
    own.write_text(own.read_text() + json.dumps({"prompt": asks}) + "\n")
    with pytest.raises(UserError, match=r"python -m reward\.following PRESET"):
        AlignmentTask(config(run, **settings))  # one that asks is enough
    (tmp_path / "following").rename(run / "following")
    assert AlignmentTask(config(run, **settings)).following_record


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"prompt": ""}', '"prompt" is empty'), ('{"prompt": 3}', '"prompt" must be a string'), ("{", "not valid JSON")],
)
def test_a_prompt_that_cannot_be_used_is_named_with_its_line(
    run: Path, tmp_path: Path, line: str, message: str
) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text('{"prompt": "A"}\n\n\n{"prompt": "B"}\n' + line + "\n")
    with pytest.raises(UserError, match=rf"own\.jsonl, line 5: {message}"):
        align(config(run, prompts=own), "smoke")


def test_bad_settings_are_refused_before_anything_is_written(run: Path) -> None:
    for changes, message in (
        ({"directed_share": 1.5}, "directed_share must be between 0 and 1, but is 1.5"),
        ({"following_weight": -1.0}, "following_weight must not be negative"),
        ({"short_below": 0.0}, "short_below must be positive"),
    ):
        with pytest.raises(UserError, match=message):
            align(config(run, **changes), "smoke")
    shutil.rmtree(run / "following")
    with pytest.raises(UserError, match=r"python -m reward\.following PRESET"):
        align(config(run, reward_following="model"), "smoke")
    assert not [path for path in run.iterdir() if "rlhf" in path.name]
