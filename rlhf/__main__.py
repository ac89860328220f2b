"""python -m rlhf PRESET [--field value …]"""

from data.console import run_command
from pretrain.cli import preset_command
from rlhf.config import PRESETS
from rlhf.train import align


def main() -> None:
    align(*preset_command(PRESETS, __doc__))


if __name__ == "__main__":
    run_command(main)
