"""Doing as told: a second reward model, which learns from rankings by the table of directions and by nothing else."""
