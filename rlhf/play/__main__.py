"""Talk to the models of a run, vote blind and teach them a taste, in the browser: python -m rlhf.play --run RUN

Reads: the finished stages and tastes of a run.

Does: serves a page on this machine; with --terminal, play and vote without a browser.

Writes: rankings to RUN/labels/rankings, votes to RUN/votes.jsonl, and what is taught to RUN/tastes/NAME.
"""

import contextlib
from dataclasses import dataclass

import tyro

from data.console import run_command
from data.run.options import command_line
from data.run.record import read_parent
from reward.label import LabelOptions, made_ahead, open_run


@dataclass(kw_only=True)
class PlayOptions(LabelOptions):
    """Play with a run's models."""

    terminal: bool = False
    """Play and vote in the terminal, without a server."""
    export: tyro.conf.Suppress[str | None] = None
    delete: tyro.conf.Suppress[str | None] = None


def main() -> None:
    options = command_line(PlayOptions, __doc__)
    options.validate()
    read_parent(options.run, "sft")
    from pretrain.machine import start  # after the command line is read: models take seconds to import
    from reward.ui.server import serve
    from rlhf.judging.blind import Booth
    from rlhf.judging.cast import Cast
    from rlhf.play.pages import play_routes
    from rlhf.play.terminal import run_terminal
    from rlhf.taste.teaching import Teaching

    start(threads=1)  # one reply is many small operations: more threads would only wait for each other
    booth = Booth(Cast(options.run, options.device))
    if options.terminal:
        run_terminal(booth, options.annotator)
        return
    store, screens = open_run(options)
    with made_ahead(store, screens), contextlib.closing(Teaching(options.run)) as teaching:
        routes = play_routes(booth, teaching, store, options.annotator)
        serve(routes, host=options.host, port=options.port, token=options.token, open_browser=options.browser)


if __name__ == "__main__":
    run_command(main)
