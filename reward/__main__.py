"""python -m reward PRESET [--field value …]"""

from data.console import run_command
from data.run.options import preset_command
from reward.config import PRESETS
from reward.train import train_reward


def main() -> None:
    train_reward(*preset_command(PRESETS, __doc__))


if __name__ == "__main__":
    run_command(main)
