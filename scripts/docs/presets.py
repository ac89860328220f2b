"""Write docs/presets.md from the presets of every stage: python scripts/docs/presets.py

The lists stand between `<!-- presets: NAME -->` and `<!-- end -->`; a test compares them with the code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.run.writing import table
from pretrain.presets import PRESETS
from reward.config import PRESETS as REWARD
from reward.following.config import PRESETS as FOLLOWING
from rlhf.algorithms.config import PRESETS as RLHF
from sft.config import PRESETS as SFT

PAGE = Path(__file__).resolve().parents[2] / "docs" / "presets.md"
STAGES: dict[str, Mapping[str, tuple[str, Any]]] = {
    "pretrain": PRESETS,
    "sft": SFT,
    "reward": REWARD,
    "reward.following": FOLLOWING,
    "rlhf": RLHF,
}
ALL = ("smoke", "laptop", "gpu")
"""Those that every stage has."""


def lists() -> dict[str, str]:
    """The tables by name: presets of every stage, and of pretraining alone."""
    everywhere = [(f"`{name}`", f"`{stage}`", presets[name][0]) for name in ALL for stage, presets in STAGES.items()]
    alone = [(f"`{name}`", about) for name, (about, _) in PRESETS.items() if name not in ALL]
    return {
        "every stage": table(("preset", "stage", "what it is for"), everywhere),
        "pretrain": table(("preset", "what it is"), alone),
    }


def filled(page: str) -> str:
    """The page with its tables as the code has them."""
    for name, text in lists().items():
        begin = f"<!-- presets: {name} -->"
        before, found, rest = page.partition(begin)
        _, ended, after = rest.partition("<!-- end -->")
        if not (found and ended):
            raise SystemExit(f"error: {PAGE.name} has no block {begin} … <!-- end -->")
        page = f"{before}{begin}\n{text}\n<!-- end -->{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")
