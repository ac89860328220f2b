"""python -m reward.following PRESET [--field value …]"""

from data.console import run_command
from data.run.options import preset_command
from reward.following.config import PRESETS


def main() -> None:
    config, preset = preset_command(PRESETS, __doc__)
    from reward.following.train import train_following  # after the command line is read: trl takes seconds to import

    train_following(config, preset)


if __name__ == "__main__":
    run_command(main)
