"""What a stage's README.md must be: a model card that the Hub's library reads, without paths, with code that runs."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

SECTIONS = ["How to load it", "Data", "Metrics", "Limits", "How it was made"]
RUN = """
import contextlib, io, json, os, sys
said = []
for folder, code in json.loads(sys.argv[1]):
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, {})
    said.append(out.getvalue())
ours = {"data", "pretrain", "sft", "reward", "rlhf"} & set(sys.modules)
assert not ours, ours
print(json.dumps(said))
"""


def check_card(folder: Path, *figures: str) -> str:
    """The text of the card in `folder`, which is in order and shows these metrics."""
    card = ModelCard.load(folder / "README.md")
    metadata = card.data.to_dict()
    assert ModelCardData(**metadata).to_dict() == metadata
    assert {"shakespeare-rlhf", folder.name} <= set(metadata["tags"])
    assert re.findall(r"^## (.+)$", card.text, re.MULTILINE) == SECTIONS
    for name in figures:
        assert re.search(rf"^\| {re.escape(name)} \| -?[\d.,e+-]+ \|$", card.text, re.MULTILINE), name
    for place in (str(folder.resolve().parent), os.path.expanduser("~"), sys.prefix, os.getcwd()):  # noqa: PTH109, PTH111
        assert place not in card.content
    return card.text


def run_snippets(folders: Sequence[Path]) -> list[str]:
    """What the example of every card prints, in one process that has transformers and nothing of ours."""
    codes = [re.findall(r"```python\n(.*?)```", check_card(folder), re.DOTALL) for folder in folders]
    assert [len(found) for found in codes] == [1] * len(folders)
    work = json.dumps([(str(folder.resolve()), code) for folder, [code] in zip(folders, codes, strict=True)])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUN, work], cwd="/", env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
