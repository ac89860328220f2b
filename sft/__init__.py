"""Supervised fine-tuning on prompt–response pairs, with trl's SFTTrainer."""
