"""Find phrases that the style sheet (CONTRIBUTING.md, Language) replaces: python scripts/docs/language.py

Reads the pages, without code and without docs/LOG.md and docs/results.md, which record what was; and every string of
the product and the scripts, docstrings, help texts and errors among them. Prints what to write instead; exit code 1
where something is found.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("data", "pretrain", "sft", "reward", "rlhf", "scripts")
RECORDS = ("LOG.md", "results.md")
VERSE = Path("data/pastiche")
"""Its strings are the grammar of plays, which speak as plays do."""
COUNTED = (
    "nats|bits|tokens|episodes|seconds|steps|responses|samples|sequences|pairs|rankings|rows|dict|lines?|pictures?|idea|"
    "question|words|replies"
)
BY = (
    "second|minute|token|update|reply|response|sequence|step|rollout|character|layer|chapter|prompt|episode|stage|row|"
    "optimizer|forward"
)
PHRASES = {
    rf"\b(?:{COUNTED}) an? (?:{BY})\b": "per, for rates",
    r"\bbeside\b": "next to, compared with",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\b(?:can|cannot|could not|could) be had\b": "could not be downloaded, is not available",
    r"\b(?:go|goes|going|went) on\b": "resume, continue, run again",
    r"\banew\b": "again",
    r"\bdealt\b": "shuffled, divided",
    r"\b(?:for|by|to) who\b": "for those who, for anyone who",
    r"(?<!there )\b(?:is|are) no (?!longer\b|more\b|less\b|better\b|worse\b|reason\b)": "is not a, are not",
    r"\bleave it so\b": "say what the value must be",
    r"\bas ever\b": "as before, as without it",
    r"\bis not made so\b": "must accept …",
}


def faults(text: str) -> Iterator[tuple[int, str, str]]:
    """(place, phrase, what to write instead) for every phrase in `text` that the style sheet replaces."""
    for pattern, better in PHRASES.items():
        for match in re.finditer(pattern, text, flags=re.IGNORECASE):
            yield match.start(), " ".join(match[0].split()), better


def prose(page: str) -> str:
    """A page without its code and its comments; every place keeps its line."""
    for pattern in (r"^```.*?^```", r"`[^`]*`", r"<!--.*?-->", r"\]\([^)]*\)"):
        blank = re.compile(pattern, re.MULTILINE | re.DOTALL)
        page = blank.sub(lambda match: "\n" * match[0].count("\n"), page)
    return page


def in_page(page: str) -> Iterator[tuple[int, str, str]]:
    """(line, phrase, better) of a page of Markdown."""
    text = prose(page)
    for place, phrase, better in faults(text):
        yield text.count("\n", 0, place) + 1, phrase, better


def in_code(source: str) -> Iterator[tuple[int, str, str]]:
    """(line, phrase, better) in the strings of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for place, phrase, better in faults(node.value):
                yield node.lineno + node.value.count("\n", 0, place), phrase, better


def found(root: Path = ROOT) -> Iterator[str]:
    """A line for every fault of the repository."""
    pages = [*root.glob("*.md"), *(path for path in sorted((root / "docs").rglob("*.md")) if path.name not in RECORDS)]
    modules: Iterable[Path] = (path for name in SOURCES for path in sorted((root / name).rglob("*.py")))
    for path in pages:
        for line, phrase, better in in_page(path.read_text("utf-8")):
            yield f"{path.relative_to(root)}:{line}: {phrase!r}; better: {better}"
    for path in modules:
        if VERSE not in path.relative_to(root).parents and path != Path(__file__).resolve():
            for line, phrase, better in in_code(path.read_text("utf-8")):
                yield f"{path.relative_to(root)}:{line}: {phrase!r}; better: {better}"


if __name__ == "__main__":
    lines = list(found())
    print("\n".join(lines) or "language: no phrase that the style sheet replaces")
    sys.exit(bool(lines))
