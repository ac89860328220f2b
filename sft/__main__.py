"""python -m sft PRESET [--field value …]"""

import os

from data.console import run_command
from data.run.options import preset_command
from sft.config import PRESETS


def main() -> None:
    config, preset = preset_command(PRESETS, __doc__)
    # Everything is on this disk; without this, transformers asks the hub about the model all the same.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from sft.train import fine_tune  # after the command line is read: trl takes seconds to import

    fine_tune(config, preset)


if __name__ == "__main__":
    run_command(main)
