"""python -m rlhf.taste --run RUN --name NAME --rankings FILE

From a few rankings to an aligned model in RUN/tastes/NAME, next to the run's own: a reward model of the taste, PPO on
it together with the run's own reward model, and a report of what changed.
"""

from data.console import run_command
from data.run.options import command_line
from data.run.record import read_parent
from rlhf.taste.config import TasteOptions


def main() -> None:
    options = command_line(TasteOptions, description=__doc__)
    options.check()
    read_parent(options.run, "sft")
    from rlhf.taste.train import make_taste  # after the command line is read: trl takes seconds to import

    make_taste(options)


if __name__ == "__main__":
    run_command(main)
