"""The screens of a run and what annotators say about them, as JSON lines.

FOLDER/screens.jsonl has the screens, the same for all; FOLDER/rankings/ANNOTATOR.jsonl the judgements of one annotator,
which `--rankings` takes. A judgement is on disk before it is confirmed, and its id makes a repeated request one
judgement. What comes next for an annotator follows from these files alone, so a killed server continues where it was.
"""

import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from filelock import FileLock, Timeout

from data.console import UserError
from data.jsonl import append_jsonl, read_appended, write_jsonl
from reward.labeller import pair_agreement
from reward.screens import Row, judgement_of, next_screen, rankings_file


def _request(method: Callable[..., Row | None]) -> Callable[["Store", Row], Row]:
    """A request of an `annotator`, from any thread; it is answered with what they see after it."""

    @wraps(method)
    def answer(store: "Store", values: Row) -> Row:
        with store.changed:
            file = rankings_file(store.folder, values["annotator"])
            rows = store.judged[file.stem] = store.judged.get(file.stem) or read_appended(file)
            more = method(store, values, file, rows)
            store.changed.notify_all()
            return store.view(file.stem) | (more or {})

    return answer


class Store:
    """The screens and judgements in `folder`, of one process at a time."""

    def __init__(self, folder: Path, goal: int) -> None:
        """goal: screens that each annotator is asked for. UserError where another server has the folder open."""
        self.folder, self.goal = folder, goal
        self.problem = ""
        """Why there are no more screens, if that is so: one line for the page."""
        (folder / "rankings").mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / "lock", thread_local=False)
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another server has {folder} open: use its page, or stop it first") from None
        self.changed = threading.Condition()
        self.screens = read_appended(folder / "screens.jsonl")
        self.judged = {file.stem: read_appended(file) for file in (folder / "rankings").glob("*.jsonl")}

    def add_screen(self, screen: Row) -> None:
        with self.changed:
            append_jsonl(self.folder / "screens.jsonl", screen)
            self.screens.append(screen)

    @_request
    def state(self, values: Row, file: Path, rows: list[Row]) -> None:
        """What the annotator sees."""

    @_request
    def judge(self, values: Row, file: Path, rows: list[Row]) -> None:
        """Save what `reward.screens.judgement_of` makes of `values`, once for each id."""
        if values["id"] not in [row["id"] for row in rows]:
            row = judgement_of(values, rows, self.screens[: self.goal])
            self.judged[file.stem] = []  # read again where this fails: the line may be there all the same
            append_jsonl(file, row)
            self.judged[file.stem] = [*rows, row]

    @_request
    def undo(self, values: Row, file: Path, rows: list[Row]) -> Row | None:
        """Remove the last judgement if it has this `id`; the answer then has the ranking that it `restored`."""
        if not rows or rows[-1]["id"] != values["id"]:
            return None
        self._keep(file, rows[:-1])
        return {"restored": rows[-1]["ranking"]}

    @_request
    def delete(self, values: Row, file: Path, rows: list[Row]) -> None:
        """Remove all that the annotator said."""
        self._keep(file, [])

    def _keep(self, file: Path, rows: list[Row]) -> None:
        if rows:
            write_jsonl(file, rows)
        else:
            file.unlink(missing_ok=True)
        self.judged[file.stem] = rows

    def view(self, annotator: str) -> Row:
        """The annotator's next screen, its replies in an order of theirs, and how far they are."""
        rows = self.judged.get(annotator, [])
        screen, order, _ = next_screen(annotator, rows, self.screens[: self.goal])
        first = {who: {row["screen"]: row["ranking"] for row in reversed(said)} for who, said in self.judged.items()}
        mine = first.pop(annotator, {})
        return {
            "screen": screen and {key: screen[key] for key in ("id", "prompt", "completions", "stopped")},
            "order": order,
            "done": len(mine),
            "goal": self.goal,
            "last": rows[-1]["id"] if rows else None,
            "with_self": pair_agreement((mine[row["screen"]], row["ranking"]) for row in rows if row["repeat"]),
            "with_others": pair_agreement((mine[i], said[i]) for said in first.values() for i in mine if i in said),
            "problem": self.problem,
        }
