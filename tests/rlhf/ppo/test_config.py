"""Settings that cannot be: each is refused in one line that names it."""

import math
import typing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from data.console import UserError
from rlhf.algorithms.config import PRESETS
from rlhf.algorithms.ppo import align
from rlhf.ppo.config import RANGES, PPOConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": -1}, "batch_size is -1: it must be a whole number of at least 1$"),
        ({"batch_size": 4.0}, "batch_size is 4.0: it must be a whole number"),
        ({"batch_size": "4"}, "batch_size is '4': it must be a whole number"),
        ({"learning_rate": "1e-5"}, "learning_rate is '1e-5': it must be a number of 0 or more$"),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"learning_rate": None}, "learning_rate is None"),
        ({"kl_coef": -0.1}, "kl_coef is -0.1"),
        ({"kl_horizon": 0}, "kl_horizon is 0: it must be a number above 0$"),
        ({"cliprange": -0.2}, "cliprange is -0.2"),
        ({"max_grad_norm": math.nan}, "max_grad_norm is nan"),
        ({"temperature": -1.0}, "temperature is -1.0: it must be a number above 0, since responses are sampled$"),
        ({"gamma": 1.5}, "gamma is 1.5: it must be a number from 0 to 1$"),
        ({"gae_lambda": math.nan}, "gae_lambda is nan"),
        ({"adam_beta1": 1.0}, "adam_beta1 is 1.0: it must be a number from 0 to less than 1$"),
        ({"missing_eos_penalty": None}, "missing_eos_penalty is None: it must be a number that is finite$"),
        ({"seed": None}, "seed is None: it must be a whole number"),
        ({"seed": -1}, r"seed is -1: it must be a whole number from 0 to 2\^64 - 1$"),
        ({"seed": 2**64}, "seed is 18446744073709551616: it must be"),
        ({"save_every": -1}, "save_every is -1"),
        ({"cliprange_high": 0}, "cliprange_high is 0: it must be a number above 0$"),
        ({"entropy_coef": -0.1}, "entropy_coef is -0.1: it must be a number of 0 or more$"),
        ({"weight_decay": math.inf}, "weight_decay is inf"),
        ({"warmup_updates": 1.5}, "warmup_updates is 1.5: it must be a whole number of 0 or more$"),
        ({"samples_per_prompt": 0}, "samples_per_prompt is 0: it must be a whole number of at least 1$"),
        ({"overlong_penalty": -1}, "overlong_penalty is -1"),
        ({"reference_replies": 0}, "reference_replies is 0"),
    ],
)
def test_numbers_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PPOConfig(**changes).check(1)


def test_every_number_has_its_range() -> None:
    numbers = {field.name for field in fields(PPOConfig) if {int, float} & {field.type, *typing.get_args(field.type)}}
    named = [name for _, _, names in RANGES for name in names]
    assert sorted(named) == sorted(numbers - {"stop_token_ids"})


def test_the_ends_of_the_ranges_are_settings_too() -> None:
    PPOConfig(kl_coef=0, lr_floor=1, gamma=1, gae_lambda=0, adam_beta1=0, log_samples=0, learning_rate=0).check(1)
    PPOConfig(max_grad_norm=math.inf, cliprange_value=math.inf, value_learning_rate=None, kl_target=None).check(1)
    no_tracker: Any = None  # as other trainers write it
    assert PPOConfig(report_to=no_tracker).report_to == ()


@pytest.mark.parametrize(
    ("changes", "message"), [({"batch_size": -4}, "batch_size is -4"), ({"report_to": ("pencil",)}, "'pencil'")]
)
def test_a_command_with_such_settings_leaves_nothing(
    tmp_path: Path, run_maker: type[Any], changes: dict[str, Any], message: str
) -> None:
    """Or the corrected command would be told that there is an unfinished run."""
    maker = run_maker(tmp_path)
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    with pytest.raises(UserError, match=message):
        align(replace(PRESETS["smoke"][1], run=maker.run, reward="gold", **changes), "smoke")
    assert sorted(path.name for path in maker.run.iterdir() if path.is_dir()) == ["pretrain", "sft"]


def test_what_is_checked_are_the_lengths_of_the_sft_stage(
    tmp_path: Path, run_maker: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = run_maker(tmp_path)
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    seen: list[PPOConfig] = []
    check = PPOConfig.check

    def seen_check(self: PPOConfig, processes: int) -> None:
        seen.append(self)
        check(self, processes)

    monkeypatch.setattr(PPOConfig, "check", seen_check)
    align(replace(PRESETS["smoke"][1], run=maker.run, reward="gold", total_episodes=16, eval_prompts=4), "smoke")
    assert {(each.prompt_length, each.response_length) for each in seen} == {(24, 32)}


def test_cpu_is_a_word_for_a_device() -> None:
    assert PPOConfig().device == "auto"
    assert PPOConfig(cpu=True) == PPOConfig(cpu=True, device="cpu")
    assert PPOConfig(cpu=True).device == "cpu"
    with pytest.raises(UserError, match="cpu is set and device is cuda"):
        PPOConfig(cpu=True, device="cuda").check(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_in": "both"}, "kl_in is 'both': it is reward or loss$"),
        ({"missing_eos_rule": None}, "missing_eos_rule is None: it is subtract or replace$"),
        ({"score_transform": "tanh"}, "score_transform is 'tanh': it is None or clip or sigmoid$"),
        ({"score_transform": "clip"}, "score_transform is clip and score_clip is not set: set it"),
        ({"score_transform": "sigmoid", "score_clip": 1.0}, "sigmoid, which bounds scores, and score_clip is set"),
        ({"samples_per_prompt": 3}, "samples_per_prompt 3 does not divide batch_size 64$"),
        ({"warmup_updates": 10}, r"warmup_updates 10 leaves nothing of the 10 updates of the run .*: lower it$"),
        ({"value_only_updates": 11}, "value_only_updates 11 leaves nothing of the 10 updates"),
        ({"value_only_updates": 1, "vf_coef": 0}, "value_only_updates is set and vf_coef is 0"),
        ({"overlong_buffer": 8}, "overlong_buffer is set and overlong_penalty is 0: set that penalty"),
        (
            {"overlong_buffer": 54, "overlong_penalty": 1},
            "overlong_buffer 54 is more than response_length 53",
        ),
        ({"stop_strings": ("a", "")}, r"stop_strings is \('a', ''\): give a tuple of texts, none of them empty$"),
        ({"stop_strings": 3}, "stop_strings is 3: give a tuple of texts"),
        ({"save_best": True}, "save_best needs an output_dir to save to$"),
        ({"shard": "all"}, "shard divides weights among processes, and there is one: launch several, or leave it out$"),
        ({"gather_for_generation": False}, "gather_for_generation is False and nothing is divided: set shard, or"),
        ({"save_rollouts": True}, "save_rollouts needs an output_dir to save to$"),
    ],
)
def test_settings_that_contradict_each_other(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        PPOConfig(**{"total_episodes": 640, **changes}).check(1)
    assert "\n" not in str(caught.value)
