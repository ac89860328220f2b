"""python -m reward PRESET [--field value …]"""

from data.console import run_command
from data.run.options import preset_command
from reward.config import PRESETS


def main() -> None:
    config, preset = preset_command(PRESETS, __doc__)
    from reward.train import train_reward  # after the command line is read: trl takes seconds to import

    train_reward(config, preset)


if __name__ == "__main__":
    run_command(main)
