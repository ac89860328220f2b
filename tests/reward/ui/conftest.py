"""A run to label, with screens that are there already, and browsers to do it with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.run.record import read_stage
from reward.screens import policy_name
from tests.browser import Server, chromium, server, visitor
from tests.reward.ui.pages import Serve
from tests.tiny import RunMaker

__all__ = ["chromium", "server", "visitor"]


@pytest.fixture(scope="session")
def tiny_sft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tiny models with pretrain and sft. Read only: `labelled` copies it."""
    maker = RunMaker(tmp_path_factory.mktemp("tiny"))
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    return maker.run


@pytest.fixture
def labelled(tiny_sft: Path, tmp_path: Path) -> Callable[..., Path]:
    """`labelled(40, prompt="…", reply="…")`: a run with so many screens; with 0 its model draws them."""

    def make(screens: int, prompt: str = "MASON:\nPrompt", reply: str = "Reply") -> Path:
        run = tmp_path / "run"
        shutil.copytree(tiny_sft, run)
        rows: list[dict[str, Any]] = [
            {
                "id": f"{number:016x}",
                "prompt": f"{prompt} {number}\n\nPILOT:\n",
                "completions": [f"{reply} {number} {letter}." for letter in "ABCD"],
                "stopped": [True, True, True, False],
                "policy": policy_name(read_stage(run / "sft")),
                "seed": 1,
                "prompt_ids": [1],
                "completion_ids": [[1]] * 4,
            }
            for number in range(screens)
        ]
        if rows:
            (run / "labels").mkdir()
            content = "".join(json.dumps(row) + "\n" for row in rows)
            (run / "labels" / "screens.jsonl").write_text(content, "utf-8")
        return run

    return make


@pytest.fixture
def served(labelled: Callable[..., Path], server: Callable[..., Server]) -> Serve:
    """`served(40, …)`: (the run, the server, its address) of a page with so many screens, see `labelled`."""

    def make(screens: int, *more: object, **texts: str) -> tuple[Path, Server, str]:
        run = labelled(screens, **texts)
        serving = server("reward.label", "--run", run, "--screens", screens or 3, *more)
        return run, serving, serving.start()

    return make
