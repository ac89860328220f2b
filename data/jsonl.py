"""JSON lines, the format of every file that passes between the stages or comes from the user."""

import json
import os
import types
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_origin

from data.console import UserError

Kind = type | tuple[type, ...] | types.GenericAlias
"""A required type: `str`, `(int, float)`, or a list with its elements, `list[str]`, `list[list[int]]`."""


class Row(dict[str, Any]):
    """The JSON object of one line, which knows where it stands."""

    where = ""
    """File and line, as errors name them."""


def read_jsonl(
    path: str | Path,
    required: Mapping[str, Kind],
    check: Callable[[dict[str, Any]], None] = lambda row: None,
    optional: Mapping[str, Kind] | None = None,
) -> list[Row]:
    """Read a UTF-8 file of one JSON object a line; blank lines are skipped, further keys are kept.

    `required` maps each key that must be there to its type, `optional` each that may be; `check` raises UserError for a
    row that is wrong in another way, and may change it. Raises UserError, naming the file and the line, for a missing
    or empty file, text that is not UTF-8, a broken line, a missing key, a wrong type, and what `check` says.
    """
    path = with_home(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a JSONL file") from error
    rows = []
    # Split bytes at \n only: str.splitlines would also split at U+2028, which JSON allows inside a string.
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            with at(f"{path}, line {number}") as where:
                row = Row(parse_row(line, required, optional or {}))
                row.where = where
                check(row)
            rows.append(row)
    if not rows:
        raise UserError(f"{path}: is empty; it needs one JSON object a line")
    return rows


@contextmanager
def at(where: str) -> Iterator[str]:
    """A UserError of the block says where it is."""
    try:
        yield where
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def parse_row(line: bytes, required: Mapping[str, Kind], optional: Mapping[str, Kind]) -> dict[str, Any]:
    """The JSON object of one line, with the keys and types of `read_jsonl`; UserError for what is none."""
    try:
        row = json.loads(line.decode("utf-8"))
        json.dumps(row, ensure_ascii=False).encode("utf-8")  # an escaped lone surrogate is no text either
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 at byte {error.start} of the line; convert the file") from error
    except UnicodeEncodeError as error:
        raise UserError("holds half a character (a lone surrogate escape); correct it") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON ({error}); correct or remove the line") from error
    if not isinstance(row, dict):
        raise UserError(f"must be a JSON object, not {_json_name(row)}")
    if missing := [key for key in required if key not in row]:
        raise UserError(f'the key "{missing[0]}" is missing; needed: {", ".join(required)}')
    for key, kind in (*required.items(), *optional.items()):
        if key in row and not _matches(row[key], kind):
            raise UserError(f'"{key}" must be {_kind_name(kind)}, not {_json_name(row[key])}')
    return row


def read_texts(path: str | Path, *keys: str, check: Callable[[str], object] = str) -> list[Row]:
    """`read_jsonl` for rows that hold a text under each of `keys`, none of them blank (UserError).

    `check` raises UserError for a text that cannot be used, as `Tokenizer.check` does.
    """

    def check_row(row: dict[str, str]) -> None:
        for key in keys:
            if not row[key].strip():
                raise UserError(f'"{key}" is empty; fill or remove it')
            check(row[key])

    return read_jsonl(path, dict.fromkeys(keys, str), check_row)


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, UTF-8; the file is whole or absent. Raises OSError as any write does."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8"))


def append_jsonl(path: str | Path, *rows: Mapping[str, Any]) -> None:
    """Add lines, which are on disk when this returns. Half a line at the end, left by a kill, is replaced."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
    with with_home(path).open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def read_appended(path: str | Path) -> list[dict[str, Any]]:
    """The whole lines of a file that a program of ours appends to; none where there is no file.

    Half a line, left by a kill, does not count. UserError, with file and line, for one that somebody else broke.
    """
    try:
        *lines, _ = with_home(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        return [*read_jsonl(path, {})]  # which names what it cannot read


def with_home(path: str | Path) -> Path:
    """A path as the user wrote it, `~` and `~name` being home folders: a shell leaves `--run=~/mine` as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111, since Path.expanduser raises where nobody has the name


def write_whole(path: str | Path, content: bytes) -> None:
    """Write to a temporary sibling and rename it into place, so that no reader ever sees half a file."""
    path = with_home(path)
    sibling = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with sibling.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a full disk is found here and not after the rename
        sibling.replace(path)
    finally:
        sibling.unlink(missing_ok=True)


def _matches(value: object, kind: Any) -> bool:
    if isinstance(kind, tuple):
        return any(_matches(value, choice) for choice in kind)
    if get_origin(kind) is list:
        (element,) = get_args(kind)
        return isinstance(value, list) and all(_matches(item, element) for item in value)
    if isinstance(value, bool) and kind is not bool:  # to Python True is an int; in a file it is a mistake
        return False
    return isinstance(value, kind)


def _kind_name(kind: Any) -> str:
    if isinstance(kind, tuple):
        return " or ".join(_kind_name(choice) for choice in kind)
    if get_origin(kind) is list:
        return f"a list, each item {_kind_name(get_args(kind)[0])}"
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false", list: "a list"}
    return names.get(kind, "an object" if kind is dict else getattr(kind, "__name__", str(kind)))


def _json_name(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, list) and value:
        return f"a list with {' and '.join(sorted({_kind_name(type(item)) for item in value}))}"
    return _kind_name(type(value))
