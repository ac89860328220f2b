"""Prompts that ask, in the alignment stage: a mixture of directed and undirected prompts, and what their reward is."""
