"""Train a reward model on rankings: python -m reward PRESET --run RUN [--field value …]

Reads: RUN/sft and the dialogue of RUN/corpus.txt; or prompts (--prompts) or rankings (--rankings) of your own.

Does: samples replies of the SFT model, has the gold judge or your function (--score) rank them with label noise, and
trains a model to give the better reply the higher score.

Writes: RUN/reward, a Hugging Face sequence classifier with `rankings.jsonl`, `pairs.jsonl`, `report.html`,
`stage.json`, `metrics.jsonl`, `samples.md` and a plot.
"""

from data.console import run_command
from data.run.options import preset_command
from reward.config import PRESETS


def main() -> None:
    config, preset = preset_command(PRESETS, __doc__)
    from reward.train import train_reward  # after the command line is read: trl takes seconds to import

    train_reward(config, preset)


if __name__ == "__main__":
    run_command(main)
