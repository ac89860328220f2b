"""Tiny models and runs for the tests of this folder."""

from tests.tiny import causal_lm, letters, reward_model, run_maker, tokenizer

__all__ = ["causal_lm", "letters", "reward_model", "run_maker", "tokenizer"]
