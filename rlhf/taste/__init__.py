"""Tastes: from rankings of a few replies to an aligned model next to the run's own."""
