"""Train a reward model of doing what a prompt asks: python -m reward.following PRESET --run RUN [--field value …]

Reads: RUN/sft, which decides the directions, and the dialogue of RUN/corpus.txt.

Does: ranks replies by whether they follow the directions of their prompt, and trains a reward model on the rankings.

Writes: RUN/following, a Hugging Face sequence classifier with `stage.json`, `metrics.jsonl` and the rankings.
"""

from data.console import run_command
from data.run.options import preset_command
from reward.following.config import PRESETS


def main() -> None:
    config, preset = preset_command(PRESETS, __doc__)
    from reward.following.train import train_following  # after the command line is read: trl takes seconds to import

    train_following(config, preset)


if __name__ == "__main__":
    run_command(main)
