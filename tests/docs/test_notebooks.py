"""The pages that are notebooks: they convert, their links hold, they run, and plots stay inline."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("jupytext"), reason="jupytext is not installed"),
]

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / "quickstart.md", *sorted((ROOT / "docs" / "course").glob("[0-9]*.md"))]


def make(out: Path, *arguments: object) -> dict[str, Any]:
    """Name -> notebook, of what `scripts/docs/notebooks.py` makes."""
    words = [sys.executable, str(ROOT / "scripts/docs/notebooks.py"), "--out", str(out), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    return {path.stem: json.loads(path.read_text("utf-8")) for path in out.glob("*.ipynb")}


def cells(notebook: dict[str, Any], kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_every_page_becomes_a_notebook_whose_first_cell_installs(tmp_path: Path) -> None:
    notebooks = make(tmp_path, "--source", "the-source")
    assert set(notebooks) == {page.stem for page in PAGES}
    for page in PAGES:
        made, text = notebooks[page.stem], page.read_text("utf-8")
        first, *code = cells(made, "code")
        assert '%pip install --quiet "the-source"' in first
        assert len(code) == len(re.findall(r"^```(?:python|bash)$", text, re.MULTILINE))
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", "".join(cells(made, "markdown"))):
            assert (tmp_path / target).exists(), f"{page.name}: {target}"


def test_notebooks_run_and_plots_are_inline(tmp_path: Path) -> None:
    """All of them; the quickstart imports the trainer before it plots."""
    notebooks = make(tmp_path, "--execute")
    outputs = [output for cell in notebooks["quickstart"]["cells"] for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for notebook in notebooks.values():
        assert all(cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code")
