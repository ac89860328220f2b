import errno
import json

import pytest

from data import jsonl
from data.console import UserError
from data.jsonl import append_jsonl, read_appended, read_jsonl, read_texts, write_jsonl, write_whole

RANKINGS = {"prompt": str, "completions": list[str], "ranking": list[list[int]]}
GOOD = {"prompt": "A:\n", "completions": ["x", "y"], "ranking": [[1], [0]]}


def test_what_is_written_is_read_back(tmp_path):
    rows = [{"prompt": "é\u2028\n“quoted”", "seed": 1}, {"prompt": "", "seed": -2, "more": None}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl", {"prompt": str, "seed": int}) == rows
    assert "é\u2028" in (tmp_path / "rows.jsonl").read_text(encoding="utf-8")  # readable, not escaped


def test_blank_lines_windows_newlines_and_byte_order_mark_are_harmless(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert read_jsonl(path, {"a": int}) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"prompt": "A"', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"prompt": "\xff"}', "not UTF-8 at byte 12"),
        (b'{"prompt": "\\ud800"}', "lone surrogate"),
        (b'["prompt"]', "must be a JSON object"),
        (json.dumps({"prompt": "A"}).encode(), '"completions" is missing'),
        (json.dumps(GOOD | {"prompt": 3}).encode(), '"prompt" must be a string, not an integer'),
        (json.dumps(GOOD | {"prompt": None}).encode(), '"prompt" must be a string, not null'),
        (json.dumps(GOOD | {"completions": "xy"}).encode(), '"completions" must be a list'),
        (json.dumps(GOOD | {"completions": ["x", 1]}).encode(), '"completions" must be a list'),
        (json.dumps(GOOD | {"ranking": [0, 1]}).encode(), '"ranking" must be a list'),
        (json.dumps(GOOD | {"ranking": [[0], [True]]}).encode(), '"ranking" must be a list'),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path, line, complaint):
    path = tmp_path / "rankings.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(UserError) as caught:
        read_jsonl(path, RANKINGS)
    assert "rankings.jsonl, line 3" in str(caught.value)
    assert complaint in str(caught.value)


def test_a_row_knows_its_line_for_what_is_found_later(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n \n{"a": 2}\n', "utf-8")
    assert [row.where for row in read_jsonl(path, {"a": int})] == [f"{path}, line 1", f"{path}, line 4"]


def test_blank_text_and_what_a_check_says_are_named_too(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "A"}\n\n{"prompt": " \\n"}\n', "utf-8")
    with pytest.raises(UserError, match=r'rows\.jsonl, line 3: "prompt" is empty; fill or remove it'):
        read_texts(path, "prompt")

    def check(row):
        if row["prompt"] != "A":
            raise UserError("B is wrong")

    path.write_text('{"prompt": "A"}\n\n{"prompt": "B"}\n', "utf-8")
    with pytest.raises(UserError, match=r"rows\.jsonl, line 3: B is wrong"):
        read_jsonl(path, {"prompt": str}, check)


def test_either_of_several_types_is_taken(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"score": 1}, {"score": 0.5}])
    assert len(read_jsonl(path, {"score": (int, float)})) == 2
    with pytest.raises(UserError, match=r'line 2: "score" must be an integer or a string, not a number'):
        read_jsonl(path, {"score": (int, str)})


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(tmp_path, content):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"rows\.jsonl: is empty"):
        read_jsonl(tmp_path / "rows.jsonl", {"prompt": str})


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_jsonl(tmp_path / "none.jsonl", {"prompt": str})
    with pytest.raises(UserError, match="directory"):
        read_jsonl(tmp_path, {"prompt": str})


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": 1}])

    def no_space(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(jsonl.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"half")
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]
    assert read_jsonl(path, {"a": int}) == [{"a": 1}]


def test_appended_lines_are_read_back_in_order(tmp_path):
    path = tmp_path / "votes.jsonl"
    assert read_appended(path) == []
    rows = [{"text": "a"}, {"text": "é\u2028\n"}, {"text": ""}]
    for count, row in enumerate(rows, start=1):
        append_jsonl(path, row)
        assert read_appended(path) == rows[:count]


@pytest.mark.parametrize("whole", [b"", b'{"n": 0}\n'])
@pytest.mark.parametrize("half", [b"{", b'{"text": "\xc3'])
def test_half_a_line_is_no_line_and_the_next_one_takes_its_place(tmp_path, whole, half):
    path = tmp_path / "votes.jsonl"
    path.write_bytes(whole + half)
    before = read_appended(path)
    assert before == ([{"n": 0}] if whole else [])
    append_jsonl(path, {"n": 1})
    assert path.read_bytes() == whole + b'{"n": 1}\n'
    assert read_appended(path) == [*before, {"n": 1}]


def test_an_appended_line_that_somebody_broke_is_named(tmp_path):
    path = tmp_path / "appended.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n": \n{"n": 2}\n')
    with pytest.raises(UserError, match=r"appended.jsonl, line 2: not valid JSON"):
        read_appended(path)
