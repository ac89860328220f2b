"""Preferences: collect responses, rank them, train the model that ranks."""
