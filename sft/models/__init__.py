"""A transformers model: loaded, sampled from, scored. For sft and all stages above it."""
