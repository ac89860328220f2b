"""The README's Python compiles, names what is there, and runs."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data.tokenizers import build_tokenizer
from pretrain.checkpoint import save_model
from pretrain.model import GPT, GPTConfig
from rlhf import PPOConfig

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


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
