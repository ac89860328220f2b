"""Run chapters of the course: python scripts/docs/run_chapter.py docs/course/04-self-attention.md

A chapter is a program. Its python blocks run in order and share their names, its bash blocks run in the same
folder (a temporary one), and whatever a block prints must be the `output` block that follows it. A number with
decimals may be off by one in its last digit, which is rounding; everything else must be the same. --write puts
what was printed in place of the output blocks.
"""

import argparse
import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FENCED = re.compile(r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass
class Block:
    """A fenced block of a page: its text stands in `page[start:end]`, from `line` on."""

    language: str
    text: str
    start: int
    end: int
    line: int


def read_blocks(page: str) -> list[Block]:
    """Every fenced block of a page's text, in order."""
    return [
        Block(match["language"], match["text"], *match.span("text"), page.count("\n", 0, match.start("text")) + 1)
        for match in FENCED.finditer(page)
    ]


def same_output(shown: str, printed: str) -> bool:
    """Whether two texts are the same, up to one unit in the last digit of numbers with decimals."""
    if NUMBER.sub("#", shown) != NUMBER.sub("#", printed):
        return False
    for one, other in zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True):
        digits = len(one.partition(".")[2])
        slack = 1.01 * 10**-digits if digits else 0.0
        if digits != len(other.partition(".")[2]) or abs(float(one) - float(other)) > slack:
            return False
    return True


def run_chapter(path: Path, write: bool = False) -> None:
    """Run a chapter from its first block to its last; AssertionError, with the line, where it does not hold."""
    page = path.read_text("utf-8")
    blocks = read_blocks(page)
    names: dict[str, Any] = {"__name__": "__main__"}
    changes: list[tuple[Block, str]] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number, block in enumerate(blocks):
            where = f"{path.name}, line {block.line}"
            follows = blocks[number + 1] if number + 1 < len(blocks) else None
            if block.language == "output":
                assert blocks[number - 1].language in ("python", "bash"), f"{where}: output of nothing"
                continue
            printed = _run(block, path, names, where)
            printed += "\n" if printed and not printed.endswith("\n") else ""  # the fence needs a line of its own
            if follows is not None and follows.language == "output":
                if not same_output(follows.text, printed):
                    assert write, f"{where} printed\n{printed}and the page shows\n{follows.text}"
                    changes.append((follows, printed))
            else:
                assert not printed, f"{where} prints what the page does not show:\n{printed}"
    for block, printed in reversed(changes):
        page = page[: block.start] + printed + page[block.end :]
    if changes:
        path.write_text(page, "utf-8")


def _run(block: Block, path: Path, names: dict[str, Any], where: str) -> str:
    if block.language == "python":
        # Empty lines before it give the code the numbers of the page's lines, in tracebacks too.
        code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        return printed.getvalue()
    assert block.language == "bash", f"{where}: a block of {block.language or 'no language'} is not run"
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    modules = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        env=os.environ | {"PATH": search, "PYTHONPATH": modules},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{where} ended with {done.returncode}:\n{done.stderr}"
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="*", type=Path, metavar="CHAPTER", help="pages; none means all")
    parser.add_argument("--write", action="store_true", help="put what was printed into the pages")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    for path in options.chapters or sorted((ROOT / "docs" / "course").glob("[0-9]*.md")):
        began = time.monotonic()
        run_chapter(path.resolve(), options.write)
        print(f"{path.name}: {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
