"""The pages of a run's reports: one look, light and dark, and everything in one file.

A report is a Jinja template that extends `page.html.j2` and fills its blocks `title` and `main`.
"""

from pathlib import Path
from typing import Any

COLOURS = {
    "pretrain": ("#766e62", "#9d9587"),
    "sft": ("#2f6ea3", "#6fb1e6"),
    "rlhf": ("#b3382c", "#f0796a"),
    "original": ("#8c6813", "#dcb04e"),
    "taste": ("#7a4a9e", "#c39be6"),
    "control": ("#52705d", "#8fb59c"),
}
"""Colours by name, each on light and on dark paper: CSS variables and classes of the page. Text in them is readable:
their contrast to paper and cards is at least 4.5."""


def write_page(path: Path, template_folder: Path, template_name: str, **context: Any) -> None:
    """Render a template of `template_folder` to `path`; text in it is escaped, and a name without a value is an error.

    The template finds the templates of its own folder and of this one by name, and any other by its path from where
    the packages lie. SVG goes in as `markupsafe.Markup`. Needs the extra rlhf, for Jinja.
    """
    path.write_text(templates(template_folder).get_template(template_name).render(**context), "utf-8")


def templates(folder: Path) -> Any:
    """The jinja2.Environment of the templates in `folder` and in this one, which know `colours`.

    palette.css.j2 is the style sheet of colours and typefaces, for pages that are served.
    """
    import jinja2

    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, here, here.parents[1]]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["colours"] = COLOURS
    return environment
