"""python -m rlhf PRESET [--algorithm NAME] [--field value …]"""

import argparse
from pkgutil import resolve_name

from data.console import UserError, run_command
from data.run.options import preset_command
from rlhf.algorithms import ALGORITHMS


def main() -> None:
    # The algorithm decides which settings there are, so it is read before them.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--algorithm", default="ppo")
    name = parser.parse_known_args()[0].algorithm
    if name not in ALGORITHMS:
        raise UserError(f"--algorithm {name} does not exist: choose one of {', '.join(ALGORITHMS)}")
    listed = "\n\n".join(f"{name}: {algorithm.summary}." for name, algorithm in ALGORITHMS.items())
    settings, preset = preset_command(resolve_name(ALGORITHMS[name].presets), f"{__doc__}\n\n{listed}")
    resolve_name(ALGORITHMS[name].run)(settings, preset)  # trl takes seconds to import


if __name__ == "__main__":
    run_command(main)
