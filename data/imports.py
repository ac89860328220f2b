"""What users bring in modules of their own, named "module:attribute"."""

import importlib
import operator
import sys
from pathlib import Path
from typing import Any

from data.console import UserError


def import_named(name: str, what: str, example: str) -> Any:
    """What "module:attribute" names; the module may lie in the current folder. UserError if there is nothing.

    what: how a message calls it. example: a name that could stand there.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise UserError(f"{what} {name!r}: write it as {example}")
    # Last, so that nothing of the user's is found in the place of ours; python -m alone would put it first.
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return operator.attrgetter(attribute)(importlib.import_module(module_name))
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what} {name!r}: no module {error.name!r}; run in the folder that holds it or install it"
        ) from error
    except AttributeError as error:
        raise UserError(f"{what} {name!r}: {error}; name something that {module_name} defines") from error
    except Exception as error:  # a user's module raises what it likes
        raise UserError(f"{what} {name!r}: {module_name} raised {type(error).__name__}: {error}; correct it") from error
