"""What an import brings along and changes, seen in fresh processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LOADED = """
import json, sys
print(json.dumps([name for name in sys.modules]))
"""
SETTINGS = """
import json, matplotlib, torch

def settings():
    return [matplotlib.get_backend(), torch.get_num_threads(), torch.get_float32_matmul_precision()]

import ctypes
calls = []
class Libc:
    def __init__(self, name): pass
    def mallopt(self, *arguments): calls.append(arguments)

matplotlib.use("svg")
torch.set_num_threads(1)
torch.set_float32_matmul_precision("high")
before = settings()
from rlhf import PPOConfig, PPOTrainer
from pretrain import machine
machine.ctypes.CDLL = Libc
from transformers import GPT2Config, GPT2LMHeadModel

sizes = dict(n_embd=16, n_layer=1, n_head=2, n_positions=32, vocab_size=20, eos_token_id=0, bos_token_id=0)
config = PPOConfig(total_episodes=4, batch_size=2, response_length=4, device="cpu")
seen = []
tokenizer = type("Tokenizer", (), {"decode": lambda self, ids, **_: " ".join(map(str, ids)), "eos_token_id": 0})()
trainer = PPOTrainer(GPT2LMHeadModel(GPT2Config(**sizes)), lambda prompts, responses: [1.0 for _ in responses],
                     [[1, 2], [3]], config, tokenizer=tokenizer,
                     callbacks=[lambda trainer, metrics: seen.append((settings(), len(calls)))])
made = settings(), len(calls)
trainer.train()
trained = settings(), len(calls)
trainer.step()
print(json.dumps([before, made, seen, trained, settings(), calls]))
"""


def fresh(program: str, folder: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own that starts in `folder`, with this project importable."""
    inherited = os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, env=inherited, capture_output=True, text=True, timeout=300)


def loaded_by(statement: str) -> list[str]:
    return json.loads(fresh(statement + LOADED).stdout)


def ours(modules: list[str]) -> list[str]:
    return [name for name in modules if name.partition(".")[0] in ("data", "pretrain", "sft", "reward", "rlhf")]


@pytest.mark.parametrize("statement", ["import rlhf", "from rlhf import PPOTrainer, PPOConfig"])
def test_the_trainer_comes_without_plots_command_lines_and_trl(statement: str) -> None:
    loaded = loaded_by(statement)
    assert "rlhf" in loaded
    assert not {"matplotlib", "tyro", "trl", "datasets"} & set(loaded)


def test_the_package_alone_loads_no_torch() -> None:
    assert "torch" not in loaded_by("import rlhf")


def test_the_losses_come_alone() -> None:
    loaded = loaded_by("from rlhf.ppo.losses import gae")
    assert "rlhf.ppo.losses" in ours(loaded)
    assert len(ours(loaded)) < 6, ours(loaded)
    assert not {"transformers", "accelerate", "matplotlib", "tyro"} & set(loaded)


@pytest.mark.parametrize("package", ["sft", "reward", "rlhf"])
def test_a_command_line_is_read_before_trl_is_imported(package: str) -> None:
    program = f"import runpy, sys\nsys.argv = ['{package}', '--help']\ntry:\n    "
    program += f"runpy.run_module('{package}', run_name='__main__')\nexcept SystemExit:\n    pass" + LOADED
    done = fresh(program)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert f"{package}.__main__" in loaded or f"{package}" in loaded
    assert "smoke" in done.stdout  # the help, with its presets
    assert not {"trl", "transformers", "datasets"} & loaded


def test_a_trainer_puts_back_what_it_changes() -> None:
    done = fresh(SETTINGS)
    assert done.returncode == 0, done.stderr
    before, made, seen, trained, stepped, calls = json.loads(done.stdout.splitlines()[-1])
    assert before == ["svg", 1, "high"]
    assert made == [before, 0]
    assert seen[0] == [["svg", 1, "medium"], 2]  # both thresholds of the allocator
    assert trained == [before, 4]
    assert stepped == before
    assert len(calls) == 8
    assert calls[2:4] == calls[6:8] == [[-3, 32 * 2**20], [-1, 64 * 2**20]]


def test_a_name_that_does_not_exist_is_an_ordinary_error() -> None:
    done = fresh("import rlhf\nassert not hasattr(rlhf, 'DPOTrainer')\nfrom rlhf import *\nprint(PPOConfig.__name__)")
    assert done.stdout == "PPOConfig\n", done.stderr


@pytest.mark.parametrize("theirs", ["data.py", "data/__init__.py"])
def test_data_of_the_users_own_is_one_line(theirs: str, tmp_path: Path) -> None:
    path = tmp_path / theirs
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise SystemExit('their code ran')\n")
    # As in a notebook or a program: the user's folder comes first, ours is installed somewhere behind it.
    program = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
    done = fresh(program + "from rlhf import PPOTrainer", tmp_path)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    place = path if theirs == "data.py" else path.parent
    assert line.startswith(f"ImportError: {place} is in the way of the package `data` of shakespeare-rlhf")
    assert line.endswith("rename yours, or start Python in another folder")
    done = fresh(program + "from rlhf.ppo.losses import gae; print(gae.__name__)", tmp_path)
    assert done.stdout == "gae\n"


def test_a_folder_of_files_called_data_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prompts.jsonl").write_text("")
    done = fresh("from rlhf import PPOConfig; print(PPOConfig.__name__)", tmp_path)
    assert done.stdout == "PPOConfig\n", done.stderr
