"""The terminal, and how a command ends: errors a user can cause are one line and exit code 2."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

from rich.console import Console

console = Console(stderr=True, highlight=False)
"""Progress, notices and tables go to stderr; what a program may read (JSON, samples) to stdout."""


class UserError(Exception):
    """Something the user can fix. The message says, in one line, what is wrong and what to do."""


def is_main_process() -> bool:
    """True in the process that may print and write (the launcher sets RANK in every process)."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_everyone() -> None:
    """Wait until every process of one launch is here; alone, return at once."""
    if distributed := _distributed():
        distributed.barrier()


@contextmanager
def main_process_first() -> Iterator[None]:
    """The block is run by the main process, and then by the others."""
    if not is_main_process():
        wait_for_everyone()
    yield
    if is_main_process():
        wait_for_everyone()


def run_command(main: Callable[[], None]) -> None:
    """Run a command line; UserError and a full disk become `error: …` on one line and exit code 2."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what a terminal that is not UTF-8 cannot show is no reason to fail
            stream.reconfigure(errors="replace" if stream is sys.stdin else "backslashreplace")
    try:
        main()
        _leave_the_others()
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"{error.strerror}{where}: free some space or choose another --run, then add --resume")
    except KeyboardInterrupt:
        if is_main_process():
            console.print("interrupted; the same command with --resume continues")
        sys.exit(130)


def _leave_the_others() -> None:
    """End what connects the processes of one launch: a process that exits with its threads alive may abort."""
    if distributed := _distributed():
        distributed.barrier()
        distributed.destroy_process_group()


def _distributed() -> Any:
    """torch.distributed where it connects this process to others; None where it does not, or was never imported."""
    distributed: Any = sys.modules.get("torch.distributed")
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None


def _fail(message: str) -> None:
    if is_main_process():
        print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)
