"""Preferences: collect responses, rank them, train the model that ranks."""

import pretrain  # noqa: F401  (a command of this package begins there)
