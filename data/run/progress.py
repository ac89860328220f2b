"""A progress bar that shows the metric that matters and the time left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from data.console import console, is_main_process


class Bar:
    """Moves one bar; silent unless stderr is a terminal and this the main process."""

    def __init__(self, progress: Progress, task: int) -> None:  # rich's TaskID is an int
        self._progress, self._task = progress, task

    def advance(self, steps: int = 1, metric: str | None = None) -> None:
        self._progress.advance(self._task, steps)  # type: ignore[arg-type]
        if metric is not None:
            self._progress.update(self._task, metric=metric)  # type: ignore[arg-type]


@contextmanager
def progress_bar(name: str, total: int, done: int = 0) -> Iterator[Bar]:
    """A bar of `total` steps that starts at `done`; `Bar.advance` moves it and sets its metric."""
    progress = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[metric]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not is_main_process() or not console.is_terminal,
    )
    with progress:
        yield Bar(progress, progress.add_task(name, total=total, completed=done, metric=""))
