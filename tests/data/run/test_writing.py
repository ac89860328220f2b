"""Markdown: text that cannot break out of its block, tables, pages of samples."""

from pathlib import Path

from data.run.writing import fenced, table, write_samples


def test_text_cannot_end_its_own_block() -> None:
    assert fenced("\nAy.\n```\nNay.\n\n") == "```text\nAy.\n'''\nNay.\n```"


def test_a_table() -> None:
    assert table(["", "gold"], [["SFT", "0.5"], ["PPO", "0.7"]]) == "\n".join(
        ["|  | gold |", "| --- | --- |", "| SFT | 0.5 |", "| PPO | 0.7 |"]
    )


def test_a_page_of_samples(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples.md", "Replies", [("1", [("", "A:\n"), ("SFT:", "Ay.")])], note="Unselected.")
    assert (tmp_path / "samples.md").read_text() == (
        "# Replies\n\nUnselected.\n\n## 1\n\n```text\nA:\n```\n\nSFT:\n\n```text\nAy.\n```\n"
    )
