"""How a stage's command line reads its preset."""

import sys
from typing import TypeVar

import tyro

from data.run.stage import StageOptions

Config = TypeVar("Config", bound=StageOptions)


def preset_command(presets: dict[str, tuple[str, Config]], description: str | None) -> tuple[Config, str]:
    """The configuration that `PRESET [--field value …]` asks for, and the preset's name."""
    config = tyro.extras.overridable_config_cli(presets, description=description)
    return config, next(argument for argument in sys.argv[1:] if argument in presets)
