"""Bring the line numbers in a page's links to code up to date: python scripts/link_lines.py [PAGE …]

A link such as [`Learner.update`](../rlhf/ppo/learner.py#L66) names what stands on that line: a class, a function, a
method or a field. After the code has moved, this finds the line again; a name that is gone is an error. Without a
page, all pages of docs/.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[`(?P<name>[\w.]+)`\]\((?P<path>[\w./-]+\.py)#L(?P<line>\d+)\)")


def definitions(source: str) -> dict[str, int]:
    """Line of every class, function, method, field and constant of a module, by its dotted name."""
    lines: dict[str, int] = {}

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                lines[prefix + node.name] = node.lineno
                if isinstance(node, ast.ClassDef):
                    look(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                for target in [node.target] if isinstance(node, ast.AnnAssign) else node.targets:
                    if isinstance(target, ast.Name):
                        lines[prefix + target.id] = node.lineno

    look(ast.parse(source).body, "")
    return lines


def relink(page: Path) -> str:
    """The page's text with every link at the line where its name stands; KeyError for a name that is gone."""

    def found(match: re.Match[str]) -> str:
        name, path = match["name"], match["path"]
        known = definitions((page.parent / path).read_text("utf-8"))
        if name not in known:
            raise KeyError(f"{page}: {path} defines no {name}")
        return f"[`{name}`]({path}#L{known[name]})"

    return LINK.sub(found, page.read_text("utf-8"))


if __name__ == "__main__":
    pages = [Path(argument) for argument in sys.argv[1:]] or sorted((ROOT / "docs").rglob("*.md"))
    for page in pages:
        page.write_text(relink(page), "utf-8")
