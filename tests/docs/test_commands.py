"""The commands of every page are commands: modules, presets, fields, scripts and make targets exist."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pretrain.presets import PRESETS
from rlhf.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
# The log is of the past, and so are its commands.
PAGES = [path for path in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))] if path.name != "LOG.md"]
STAGES = ("pretrain", "pretrain.lr_range_test", "sft", "reward", "reward.following", "rlhf", "rlhf.pipeline")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python|accelerate|shakespeare-rlhf|make|scripts/)\b[^`]*)`")
AT_SMOKE = re.compile(r"^<!-- run at smoke -->\n```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)

# One process for all of them: each imports torch, and most transformers and trl.
HELP = """
import contextlib, io, json, os, runpy, sys
pages = []
for target, arguments in json.loads(sys.argv[1]):
    sys.argv = [target, *arguments, "--help"]
    sys.path.append(os.path.dirname(target))
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        (runpy.run_path if target.endswith(".py") else runpy.run_module)(target, run_name="__main__")
    pages.append(page.getvalue())
print(json.dumps(pages))
"""


class Command(NamedTuple):
    """A command that a page shows."""

    page: str
    words: tuple[str, ...]

    @property
    def target(self) -> tuple[str, tuple[str, ...]] | None:
        """(module or script, its arguments); None for what is not ours."""
        words = self.words
        if words[0] == "shakespeare-rlhf" and len(words) > 1 and words[1] != "COMMAND":
            return COMMANDS[words[1]].module, words[2:]
        if words[0] in ("python", "accelerate") and "-m" in words:
            module = words.index("-m") + 1
            ours = words[module].partition(".")[0] in ("data", "pretrain", "sft", "reward", "rlhf")
            return (words[module], words[module + 1 :]) if ours else None
        if words[:1] == ("python",) and words[1].startswith("scripts/"):
            return (words[1], words[2:]) if re.search("argparse|tyro", (ROOT / words[1]).read_text("utf-8")) else None
        return None

    @property
    def of_help(self) -> tuple[str, tuple[str, ...]] | None:
        """(module or script, what decides which options there are)."""
        if self.target is None:
            return None
        name, arguments = self.target
        preset = tuple("smoke" if word == "PRESET" else word for word in arguments[:1] if word in {*PRESETS, "PRESET"})
        if name in STAGES and not preset:
            preset = ("smoke",)
        place = arguments.index("--algorithm") if "--algorithm" in arguments else len(arguments)
        chosen = arguments[place : place + 2]
        return name, preset + (() if "NAME" in chosen or "…" in chosen else chosen)


def commands() -> list[Command]:
    """Those in blocks of bash and in `code`, without the variables set before them."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        lines = [line for language, block in FENCED.findall(text) if language == "bash" for line in block.splitlines()]
        lines += [" ".join(code.split()) for code in INLINE.findall(FENCED.sub("", text))]
        for line in lines:
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                del words[0]
            if words:
                found.append(Command(str(page.relative_to(ROOT)), tuple(words)))
    return found


SHOWN = commands()


@pytest.fixture(scope="module")
def pages() -> dict[tuple[str, tuple[str, ...]], str]:
    """What the --help of everything that is shown says."""
    asked = sorted({command.of_help for command in SHOWN if command.of_help})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HELP, json.dumps(asked)],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(asked, json.loads(done.stdout), strict=True))


def test_every_command_parses(pages: dict[tuple[str, tuple[str, ...]], str]) -> None:
    assert {module for module, _ in pages} >= {"pretrain", "sft", "reward", "rlhf", "rlhf.compare", "pretrain.sample"}
    for command in SHOWN:
        if command.of_help is None or command.target is None:
            continue
        what, page = f"{command.page}: {' '.join(command.words)}", pages[command.of_help]
        assert "usage:" in page or command.target[0].startswith("scripts/"), f"{what}: no such command"
        for word in command.target[1]:
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag not in ("--help", "--algorithm"):
                assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", page), f"{what}: no {flag}"


def test_stages_are_run_with_a_preset_and_the_rest_without() -> None:
    for command in SHOWN:
        if command.target and len(command.words) > 3 and command.target[1]:
            first = command.target[1][0]
            if command.target[0] not in STAGES:
                assert first not in PRESETS, command
            elif "…" not in command.words and not first.startswith("--"):
                assert first in {*PRESETS, "PRESET"}, command


def test_make_targets_and_scripts_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = {command.words[1] for command in SHOWN if command.words[0] == "make" and len(command.words) > 1}
    assert {"demo", "test", "lint", "clean"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"no target {target}"
    for command in SHOWN:
        script = next((word for word in command.words[:2] if word.startswith("scripts/")), None)
        assert script is None or (ROOT / script).is_file(), command
        if command.words[0] == "scripts/run_pipeline.sh" and len(command.words) > 1:
            assert os.access(ROOT / command.words[0], os.X_OK)
            assert command.words[1] in PRESETS


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for page in PAGES for block in AT_SMOKE.findall(page.read_text("utf-8"))])
def test_what_is_marked_so_runs_at_smoke(block: str, tmp_path: Path) -> None:
    program = f'python() {{ "{sys.executable}" "$@"; }}\nshakespeare-rlhf() {{ python -m rlhf.cli "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", program + re.sub(r"\b(laptop|gpu)\b", "smoke", block)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
