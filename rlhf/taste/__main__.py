"""Align a model with a few rankings: python -m rlhf.taste --run RUN --name NAME --rankings FILE

Reads: RUN/sft, RUN/reward and rankings: files (--rankings) or a function that ranks (--taste).

Does: trains a reward model of the taste, and aligns the SFT model by PPO with it and the run's own reward model.

Writes: RUN/tastes/NAME: reward, rlhf and compare, with a report of what changed. The run's own stages stay as they are.
"""

from data.console import run_command
from data.run.options import command_line
from data.run.record import read_parent
from rlhf.taste.config import TasteOptions


def main() -> None:
    options = command_line(TasteOptions, __doc__)
    options.check()
    read_parent(options.run, "sft")
    from rlhf.taste.train import make_taste  # after the command line is read: trl takes seconds to import

    make_taste(options)


if __name__ == "__main__":
    run_command(main)
