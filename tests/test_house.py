"""The house stays in order: small rooms, short files, and imports that go one way."""

import graphlib
import re
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("data", "pretrain", "sft", "reward", "rlhf")
FILES_PER_FOLDER = 14
LINES_PER_FILE = 400


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Every import of the product, those within functions too; what only a type checker reads is left out."""
    return grimp.build_graph(
        *PRODUCT, include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )


def crowded(root: Path) -> list[str]:
    """Every folder of product code with too many files, and every file with too many lines."""
    files = [path for package in PRODUCT for path in sorted((root / package).rglob("*")) if path.is_file()]
    files = [path for path in files if "__pycache__" not in path.parts]
    found = []
    for folder in sorted({path.parent for path in files}):
        count = sum(path.parent == folder and path.name != "__init__.py" for path in files)
        if count > FILES_PER_FOLDER:
            found.append(f"{folder.relative_to(root)}: {count} files, at most {FILES_PER_FOLDER}")
    for path in files:
        if path.suffix == ".py" and (lines := len(path.read_text("utf-8").splitlines())) > LINES_PER_FILE:
            found.append(f"{path.relative_to(root)}: {lines} lines, at most {LINES_PER_FILE}")
    return found


def cycle(graph: grimp.ImportGraph) -> list[str]:
    """The modules of one cycle of imports, each importing the next; empty without a cycle."""
    sorter = graphlib.TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules})
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_no_folder_is_crowded_and_no_file_is_long() -> None:
    assert not crowded(ROOT)


def test_crowds_are_counted(tmp_path: Path) -> None:
    room = tmp_path / "sft" / "room"
    room.mkdir(parents=True)
    for name in ["__init__", *(f"file{number}" for number in range(FILES_PER_FOLDER))]:
        (room / f"{name}.py").write_text("x = 0\n" * LINES_PER_FILE)
    assert not crowded(tmp_path)
    (room / "page.html").write_text("one file more\n")
    (room / "file0.py").write_text("x = 0\n" * (LINES_PER_FILE + 1))
    assert crowded(tmp_path) == ["sft/room: 15 files, at most 14", "sft/room/file0.py: 401 lines, at most 400"]


def test_imports_have_no_cycle(graph: grimp.ImportGraph) -> None:
    assert not (found := cycle(graph)), " imports ".join(found)


def test_a_cycle_is_found() -> None:
    graph = grimp.ImportGraph()
    for importer, imported in [("a", "b"), ("b", "c"), ("a", "c")]:
        graph.add_import(importer=importer, imported=imported)
    assert not cycle(graph)
    graph.add_import(importer="c", imported="b")
    assert cycle(graph) in (["b", "c", "b"], ["c", "b", "c"])


def test_data_needs_no_torch(graph: grimp.ImportGraph) -> None:
    """Every stage, the reports and the scripts read `data`, which starts at once."""
    assert not {"torch", "accelerate"} & graph.find_upstream_modules("data", as_package=True)


@pytest.mark.parametrize(
    ("pattern", "where"),
    [
        (r"tyro\.cli\(|overridable_config_cli\(", "data/run/options.py"),
        (r"\.manual_seed\(", "pretrain/machine.py"),
    ],
)
def test_command_lines_are_read_and_seeds_are_set_in_one_place(pattern: str, where: str) -> None:
    """There `~` is a home folder and every seed from 0 to 2^64 - 1 a seed; elsewhere somebody would forget it."""
    files = [path for package in PRODUCT for path in (ROOT / package).rglob("*.py")]
    assert [str(path.relative_to(ROOT)) for path in files if re.search(pattern, path.read_text("utf-8"))] == [where]
