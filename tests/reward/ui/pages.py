"""What tests of the labelling page in a browser share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser import Server

Serve = Callable[..., tuple[Path, Server, str]]


def judgements(run: Path, annotator: str = "me") -> list[dict[str, Any]]:
    file = run / "labels" / "rankings" / f"{annotator}.jsonl"
    return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]] if file.exists() else []


def prompt(page: Page, number: int) -> None:
    """Wait for the prompt of screen `number`."""
    expect(page.locator("#prompt")).to_contain_text(f"Prompt {number}\n")
