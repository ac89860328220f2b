"""Markdown that the stages write: fenced text, tables, and pages of samples."""

from collections.abc import Iterable, Sequence
from pathlib import Path


def fenced(text: str) -> str:
    """A block of text that Markdown shows as it is."""
    return "```text\n" + text.strip("\n").replace("```", "'''") + "\n```"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, without a newline at its end."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def write_samples(
    path: Path, title: str, sections: Iterable[tuple[str, Iterable[tuple[str, str]]]], note: str = ""
) -> None:
    """A page of samples: every section is a heading and its texts, each with a caption ("" for none)."""
    parts = [f"# {title}", *([note] if note else [])]
    for heading, texts in sections:
        parts.append(f"## {heading}")
        for caption, text in texts:
            parts += [caption, fenced(text)] if caption else [fenced(text)]
    path.write_text("\n\n".join(parts) + "\n", "utf-8")
