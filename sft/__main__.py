"""Fine-tune on prompt–reply pairs: python -m sft PRESET --run RUN [--field value …]

Reads: RUN/pretrain and the dialogue of RUN/corpus.txt, or pairs of your own (--data).

Does: trains the pretrained model to answer with one reply and to stop; the loss is on the reply alone.

Writes: RUN/sft, a Hugging Face checkpoint with `stage.json`, `metrics.jsonl`, `samples.md` and a plot.
"""

from data.console import run_command
from data.run.options import preset_command
from sft.config import PRESETS


def main() -> None:
    config, preset = preset_command(PRESETS, __doc__)
    from sft.train import fine_tune  # after the command line is read: trl takes seconds to import

    fine_tune(config, preset)


if __name__ == "__main__":
    run_command(main)
