"""Train a GPT from scratch: python -m pretrain PRESET [--field value …]

Reads: a corpus (--corpus): a named text or a UTF-8 file of your own.

Does: trains a tokenizer and a GPT on the first 90 % of the text, and measures bits per character on the rest.

Writes: RUN/pretrain, a Hugging Face checkpoint with `stage.json`, `metrics.jsonl`, `samples.md` and a plot, and the
text to RUN/corpus.txt.
"""

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
