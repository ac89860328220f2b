"""docs/coming-from-trl.md leaves out nothing that TRL 1.12.0 had, and names nothing that is not here."""

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlhf import PPOConfig, PPOTrainer

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "coming-from-trl.md").read_text("utf-8")
Build = Callable[..., PreTrainedModel]

# Of trl 1.12.0, trl/experimental/ppo: the fields that PPOConfig adds to TrainingArguments or sets anew, what
# PPOTrainer.__init__ takes, what it logs.
CONFIG = """
learning_rate dataset_num_proc num_mini_batches total_episodes local_rollout_forward_batch_size num_sample_generations
response_length stop_token stop_token_id temperature missing_eos_penalty sft_model_path world_size num_total_batches
micro_batch_size local_batch_size batch_size local_mini_batch_size mini_batch_size push_to_hub reward_model_path
model_adapter_name ref_adapter_name num_ppo_epochs whiten_rewards kl_coef kl_estimator cliprange vf_coef
cliprange_value gamma lam ds3_gather_for_generation
"""
ARGUMENTS = """
args processing_class model ref_model reward_model train_dataset value_model data_collator eval_dataset optimizers
callbacks peft_config
"""
METRICS = """
eps objective/kl objective/entropy objective/non_score_reward objective/rlhf_reward objective/scores
policy/approxkl_avg policy/clipfrac_avg loss/policy_avg loss/value_avg val/clipfrac_avg policy/entropy_avg val/ratio
val/ratio_var val/num_eos_tokens lr episode
"""


def table(section: str) -> dict[str, str]:
    """Left column -> right column of the tables of a section, as code (or "none")."""
    (text,) = re.findall(rf"^## {section}\n(.*?)^## ", PAGE, flags=re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `([^`]+)` \| (`[^`]+`|none) \| ", text, flags=re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| `", text, flags=re.MULTILINE)), "a row that is not understood"
    return {old: new.strip("`") for old, new in rows}


def test_every_setting_of_trl_is_mapped() -> None:
    settings = table("The settings")
    assert set(CONFIG.split()) <= set(settings)
    ours = {field.name for field in fields(PPOConfig)} | {"mini_batch_size", "num_updates"}
    ours |= set(inspect.signature(PPOTrainer.__init__).parameters)
    assert set(settings.values()) - {"none"} <= ours
    assert all(hasattr(PPOConfig, name) for name in ("mini_batch_size", "num_updates"))


def test_defaults_that_are_said_to_be_trls_are_trls() -> None:
    theirs = {"num_mini_batches": 1, "num_ppo_epochs": 4, "learning_rate": 3e-6, "response_length": 53}
    theirs |= {"temperature": 0.7, "kl_coef": 0.05, "cliprange": 0.2, "cliprange_value": 0.2, "vf_coef": 0.1}
    theirs |= {"gamma": 1.0, "gae_lambda": 0.95, "whiten_rewards": False, "missing_eos_penalty": 0.0, "lr_floor": 0.0}
    theirs |= {"adam_beta1": 0.9, "adam_beta2": 0.999, "max_grad_norm": 1.0, "whiten_advantages": True}
    assert {name: getattr(PPOConfig(), name) for name in theirs} == theirs


def test_every_argument_is_mapped() -> None:
    arguments = table("The trainer's arguments")
    assert set(ARGUMENTS.split()) <= set(arguments)
    parameters = set(inspect.signature(PPOTrainer.__init__).parameters)
    for old, new in arguments.items():
        if old in ARGUMENTS.split():
            assert new == "none" or new in parameters, new
        else:
            assert new in ("samples", "log_history") or hasattr(PPOTrainer, new.partition("(")[0]), new


def test_every_metric_of_trl_is_logged_under_its_name(causal_lm: Build, reward_model: Build) -> None:
    config = PPOConfig(total_episodes=4, batch_size=4, response_length=4, cpu=True)
    trainer = PPOTrainer(causal_lm("qwen3"), reward_model("qwen3"), [[1, 2], [3]], config)
    logged = trainer.train()[0]
    assert table("The metrics").keys() == set(METRICS.split())
    assert set(table("The metrics").values()) <= logged.keys()
    assert {"samples", "log_history"} <= vars(trainer).keys()


def test_the_examples_run_as_they_stand(
    causal_lm: Build, reward_model: Build, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, one after the other, on tiny models and for a few episodes."""
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    for folder, model in (("my/sft", causal_lm("qwen3")), ("my/reward", reward_model("qwen3"))):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    Path("prompts.jsonl").write_text('{"prompt": "abc"}\n{"prompt": "d"}\n')
    monkeypatch.setattr("rlhf.PPOConfig", partial(PPOConfig, total_episodes=64, cpu=True))
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block.replace("10_000", "64"), "coming-from-trl.md", "exec"), names)
    scores, figures = names["correct"](["2 + 2 =", "3 + 4 ="], ["4", "so 5"], names["dataset"]["answer"])
    assert (scores, figures) == ([1.0, 0.0], {"characters": [1.0, 4.0]})
    ids = torch.tensor([[1, 2, 3]])
    merged = AutoModelForCausalLM.from_pretrained("merged")(ids).logits
    with_adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("my/sft"), "adapter")(ids).logits
    torch.testing.assert_close(merged, with_adapter, atol=1e-4, rtol=0)
    assert AutoModelForCausalLM.from_pretrained("aligned").config.model_type == "qwen3"
    assert list(Path("aligned/ppo").glob("events*"))
