"""Models divided among processes learn what whole ones do, to rounding, and are saved as whole ones."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

pytestmark = pytest.mark.usefixtures("one_thread")

Build = Callable[..., PreTrainedModel]
VARIANTS: dict[str, dict[str, Any]] = {
    "trained": {"shard": "trained", "kind": "gpt2"},
    "all": {"shard": "all", "score_transform": "sigmoid", "reference_replies": 2},
    "all, checkpointing": {"shard": "all", "gradient_checkpointing": True, "kind": "gpt2"},
    "all, layer by layer": {"shard": "all", "gather_for_generation": False},
    "LoRA": {"shard": "trained", "lora": True, "gradient_checkpointing": True},
    "LoRA, all": {"shard": "all", "lora": True},
}
SCRIPT = """
import json, os, socket, sys
import torch
from torch.distributed.tensor import DTensor
from data.console import run_command
from rlhf import PPOConfig, PPOTrainer
torch.set_num_threads(1)
folder = sys.argv[1]
PROMPTS = [[3, 7], [1, 2, 3, 4, 5, 6, 7], [9], [4, 4, 4, 8], [10, 11], [2, 9, 1], [12], [5, 5]]
fatal = {}  # update -> what then happens in process 1

def length(prompts, responses):
    if int(os.environ.get("RANK", "0")) == 1 and trainer.updates_done in fatal:
        fatal[trainer.updates_done]()
    return [float(len(response)) for response in responses]

def make(kind="qwen3", lora=False, shard=None, **changes):
    global trainer
    torch.manual_seed(5)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        changes.pop("gather_for_generation", None)
    settings = dict(batch_size=16, num_mini_batches=2, micro_batch_size=3, num_ppo_epochs=2, total_episodes=160,
        response_length=8, temperature=1.0, learning_rate=1e-4, stop_token_ids=(22, 0, 1), missing_eos_penalty=1.0,
        cpu=True, eval_every=5, shard=shard if processes > 1 else None)
    adapter = None
    if lora:
        from peft import LoraConfig
        adapter = LoraConfig(r=4, target_modules="all-linear")
    reward = {"length": (length, 0.1), "model": (f"{folder}/{kind}/reward", 1.0)}
    hook = lambda trainer: {"first": trainer.policy.lm.get_input_embeddings().weight.sum().item()}
    trainer = PPOTrainer(f"{folder}/{kind}/policy", reward, PROMPTS, PPOConfig(**settings | changes),
        peft_config=adapter, eval_prompts=PROMPTS[:5], eval_hook=hook)
    return trainer

def share_held(trainer):
    # Of the bytes of what is to be divided, the share in this process. What several modules hold counts once.
    every, lora = trainer.config.shard == "all", trainer.peft_config is not None
    learn = [trainer.policy, trainer.value]
    only_score = [trainer.reference, trainer.reward.parts["model"][0].model.base_model]
    weights = [w for module in learn for w in module.parameters() if every or w.requires_grad]
    frozen = [w for module in only_score for w in module.parameters()]
    assert weights and all(isinstance(w, DTensor) for w in weights)
    assert all(isinstance(w, DTensor) == every for w in frozen)
    locals = [w.to_local() for w in [*weights, *(frozen if every else [])]]
    held = {w.untyped_storage().data_ptr(): w.untyped_storage().nbytes() for w in locals}
    return sum(held.values()) / sum(w.nbytes for w in [*weights, *(frozen if every and not lora else [])])

def processes(count, work, *arguments):
    # Forked after the imports, which take longest. Their exit codes.
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        if child := os.fork():
            children.append(child)
            continue
        if count > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        code = 1
        try:
            code = work(*arguments) or 0
        except SystemExit as end:
            code = end.code
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)  # gloo's threads now and then abort a process that ends in the ordinary way
    codes = []
    for child in children:
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return codes
"""
COMPARED = """
def learn(settings, to, resume_from=None):
    trainer = make(**settings)
    if torch.distributed.is_initialized():
        assert 0.45 < share_held(trainer) * trainer.accelerator.num_processes / 2 < 0.6, share_held(trainer)
    history = trainer.train(resume_from)
    trainer.save(to, value=True)
    if trainer.accelerator.is_main_process:
        torch.save(history, f"{to}/history.pt")
    trainer.accelerator.wait_for_everyone()

settings = json.loads(sys.argv[2])
assert processes(1, learn, settings, f"{folder}/1") == [0]
assert processes(2, learn, settings, f"{folder}/2") == [0, 0]
"""
INTERRUPTED = (
    COMPARED
    + """
def killed():
    fatal[6] = lambda: os.kill(os.getpid(), 9)
    make(**settings, save_every=2, output_dir=f"{folder}/run").train()

def refused(changes, message):
    def load():
        make(**settings | changes).load_state(f"{folder}/run/resume")
    return run_command(load)

codes = processes(2, killed)
assert -9 in codes and 0 not in codes, codes  # at the seventh update; the state is of the sixth
state = f"{folder}/run/resume"
assert processes(2, learn, settings, f"{folder}/again", state) == [0, 0]
assert processes(4, learn, settings, f"{folder}/four", state) == [0] * 4
assert processes(1, refused, {"shard": None}, "") == [2]
assert processes(2, refused, {"shard": "trained"}, "") == [2, 2]
assert processes(3, refused, {}, "") == [2] * 3
"""
)
FAILING = """
def fails():
    raise ValueError("out of luck")

