"""The same functions with less work: forward passes without padding, and decoders with a cache."""
