"""Notebooks of the quickstart and of the course, made from their pages: python scripts/docs/notebooks.py

A page's Python and bash blocks become cells. The output that a page shows is left out: the notebook makes its own. The
first cell installs the project where it is missing, from --source. Git keeps the pages, and not the notebooks.
"""

import argparse
import os
import re
import subprocess
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / "quickstart.md", *sorted((ROOT / "docs" / "course").glob("[0-9]*.md"))]
FIRST = """# Install the project where it is missing (a hosted notebook), and let `python` in a %%bash cell be this one.
import importlib.util
import os
import sys
from pathlib import Path

if importlib.util.find_spec("rlhf") is None:
    %pip install --quiet "{source}"
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
"""


def notebook(page: Path, out: Path, source: str) -> nbformat.NotebookNode:
    """A page as a notebook for the folder `out`."""
    text = re.sub(r"^```output\n.*?^```\n", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\]\((?!https?:|#)([^)]+)\)", lambda match: f"]({_seen_from(out, page.parent / match[1])})", text)
    made = jupytext.reads(text, fmt="md")
    made.cells.insert(0, nbformat.v4.new_code_cell(FIRST.format(source=source)))
    made.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return made


def _seen_from(out: Path, target: Path) -> str:
    path, hash_sign, anchor = str(target).partition("#")
    return os.path.relpath(path, out) + hash_sign + anchor


def default_source() -> str:
    """What pip installs the project from: where this checkout was cloned from, if that is an address, else itself."""
    command = ["git", "-C", str(ROOT), "config", "remote.origin.url"]
    url = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"shakespeare-rlhf[rlhf] @ git+{url}" if url.startswith("https://") else f"{ROOT}[rlhf]"


def execute(path: Path) -> None:
    """Run a notebook in its folder and keep the outputs; nbclient's CellExecutionError where a cell fails."""
    from nbclient import NotebookClient

    made = nbformat.read(path, as_version=4)
    NotebookClient(made, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    nbformat.write(made, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", help="pages to convert; none means all")
    parser.add_argument("--out", type=Path, default=ROOT / "notebooks", help="folder of the notebooks")
    parser.add_argument("--source", default=default_source(), help="what pip installs the project from")
    parser.add_argument("--execute", action="store_true", help="run them and keep the outputs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for page in options.pages or PAGES:
        path = options.out / f"{page.stem}.ipynb"
        nbformat.write(notebook(page.resolve(), options.out.resolve(), options.source), path)
        if options.execute:
            execute(path)
        print(path)


if __name__ == "__main__":
    main()
