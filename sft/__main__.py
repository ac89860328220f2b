"""python -m sft PRESET [--field value …]"""

from data.console import run_command
from data.run.options import preset_command
from sft.config import PRESETS


def main() -> None:
    config, preset = preset_command(PRESETS, __doc__)
    from sft.train import fine_tune  # after the command line is read: trl takes seconds to import

    fine_tune(config, preset)


if __name__ == "__main__":
    run_command(main)
