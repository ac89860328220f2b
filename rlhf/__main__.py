"""Align the SFT model: python -m rlhf PRESET --run RUN [--algorithm NAME] [--field value …]

Reads: RUN/sft and RUN/reward, or another reward (--reward); the prompts of RUN/corpus.txt or of your own (--prompts).

Does: changes the policy so that its replies score higher, at a price for leaving the SFT model.

Writes: RUN/rlhf (other algorithms: RUN/rlhf-NAME), a Hugging Face checkpoint with `stage.json`, `metrics.jsonl`,
`samples.md` and plots.
"""

import argparse
from pkgutil import resolve_name

from data.console import run_command
from data.run.options import preset_command, unknown
from rlhf.algorithms import ALGORITHMS


def main() -> None:
    # The algorithm decides which settings there are, so it is read before them.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--algorithm", default="ppo")
    name = parser.parse_known_args()[0].algorithm
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    listed = "\n\n".join(f"{name}: {algorithm.summary}." for name, algorithm in ALGORITHMS.items())
    settings, preset = preset_command(resolve_name(ALGORITHMS[name].presets), f"{__doc__}\n\n{listed}")
    resolve_name(ALGORITHMS[name].run)(settings, preset)  # trl takes seconds to import


if __name__ == "__main__":
    run_command(main)
