"""python -m pretrain PRESET [--field value …]"""

from data.console import run_command
from data.run.options import preset_command
from pretrain.machine import start
from pretrain.presets import PRESETS
from pretrain.train import pretrain


def main() -> None:
    start()
    pretrain(*preset_command(PRESETS, __doc__))


if __name__ == "__main__":
    run_command(main)
