"""Several processes: what one does, and how they end."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rlhf.ppo.small import PROMPTS, Build, untimed

pytestmark = pytest.mark.usefixtures("one_thread")


PROCESSES = """
import os, sys
import torch
from rlhf import PPOConfig, PPOTrainer
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
folder, prompts = sys.argv[1], PROMPTS
config = PPOConfig(batch_size=16, num_mini_batches=2, micro_batch_size=3, num_ppo_epochs=2, total_episodes=64,
    response_length=10, temperature=1.0, learning_rate=1e-3, stop_token_ids=(22, 0, 1), missing_eos_penalty=1.0,
    cpu=True)
policy = AutoModelForCausalLM.from_pretrained(folder + "/policy")
trainer = PPOTrainer(policy, folder + "/reward", prompts, config)
count = trainer.accelerator.num_processes
trainer.step()
trainer.step()
trainer.save_state(f"{folder}/state{count}")
trainer.step()
trainer.load_state(f"{folder}/state{count}")
responses = trainer.rollout().responses
trainer.load_state(f"{folder}/state{count}")
history = trainer.train()
if trainer.accelerator.is_main_process:
    models = {"policy": trainer.policy.state_dict(), "value": trainer.value.state_dict()}
    torch.save({**models, "responses": responses, "history": history}, f"{folder}/{count}.pt")
trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
os._exit(0)  # all is written; gloo's threads now and then abort a process that ends in the ordinary way
"""


def launched(count: int, script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The script in so many processes, on one thread each."""
    launch = [] if count == 1 else ["-m", "torch.distributed.run", f"--nproc-per-node={count}", "--standalone"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, str(script), *map(str, arguments)]
    return subprocess.run(
        command, env=environment, cwd=script.parent, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.slow
def test_two_processes_do_what_one_does(causal_lm: Build, reward_model: Build, tmp_path: Path) -> None:
    """The same responses, minibatches, figures and weights, but for the order in which numbers are added up."""
    causal_lm("gpt2").save_pretrained(tmp_path / "policy")
    reward_model("gpt2").save_pretrained(tmp_path / "reward")
    script = tmp_path / "script.py"
    script.write_text(PROCESSES.replace("PROMPTS", str(PROMPTS)))
    for count in (1, 2):
        done = launched(count, script, tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{count}.pt") for count in (1, 2))
    assert two["responses"] == one["responses"]
    assert len(one["history"]) == len(two["history"]) == 4
    for first, second in zip(untimed(one["history"]), untimed(two["history"]), strict=True):
        assert second == pytest.approx(first, abs=1e-4, rel=1e-3)
    for model in ("policy", "value"):
        for name, weight in one[model].items():
            torch.testing.assert_close(two[model][name], weight, atol=2e-5, rtol=1e-4)


FAILING = """
import os, sys
from data.console import run_command
from rlhf import PPOConfig, PPOTrainer
folder, where = sys.argv[1:]
rank = int(os.environ["RANK"])

def fails(place, update):
    if place == where and rank == 1 and update == 2:
        raise ValueError("out of luck")

def reward(prompts, responses):
    fails("reward", trainer.updates_done + 1)
    return [float(len(response)) for response in responses]

def train():
    trainer.train()

config = PPOConfig(batch_size=4, total_episodes=16, response_length=4, cpu=True, output_dir=f"{folder}/{where}")
hook = lambda trainer, metrics: fails("callback", trainer.updates_done)
trainer = PPOTrainer(f"{folder}/policy", reward, ["ab", "c"], config, callbacks=[hook])
run_command(train)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["reward", "callback"])
def test_what_fails_in_one_process_ends_all(causal_lm: Build, tokenizer: Any, tmp_path: Path, where: str) -> None:
    """At once, in one line and the traceback of what failed, and with what was learned."""
    causal_lm("gpt2").save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    script = tmp_path / "script.py"
    script.write_text(FAILING)
    done = launched(2, script, tmp_path, where)
    assert done.returncode != 0
    saved = f"saved in {tmp_path / where}/last_good"
    line = f"error: process 1 failed (ValueError: out of luck): see its traceback; {saved}"
    assert line in done.stderr.splitlines()
    assert "\nValueError: out of luck\n" in done.stderr
    assert (tmp_path / where / "last_good" / "model.safetensors").is_file()
