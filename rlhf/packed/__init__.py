"""Transformers without padding: forward passes and sampling on a CPU, the same functions with less work."""
