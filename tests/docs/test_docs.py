"""The pages cannot rot: what they link to exists, and so does what they name."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PLACES = ("data/", "pretrain/", "sft/", "reward/", "rlhf/", "scripts/", "tests/", "docs/", ".ci/", ".github/")
FILES = ("README.md", "Makefile", "LICENSE", "pyproject.toml", "constraints.txt")
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")


def links(page: Path) -> list[tuple[str, str]]:
    """(text, target) of every link that stays in the repository."""
    found = [(match["text"], match["target"]) for match in LINK.finditer(page.read_text("utf-8"))]
    return [(text, target) for text, target in found if "://" not in target]


def definitions(body: Iterable[ast.stmt], prefix: str = "") -> set[str]:
    """Dotted name of every class, function, method, field and constant of a module."""
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(prefix + node.name)
        if isinstance(node, ast.ClassDef):
            names |= definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            names |= {prefix + target.id for target in targets if isinstance(target, ast.Name)}
    return names


def rotten(page: Path) -> list[str]:
    """Every link that names a symbol, such as [`gae`](losses.py), whose file does not exist or does not define it."""
    wrong = []
    for text, target in links(page):
        file, name = page.parent / target, text.strip("`")
        if not target.endswith(".py") or text != f"`{name}`" or "/" in name or name.endswith(".py"):
            continue
        if not file.exists():
            wrong.append(f"{page.name}: no file {target}, linked for `{name}`")
        elif name not in definitions(ast.parse(file.read_text("utf-8")).body):
            wrong.append(f"{page.name}: {target} does not define `{name}`")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_point_at_what_they_name(page: Path) -> None:
    assert not (wrong := rotten(page)), "\n".join(wrong)
    assert "#L" not in page.read_text("utf-8"), "a line's number is out of date tomorrow: link the file"


def test_every_detail_has_its_code_and_its_test() -> None:
    pages = "".join((ROOT / "docs" / name).read_text("utf-8") for name in ("ppo.md", "ppo-learning.md"))
    details = re.split(r"^\*\*(?=\d+\. )", pages, flags=re.MULTILINE)[1:]
    assert [int(detail.partition(".")[0]) for detail in details] == list(range(1, 30))
    for detail in details:
        number, code, tests = detail.partition(".")[0], detail.find("\nCode: "), detail.find("\nTest")
        assert 0 < code < tests, number
        assert re.search(r"\.py\)", detail[code:tests]), number
        assert re.search(r"\(\.\./tests/[\w/]+\.py\)", detail[tests:]), number


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


def test_the_workflow_runs_what_make_test_runs_on_three_systems() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text("utf-8"))
    job = workflow["jobs"]["test"]
    assert {name.partition("-")[0] for name in job["strategy"]["matrix"]["os"]} == {"ubuntu", "macos", "windows"}
    makefile = (ROOT / "Makefile").read_text("utf-8")
    command = re.search(r"^test: .*\n\tOMP_NUM_THREADS=1 \$\(BIN\)/(.+)$", makefile, re.MULTILINE)
    assert command
    assert [step["run"] for step in job["steps"] if step.get("name") == "Test"] == [command[1]]
    assert job["env"]["OMP_NUM_THREADS"] == "1"


def test_the_index_lists_every_page_and_no_page_is_long() -> None:
    """LOG and results keep what was measured, for good; chapters are listed by the course."""
    index = ROOT / "docs" / "README.md"
    listed = {target for _, target in links(index)}
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages | {"course/README.md"} <= listed
    long = {page.name for page in PAGES if len(page.read_text("utf-8").splitlines()) > 300}
    assert long <= {"LOG.md", "results.md"}
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_anchors_are_headings(page: Path) -> None:
    for _, target in links(page):
        file, _, anchor = target.partition("#")
        place = page.parent / file if file else page
        if anchor and place.suffix == ".md":
            assert anchor in headings(place), target


def test_a_symbol_that_left_its_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text(
        "def gae(): ...\nclass Config:\n    gamma: float = 1.0\n    lam = 0.95\n", "utf-8"
    )
    page = tmp_path / "page.md"
    page.write_text("[`gae`](losses.py), [`Config.gamma`](losses.py), [`Config.lam`](losses.py), [`lam`](losses.py)\n")
    assert rotten(page) == ["page.md: losses.py does not define `lam`"]
    page.write_text("[`losses.py`](losses.py) in [`docs/losses.py`](losses.py), [`gae`](gone.py)\n")
    assert rotten(page) == ["page.md: no file gone.py, linked for `gae`"]
