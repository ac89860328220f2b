"""docs/directions.md: its table of one's own is a table, and what it says of the built-in one is so."""

import random
import re
from pathlib import Path

import pytest

from data.dialogue import dialogue_pairs
from data.directions.drawing import HOW_MANY, Directions
from data.directions.headings import directed, parse_direction, read_directions, split_prompt
from data.directions.specs import load_specs
from data.directions.table import SPECS
from data.pastiche import pastiche

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "directions.md").read_text("utf-8")
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_worked_example_is_a_table_that_a_text_can_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_directions.py").write_text(CODE, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    specs = load_specs("my_directions:SPECS")
    pairs = dialogue_pairs(pastiche(characters=60_000).text)
    table, rng = Directions(specs, [pair.completion for pair in pairs]), random.Random(0)
    told = [each for pair in pairs for each in table.hindsight(pair.completion, rng)]
    assert {each.spec.text for each in told} == {spec.text for spec in specs}
    (asked,) = re.findall(r'sft --prompt \S+ --directions "(.*)"', PAGE)
    directions = read_directions(asked, specs)
    assert [*map(str, directions)] == ["as a friend", "swearing by heaven"]
    assert all(each.followed("By heaven, I know thee.") for each in directions)
    assert split_prompt(directed("ROMEO:\n", directions), specs)[1] == ("ROMEO", directions)


def test_the_built_in_table_is_the_pages() -> None:
    rows = [row.split(" | ") for row in re.findall(r"^\| (\w+ \| `.*) \|$", PAGE, re.MULTILINE)]
    named = {kind: re.findall("`([^`]+)`", texts) for kind, texts, _ in rows if kind in {spec.kind for spec in SPECS}}
    assert {*named} == {spec.kind for spec in SPECS}
    for kind, texts in named.items():
        for text in texts:
            direction = parse_direction(text, SPECS)
            assert direction is not None, text
            assert direction.kind == kind
    assert "with probability {}, {}, {} and {}".format(*(f"{p:g}".lstrip("0") for p in HOW_MANY)) in PAGE
