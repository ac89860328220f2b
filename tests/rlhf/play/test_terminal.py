"""Play and votes in the terminal: typed lines in, replies out, and an end of the input that is no error."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlhf.judging.blind import Booth
from rlhf.judging.cast import Cast
from rlhf.judging.votes import read_votes
from rlhf.play import terminal
from rlhf.play.terminal import plain, run_terminal

Typed = Callable[..., str]


@pytest.fixture
def booth(whole_run: Path, tmp_path: Path) -> Booth:
    booth = Booth(Cast(whole_run, "cpu"))
    booth.path = tmp_path / "votes.jsonl"
    return booth


@pytest.fixture
def typed(booth: Booth, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """What the terminal shows to somebody who types these lines."""

    def run(*lines: str, end: type[BaseException] = EOFError) -> str:
        left: Iterator[str] = iter(lines)

        def answer(question: str) -> str:
            print(question)
            for line in left:
                return line
            raise end

        monkeypatch.setattr("builtins.input", answer)
        monkeypatch.setattr(terminal, "console", Console(width=400))
        run_terminal(booth, "anna")
        return capsys.readouterr().out

    return run


def test_everybody_answers_and_the_chosen_reply_is_what_is_answered_next(
    typed: Typed, booth: Booth, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    original = booth.cast.reply

    def reply(prompt: str, *rest: Any) -> dict[str, Any]:
        prompts.append(prompt)
        return original(prompt, *rest)

    monkeypatch.setattr(booth.cast, "reply", reply)
    shown = typed("play", "MASON", "WEAVER", "The lantern / keeps.", "2", "And then?", "", "quit")
    for title in ("1 pretrained", "2 SFT", "3 aligned", "4 mine"):
        assert shown.count(title) == 2
    assert prompts[:4] == ["MASON:\nThe lantern\nkeeps.\n\nWEAVER:\n"] * 4
    assert len(prompts) == 8
    pattern = r"MASON:\nThe lantern\nkeeps\.\n\nWEAVER:\n.+\n\nMASON:\nAnd then\?\n\nWEAVER:\n"
    assert re.fullmatch(pattern, prompts[-1], re.DOTALL)


def test_directions_are_asked_for_where_the_run_has_some(
    typed: Typed, booth: Booth, directed_maker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    cast = booth.cast = Cast(directed_maker.run, "cpu")
    original = cast.reply

    def reply(prompt: str, *rest: Any) -> dict[str, Any]:
        prompts.append(prompt)
        return original(prompt, *rest)

    monkeypatch.setattr(cast, "reply", reply)
    shown = typed("play", "MASON", "WEAVER", "asking", "Go.", "", "play", "A", "B", "asking, telling", "Go.", "quit")
    assert set(prompts) == {"MASON:\nGo.\n\nWEAVER, asking:\n"}
    assert "error: the directions 'asking' and 'telling' exclude each other" in shown


def test_votes_go_to_the_file_that_the_pages_write(typed: Typed, booth: Booth) -> None:
    shown = typed("blind", "", "maybe", "a", "T", "", "blind", "1", "b")
    votes = read_votes(booth.path)
    assert [vote["choice"] for vote in votes] == [0, None, 1]
    assert {vote["annotator"] for vote in votes} == {"anna"}
    assert len(re.findall(r"A was (?:SFT, B was aligned|aligned, B was SFT)\.", shown)) == 3
    assert "3 votes, 1 ties" in shown
    assert votes[0]["prompt"] in shown


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
@pytest.mark.parametrize("lines", [[], ["play", "A"], ["blind"], ["blind", "1"]])
def test_an_end_anywhere_is_an_end(typed: Typed, lines: list[str], end: type[BaseException]) -> None:
    assert typed(*lines, end=end).endswith("\n")


def test_what_cannot_be_asked_is_said_and_the_terminal_goes_on(typed: Typed) -> None:
    shown = typed("play", ":", "B", "x", "blind", "99", "quit")
    assert "error: a speaker is empty" in shown
    assert "error: there is no pair" in shown


def test_nothing_that_a_terminal_would_obey_is_printed() -> None:
    assert plain("a\x1b[31m\nb\u202e\x07[bold]c").plain == "a\ufffd[31m\nb\ufffd\ufffd[bold]c"
