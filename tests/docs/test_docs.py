"""The pages cannot rot: what they link to stands where they say, and what they name exists."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACES = ("data/", "pretrain/", "sft/", "reward/", "rlhf/", "scripts/", "tests/", "docs/", ".ci/")
FILES = ("README.md", "Makefile", "LICENSE", "pyproject.toml", "constraints.txt")
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
RELINK = [sys.executable, str(ROOT / "scripts" / "link_lines.py")]


def links(page: Path) -> list[tuple[str, str]]:
    """(text, target) of every link that stays in the repository."""
    found = [(match["text"], match["target"]) for match in LINK.finditer(page.read_text("utf-8"))]
    return [(text, target) for text, target in found if "://" not in target]


def rotten(page: Path) -> list[str]:
    """Every link to a line of code on which the name in its text is not defined."""
    wrong = []
    for text, target in links(page):
        path, _, line = target.partition("#L")
        if not line:
            continue
        name = text.strip("`").rpartition(".")[2]
        lines = (page.parent / path).read_text("utf-8").splitlines()
        here = lines[int(line) - 1] if int(line) <= len(lines) else ""
        if not re.match(rf"\s*(?:(?:async )?def {name}\(|class {name}\b|{name}\s*[:=])", here):
            wrong.append(f"{page.name}: `{text}` does not stand at {target} (python scripts/link_lines.py mends it)")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_point_at_what_they_name(page: Path) -> None:
    assert not rotten(page)


def test_every_detail_has_its_code_and_its_test() -> None:
    details = re.split(r"^\*\*(?=\d+\. )", (ROOT / "docs" / "ppo.md").read_text("utf-8"), flags=re.MULTILINE)[1:]
    assert [int(detail.partition(".")[0]) for detail in details] == list(range(1, 30))
    for detail in details:
        number, code, tests = detail.partition(".")[0], detail.find("\nCode: "), detail.find("\nTest")
        assert 0 < code < tests, number
        assert re.search(r"\.py#L\d+\)", detail[code:tests]), number
        assert re.search(r"\(\.\./tests/[\w/]+\.py#L\d+\)", detail[tests:]), number


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    named = {target.partition("#")[0] for _, target in links(page)} - {""}
    missing = [target for target in named if not (page.parent / target).exists()]
    quoted = re.findall(r"(?<!`)`([\w./{},-]+)`(?!`)", page.read_text("utf-8"))
    for word in quoted:
        is_path = word.startswith(PLACES) and (word.endswith("/") or re.search(r"\.\w+$", word))
        if (is_path or word in FILES) and not (ROOT / word).exists():
            missing.append(word)
    assert not missing


def test_moved_code_is_found_again(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copytree(ROOT / "rlhf", tmp_path / "rlhf", ignore=shutil.ignore_patterns("__pycache__"))
    code, page = tmp_path / "rlhf" / "losses.py", tmp_path / "docs" / "page.md"
    page.write_text("See [`gae`](../rlhf/ppo/losses.py#L1) and [`PPOConfig.gamma`](../rlhf/ppo/config.py#L1).\n")
    assert len(rotten(page)) == 2
    subprocess.run([*RELINK, str(page)], check=True)
    assert not rotten(page)
    code.write_text("# one line more\n" + code.read_text("utf-8"), "utf-8")
    assert len(rotten(page)) == 1
    subprocess.run([*RELINK, str(page)], check=True)
    assert not rotten(page)
    code.write_text("gone = 0\n", "utf-8")
    failed = subprocess.run([*RELINK, str(page)], capture_output=True, text=True, check=False)
    assert failed.returncode
    assert "defines no gae" in failed.stderr
