"""docs/presets.md has the presets as the code has them."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_has_every_preset() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "docs" / "presets.py"))
    page = (ROOT / "docs" / "presets.md").read_text("utf-8")
    assert script["filled"](page) == page, "run python scripts/docs/presets.py"
