"""What checks the annotations of the mathematics while the tests run, and nowhere else."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""An int may stand for a float, as Python's type checkers have it."""
