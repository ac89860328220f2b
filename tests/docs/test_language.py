"""The words of the style sheet hold, in pages and in the strings of the code."""

import runpy
from pathlib import Path

import pytest

lint = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "docs" / "language.py"))


def test_the_repository_keeps_to_the_style_sheet() -> None:
    assert not (found := list(lint["found"]())), "\n".join(found)


@pytest.mark.parametrize(
    ("page", "lines"),
    [
        ("It stands beside it,\nand goes on.\n", [1, 2]),
        ("```bash\ngo on\n```\nSeven nats a token.\n", [4]),
        ("`go on` and [a link](#ppo-beside-trls) <!-- go on -->\n", []),
        ("There is no folder. It is no longer there, but it is no folder.\n", [1]),
        ("A token a second, besides.\n", []),
    ],
)
def test_phrases_are_found_where_a_reader_sees_them(page: str, lines: list[int]) -> None:
    assert sorted(line for line, _, _ in lint["in_page"](page)) == lines


def test_strings_of_code_are_read_and_names_are_not() -> None:
    code = '"""Doc.\n\nIt goes on."""\n\nbeside = 1  # beside\nraise ValueError(f"{beside} is no number")\n'
    assert [(line, phrase) for line, phrase, _ in lint["in_code"](code)] == [(3, "goes on"), (6, "is no")]
