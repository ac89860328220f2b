"""Supervised fine-tuning on prompt–response pairs, with trl's SFTTrainer."""

import pretrain  # noqa: F401  (a command of this package begins there)
