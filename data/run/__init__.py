"""The run folder: the one contract between stages."""