def work():
    fatal[2] = fails
    trainer = make(shard="all", gather_for_generation=json.loads(sys.argv[2]), output_dir=f"{folder}/run")
    return run_command(trainer.train)

codes = processes(2, work)
assert codes == [2, 1], codes
"""
SHORT = """
def work(shard, to):
    trainer = make("gpt2", shard=shard, total_episodes=16, response_length=4, num_ppo_epochs=1, reference_replies=1)
    if trainer.accelerator.num_processes > 1:
        assert 0.45 < share_held(trainer) < 0.6, share_held(trainer)
    metrics = trainer.step()
    trainer.save(to)
    if trainer.accelerator.is_main_process:
        torch.save(metrics, f"{to}/metrics.pt")
    trainer.accelerator.wait_for_everyone()

assert processes(1, work, None, f"{folder}/1") == [0]
assert processes(2, work, "all", f"{folder}/2") == [0, 0]
"""


def run_script(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(SCRIPT + script)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(path), str(folder), *arguments]
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=900
    )


@pytest.fixture
def models(causal_lm: Build, reward_model: Build, tokenizer: Any, tmp_path: Path) -> Path:
    """A folder with a policy and a reward model of each kind."""
    for kind in ("gpt2", "qwen3"):
        causal_lm(kind).save_pretrained(tmp_path / kind / "policy")
        tokenizer.save_pretrained(tmp_path / kind / "policy")
        reward_model(kind).save_pretrained(tmp_path / kind / "reward")
    return tmp_path


def assert_same(one: Path, two: Path, adapted: bool = False) -> None:
    """Two runs of ten updates and what they saved, to rounding."""
    first, second = (torch.load(at / "history.pt") for at in (one, two))
    assert len(first) == len(second) == 10
    for number, (metrics, others) in enumerate(zip(first, second, strict=True)):
        same = {key: value for key, value in metrics.items() if not key.startswith("time/") and key != "eps"}
        near = pytest.approx(same, abs=1e-5, rel=1e-4) if number == 0 else pytest.approx(same, abs=1e-3, rel=1e-2)
        assert {key: others[key] for key in same} == near, number
    kinds: list[tuple[str, Any]] = [("value", AutoModelForSequenceClassification)]
    if not adapted:
        kinds.append((".", AutoModelForCausalLM))
    for part, auto in kinds:
        for a, b in zip(*(auto.from_pretrained(at / part).parameters() for at in (one, two)), strict=True):
            torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-3)
    if adapted:
        from safetensors.torch import load_file

        adapters = [load_file(at / "adapter_model.safetensors") for at in (one, two)]
        for name, weight in adapters[0].items():
            torch.testing.assert_close(adapters[1][name], weight, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_two_sharded_processes_learn_what_one_does(models: Path, name: str) -> None:
    if "LoRA" in name:
        pytest.importorskip("peft")
    done = run_script(models, COMPARED, json.dumps(VARIANTS[name]))
    assert done.returncode == 0, done.stderr[-4000:]
    assert_same(models / "1", models / "2", adapted="LoRA" in name)


@pytest.mark.slow
def test_a_killed_run_continues_on_as_many_processes_or_more(models: Path) -> None:
    """What cannot be continued is refused in one line."""
    done = run_script(models, INTERRUPTED, json.dumps({"shard": "all"}))
    assert done.returncode == 0, done.stderr[-4000:]
    for resumed in ("again", "four"):
        assert_same(models / "1", models / resumed)
    lines = {line for line in done.stderr.splitlines() if line.startswith("error: ")}
    resume = models / "run" / "resume"
    end = "use the same settings, or start without resuming"
    assert lines == {
        f"error: {resume} is of a run on 2 processes, this one has 1: launch as many as before",
        f"error: {resume} is of a run with shard=all, this one has trained: {end}",
        "error: a minibatch of 8 episodes (batch_size / num_mini_batches) cannot be shared equally by 3 processes: "
        "change one of the three",
    }


@pytest.mark.slow
@pytest.mark.parametrize("gathers", [True, False])
def test_what_fails_before_a_sharded_reward_model_runs_ends_all(models: Path, gathers: bool) -> None:
    """At once, in one line and the traceback of what failed, and with what was learned."""
    done = run_script(models, FAILING, json.dumps(gathers))
    assert done.returncode == 0, done.stderr[-4000:]
    line = f"error: process 1 failed (ValueError: out of luck): see its traceback; saved in {models / 'run'}/last_good"
    # Both processes write to one stderr at once, so that a line may begin behind another's.
    assert done.stderr.count(line) == 1, done.stderr[-4000:]
    assert "ValueError: out of luck" in done.stderr
    AutoModelForCausalLM.from_pretrained(models / "run" / "last_good")


def test_an_update_of_sharded_models_is_that_of_whole_ones(models: Path) -> None:
    done = run_script(models, SHORT)
    assert done.returncode == 0, done.stderr[-4000:]
    one, two = (torch.load(models / count / "metrics.pt") for count in ("1", "2"))
    same = {key: value for key, value in one.items() if not key.startswith("time/") and key != "eps"}
    assert {key: two[key] for key in same} == pytest.approx(same, abs=1e-5, rel=1e-4)
    saved = (AutoModelForCausalLM.from_pretrained(models / count).parameters() for count in ("1", "2"))
    for a, b in zip(*saved, strict=True):
        torch.testing.assert_close(b, a, atol=2e-5, rtol=1e-4)
