"""The README's commands are commands: modules, presets, fields and make targets exist; its Python compiles."""

import json
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from data.tokenizers import build_tokenizer
from pretrain.checkpoint import save_model
from pretrain.model import GPT, GPTConfig
from pretrain.presets import PRESETS
from rlhf import PPOConfig

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")

# One process for all modules: each imports torch, and most transformers and trl.
HELP = """
import contextlib, io, json, runpy, sys
pages = {}
for module, preset in json.loads(sys.argv[1]):
    sys.argv = [module, *([preset] if preset else []), "--help"]
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        runpy.run_module(module, run_name="__main__")
    pages[module] = page.getvalue()
print(json.dumps(pages))
"""


class Command(NamedTuple):
    """`python -m MODULE [PRESET] [--flag value …]` as the README has it."""

    line: str
    module: str
    arguments: list[str]

    @property
    def preset(self) -> str | None:
        return next((word for word in self.arguments[:1] if word in PRESETS), None)

    @property
    def flags(self) -> list[str]:
        return [word.partition("=")[0] for word in self.arguments if word.startswith("--")]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def shell_lines() -> list[list[str]]:
    """Words of every command, without the variables set before it."""
    lines = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
    words = [[word for i, word in enumerate(line) if not _is_variable(line[: i + 1])] for line in lines]
    return [line for line in words if line]


def _is_variable(words: list[str]) -> bool:
    return all(re.match(r"[A-Z_]+=", word) for word in words)


STAGES = ("pretrain", "pretrain.lr_range_test", "sft", "reward", "reward.following", "rlhf")


def commands() -> list[Command]:
    found = []
    for words in shell_lines():
        if words[0] == "python" or words[:2] == ["accelerate", "launch"]:
            module = words.index("-m") + 1
            found.append(Command(" ".join(words), words[module], words[module + 1 :]))
    return found


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Module -> what its --help says (of its preset, where it has presets)."""
    modules = {command.module: command.preset for command in commands()}
    done = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(sorted(modules.items()))],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_command_parses(pages: dict[str, str]) -> None:
    assert {"pretrain", "sft", "reward", "rlhf", "rlhf.compare", "pretrain.sample", "pretrain.evaluate"} <= set(pages)
    for command in commands():
        page = pages[command.module]
        assert "usage:" in page, f"{command.line}: no such command"
        for flag in command.flags:
            assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", page), f"{command.line}: no {flag}"


def test_stages_are_run_with_a_preset_and_the_rest_without(pages: dict[str, str]) -> None:
    for command in commands():
        has_presets = command.module in STAGES
        assert bool(command.preset) == has_presets, command.line


def test_make_targets_and_scripts_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    mentioned = [words[1] for words in shell_lines() if words[0] == "make"] + re.findall(r"`make (\w+)`", README)
    assert {"demo", "test", "lint", "clean"} <= set(mentioned)
    for target in mentioned:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"no target {target}"
    for words in shell_lines():
        if words[0].startswith("scripts/"):
            assert os.access(ROOT / words[0], os.X_OK), words[0]
            assert words[1] in PRESETS
        assert words[0] in ("make", "python", "accelerate") or words[0].startswith("scripts/"), words


def test_python_compiles_and_names_what_is_there() -> None:
    assert blocks("python")
    for block in blocks("python"):
        compile(block, "README.md", "exec")
        for module, names in re.findall(r"^from (\w+(?:\.\w+)*) import (.+)$", block, flags=re.MULTILINE):
            path = ROOT / module.replace(".", "/")
            source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")
            for name in names.split(", "):
                assert re.search(rf"^class {name}\b|import .*\b{name}\b", source, flags=re.MULTILINE), name


def test_the_trainers_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tiny model in the place of GPT-2, and for a few episodes."""
    (block,) = [block for block in blocks("python") if "PPOTrainer(" in block]
    monkeypatch.chdir(tmp_path)
    tokenizer = build_tokenizer("bpe", block, 300)
    save_model(
        GPT(GPTConfig(vocab_size=300, context_length=64, width=32, heads=2, layers=1, feed_forward=64)),
        tokenizer,
        Path("openai-community/gpt2"),
    )
    tokenizer.save("openai-community/gpt2")
    monkeypatch.setattr("rlhf.PPOConfig", partial(PPOConfig, cpu=True))
    names: dict[str, Any] = {}
    exec(compile(block.replace("total_episodes=2048", "total_episodes=128"), "README.md", "exec"), names)
    assert len(names["trainer"].log_history) == 2
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        p.name for p in Path("runs/soon/aligned").iterdir()
    }
