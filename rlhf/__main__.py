"""python -m rlhf PRESET [--algorithm ppo|rloo|grpo|best-of-n] [--field value …]"""

import argparse
from pkgutil import resolve_name
from typing import Any

from data.console import UserError, run_command
from data.run.options import preset_command
from rlhf.algorithms.config import PRESETS
from rlhf.algorithms.group_config import BEST_OF_N_PRESETS, GRPO_PRESETS, RLOO_PRESETS

ALGORITHMS: dict[str, tuple[dict[str, tuple[str, Any]], str]] = {
    "ppo": (PRESETS, "rlhf.algorithms.ppo:align"),
    "rloo": (RLOO_PRESETS, "rlhf.algorithms.group:align_in_groups"),
    "grpo": (GRPO_PRESETS, "rlhf.algorithms.group:align_in_groups"),
    "best-of-n": (BEST_OF_N_PRESETS, "rlhf.algorithms.best_of_n:choose_best"),
}
"""The presets of every algorithm, and what runs it: read after the command line, for trl takes seconds to import."""


def main() -> None:
    # The algorithm decides which settings there are, so it is read before them.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--algorithm", default="ppo")
    name = parser.parse_known_args()[0].algorithm
    if name not in ALGORITHMS:
        raise UserError(f"--algorithm {name} does not exist: choose one of {', '.join(ALGORITHMS)}")
    presets, run = ALGORITHMS[name]
    config, preset = preset_command(presets, __doc__)
    resolve_name(run)(config, preset)


if __name__ == "__main__":
    run_command(main)
