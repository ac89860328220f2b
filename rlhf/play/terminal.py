"""Play and blind votes without a browser."""

import contextlib
from collections.abc import Mapping

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from data.console import UserError
from data.dialogue import typed_speech
from rlhf.judging.blind import Booth
from rlhf.judging.cast import Cast, Sampling

CHOICES = {"a": 0, "b": 1, "t": None}
RATE = "{first} over {second}: {rate:.0%} ({low:.0%} to {high:.0%}), {n} votes, {ties} ties"
console = Console(highlight=False)


def run_terminal(booth: Booth, annotator: str) -> None:
    """Until `quit`, Ctrl-C or the end of the input."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while (wish := ask("play, blind or quit", "play")[0]) != "q":
            try:
                vote(booth, annotator) if wish == "b" else play(booth.cast)
            except UserError as error:
                console.print(plain(f"error: {error}"))
    console.print()


def play(cast: Cast) -> None:
    """One conversation, which an empty line ends."""
    cue, said = cast.cue(), []
    speaker, answerer = ask("You speak as", cue["speaker"]), ask("Who answers", cue["answerer"])
    asked = ask("As directed, such as asking, in two lines (Enter: freely)") if cast.specs else ""
    text = ask("You say", " / ".join(cue["text"].splitlines()))
    while text:
        said.append(typed_speech(speaker, text.replace(" / ", "\n")))
        prompt, sampling = cast.prompt(said, answerer, asked), Sampling(len(said), length=cast.length)
        replies = {str(number): cast.reply(prompt, who, sampling) for number, who in enumerate(cast.speakers, 1)}
        titles = [f"{number} {speaker.title}" for number, speaker in enumerate(cast.speakers.values(), 1)]
        show(dict(zip(titles, [reply["text"] for reply in replies.values()], strict=True)))
        if (chosen := ask("Continue with which of them (Enter: end)")) not in replies:
            return
        said.append(typed_speech(answerer, replies[chosen]["text"]))
        text = ask("You say")


def vote(booth: Booth, annotator: str) -> None:
    """Votes between two models, which an empty line ends."""
    pairs = {str(number): pair for number, pair in enumerate(booth.pairs.items(), 1)}
    names = ", ".join(f"{number} {' and '.join(map(booth.title, two))}" for number, (_, two) in pairs.items())
    pair, _ = pairs.get(ask(f"Compare {names}", "1"), ("", ()))
    while True:
        shown = booth.draw(pair)
        console.print(plain(shown["prompt"]))
        show(dict(zip("AB", shown["completions"], strict=True)))
        while (choice := ask("a, b, or t for a tie (Enter: end)").lower()) not in CHOICES:
            if not choice:
                return
        told = booth.vote(shown["id"], CHOICES[choice], annotator)
        lines = ["A was {}, B was {}.".format(*told["titles"]), *(RATE.format(**rate) for rate in told["rates"])]
        console.print(plain("\n".join(lines)))


def ask(question: str, default: str = "") -> str:
    """A line from the user, without spaces around it; EOFError where there is none."""
    return input(f"{question} [{default}]: " if default else f"{question}: ").strip() or default


def show(texts: Mapping[str, str]) -> None:
    """Texts with their titles, next to each other where there is room."""
    boxes = (Panel(plain(text or "(says nothing)"), title=plain(title)) for title, text in texts.items())
    console.print(Columns(boxes))


def plain(text: str) -> Text:
    """A text without what a terminal would obey."""
    return Text("".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text))
