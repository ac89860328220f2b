"""The base page of the reports and its charts: one file that asks for nothing, in which text is text."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from data.run.charts import COLOURS as PLACEHOLDERS
from data.run.charts import Dot, bar_chart, calibration_chart, curve_chart, dot_chart, plane_chart
from data.run.page import COLOURS, write_page

jinja2 = pytest.importorskip("jinja2")

REPORT = '{% extends "page.html.j2" %}{% block title %}{{ name }}{% endblock %}{% block main %}<p>{{ name }}</p>'


def written(folder: Path, template: str, **context: object) -> str:
    (folder / "report.html.j2").write_text(template + "{% endblock %}", "utf-8")
    write_page(folder / "report.html", folder, "report.html.j2", **context)
    return (folder / "report.html").read_text("utf-8")


def test_text_is_text_and_the_page_asks_for_nothing(tmp_path: Path) -> None:
    page = written(tmp_path, REPORT, name="<script>alert(1)</script> & “ö”")
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; &amp; “ö”") == 2
    assert not re.search(r"\ssrc=|\shref=|@import|url\(", page)


def test_a_name_without_a_value_is_an_error_and_no_page(tmp_path: Path) -> None:
    with pytest.raises(jinja2.UndefinedError, match="name"):
        written(tmp_path, REPORT)
    assert not (tmp_path / "report.html").exists()


def test_every_colour_is_there_in_light_and_in_dark(tmp_path: Path) -> None:
    light, dark = written(tmp_path, REPORT, name="").split("prefers-color-scheme: dark", 1)
    for name, (on_light, on_dark) in COLOURS.items():
        assert f"--{name}: {on_light};" in light
        assert f"--{name}: {on_dark};" in dark


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_colour_can_be_read_on_paper_and_on_cards(tmp_path: Path) -> None:
    for scheme, page in enumerate(written(tmp_path, REPORT, name="").split("prefers-color-scheme: dark", 1)):
        for ground in re.findall(r"--(?:paper|card): (#\w{6})", page):
            for name, colours in COLOURS.items():
                darker, lighter = sorted(map(luminance, (ground, colours[scheme])))
                assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (name, ground)


def test_a_page_needs_jinja_when_it_is_written_and_not_before() -> None:
    code = "import sys, data.run.page; sys.exit('jinja2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "svg",
    [
        curve_chart({"one": ([1, 2], [3.0, 4.0]), "two": ([1, 2], [1.0, 2.0])}, "step", "nats", ["sft", "rlhf"]),
        calibration_chart({"sft": [(0.2, 0.3), (0.8, 0.7)]}, ["sft"]),
        bar_chart({"sft": 0.25, "rlhf": 0.75}, ["sft", "rlhf"], "verse"),
        dot_chart({"rate": [Dot(0.25, 0.2, 0.3, "sft"), Dot(0.5, 0.4, 0.6, "rlhf")]}, "share", "rates", 0.5),
        plane_chart(
            {"SFT": (Dot(0.5, 0.4, 0.6, "sft"),) * 2, "aligned": (Dot(0.7, 0.6, 0.8, "rlhf"),) * 2}, "x", "y", "plane"
        ),
    ],
)
def test_charts_take_their_colours_from_the_page(svg: str) -> None:
    assert svg.startswith("<svg role=")
    assert "var(--rlhf)" in svg or "var(--sft)" in svg
    assert not set(PLACEHOLDERS.values()) & set(re.findall(r"#[0-9a-f]{6}", svg))
    assert not re.search(r"<metadata|<\?xml|href=\"(?!#)", svg)


def test_several_dots_of_a_row_stand_below_each_other() -> None:
    svg = dot_chart(
        {"a": [Dot(0.1, 0, 0.2, "sft"), Dot(0.9, 0.8, 1, "rlhf")], "b": [Dot(0.5, 0.4, 0.6, "sft")]}, "", ""
    )
    numbers = [(svg.index(f">{number}<"), number) for number in ("0.10", "0.90", "0.50")]
    assert numbers == sorted(numbers)
    heights = re.findall(r'<use [^>]*\by="([\d.]+)"[^>]*style="fill: var\(--(?:sft|rlhf)\)', svg)
    assert len(set(heights)) == 3


def test_the_names_in_a_chart_are_text() -> None:
    names = ["</text><script>alert(1)</script>", "costs $5 or $6", "字"]
    svg = dot_chart({name: [Dot(0.5, 0.4, 0.6, "sft")] for name in names}, "<b>", '"><script>')
    assert "<script" not in svg
    assert "<b>" not in svg
    assert ">costs $5 or $6<" in svg
    assert ">字<" in svg
