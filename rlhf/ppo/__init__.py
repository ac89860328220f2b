"""The PPO trainer: for any causal language model, and usable alone."""
