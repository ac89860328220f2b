"""Rank the SFT model's replies by hand, in a page that opens in the browser: python -m reward.label --run RUN

Reads: RUN/sft and the dialogue of RUN/corpus.txt.

Does: shows several replies to one prompt per screen. When started again, it continues at the first open screen.

Writes: every judgement at once to RUN/labels/rankings/ANNOTATOR.jsonl, which --rankings takes.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from data.console import UserError, run_command
from data.jsonl import Kind
from data.run.folder import announce, run_corpus
from data.run.options import check_name, check_ranges, command_line
from data.run.page import templates
from data.run.record import read_parent
from data.tokenizers import Tokenizer
from reward.screens import Drawing, draw_screens, policy_name, rankings_file, screen_prompts
from reward.ui.server import HERE, json_route, serve, static_route
from reward.ui.store import Store

AHEAD = 16
"""Screens that are ready before anyone asks for them."""
PAUSE = 0.2
"""Seconds until the next is drawn: the page of whoever has just judged one comes first."""


@dataclass(kw_only=True)
class LabelOptions(Drawing):
    """Rank replies of RUN/sft by hand."""

    run: Path = Path("runs/default")
    """Folder of the run; the screens and judgements are in its folder labels."""
    annotator: str = "me"
    """Name of the annotator; others add ?annotator=NAME to the page's address."""
    screens: int = 200
    """Number of screens that each annotator is asked to judge."""
    prompts: Path | None = None
    """Your own prompts, JSONL of {"prompt"}; default: the dialogue of the run's corpus."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device that samples: auto is a CUDA GPU where there is one, otherwise the CPU."""

    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach needs a token, and gets one if none is given."""
    port: int = 8642
    """Port to listen on; 0 is any free one."""
    token: str | None = None
    """Token that the page's address must carry."""
    browser: bool = True
    """Whether to open the page in a browser."""

    export: str | None = None
    """Name of an annotator whose judgements to print as JSON lines, instead of serving the page."""
    delete: str | None = None
    """Name of an annotator whose judgements to delete, instead of serving the page."""

    def validate(self) -> None:
        """Raise UserError for options that cannot be served."""
        super().validate()
        check_ranges(self, counts="screens")
        check_name("annotator", self.annotator)


@contextmanager
def made_ahead(store: Store, screens: Iterator[dict[str, Any]]) -> Iterator[None]:
    """While this lasts, a thread takes `screens` so that `AHEAD` of them are ready for the fastest annotator.

    Then the store's folder is left to others.
    """
    closing = threading.Event()

    def must_act() -> bool:
        judged = max((len({row["screen"] for row in rows}) for rows in store.judged.values()), default=0)
        return closing.is_set() or len(store.screens) < min(store.goal, judged + AHEAD)

    def work() -> None:
        try:
            while True:
                with store.changed:
                    store.changed.wait_for(must_act)
                if closing.wait(PAUSE if store.screens else 0):
                    return
                store.add_screen(next(screens))
        except StopIteration:
            store.goal = len(store.screens)
        except Exception as error:
            store.problem = f"there are no more screens: {error}"
            if not isinstance(error, UserError):
                raise

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        closing.set()
        with store.changed:
            store.changed.notify_all()
        thread.join()
        store.lock.release()


def labelling_routes(store: Store, html: str, path: str = "/label") -> list[BaseRoute]:
    """The page, `html` from a template that extends label.html.j2, at `path`, and what it asks for, at /label/…."""

    async def page(_: Request) -> Response:
        return HTMLResponse(html)

    def export(request: Request) -> Response:
        name = request.query_params.get("annotator", "")
        file = rankings_file(store.folder, name)
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}.jsonl"}
        return Response(file.read_bytes() if file.exists() else b"", headers=headers, media_type="application/jsonl")

    named: dict[str, Kind] = {"annotator": str}
    judged: dict[str, Kind] = {"id": str, "screen": str, "ranking": list[list[int]], "all_bad": bool}
    return [
        Route(path, page),
        Route("/label/export", export),
        json_route("/label/state", store.state, named),
        json_route("/label/judge", store.judge, named | judged | {"seconds": (int, float)}, post=True),
        json_route("/label/undo", store.undo, named | {"id": str}, post=True),
        json_route("/label/delete", store.delete, named, post=True),
    ]


def open_run(options: LabelOptions) -> tuple[Store, Iterator[dict[str, Any]]]:
    """The store of a run, and the screens that it has not got yet. UserError for a run that cannot be labelled."""
    record, folder = read_parent(options.run, "sft"), options.run / "labels"
    check = Tokenizer.load(options.run / "sft").check
    prompts = screen_prompts(run_corpus(options.run, record), options.prompts, options.seed, check)
    store = Store(folder, options.screens)
    if others := {screen["policy"] for screen in store.screens} - {policy_name(record)}:
        raise UserError(
            f"{folder} has replies of {min(others)}, and {options.run / 'sft'} is {policy_name(record)}: move that "
            "folder elsewhere (its rankings stay good for --rankings)"
        )
    used = {screen["prompt"] for screen in store.screens}
    left = [prompt for prompt in prompts if prompt not in used]
    store.goal = min(options.screens, len(used) + len(left))
    return store, draw_screens(options.run / "sft", record, left, options, options.device)


def main() -> None:
    options = command_line(LabelOptions, __doc__)
    options.validate()
    name = options.export if options.delete is None else options.delete
    if name is not None:
        file = rankings_file(options.run / "labels", name)
        if not file.exists():
            raise UserError(f"{file} does not exist: '{name}' has judged nothing")
        if options.export is None:
            Store(options.run / "labels", 0).delete({"annotator": name})
        else:
            content = file.read_bytes()
            sys.stdout.buffer.write(content[: content.rfind(b"\n") + 1])
        return
    store, screens = open_run(options)
    judged = ", ".join(f"{len(rows)} by {name}" for name, rows in store.judged.items()) or "none yet"
    announce("label", f"{store.goal} screens · judgements in {store.folder / 'rankings'}: {judged} · Ctrl-C ends")
    html = templates(HERE).get_template("label.html.j2").render(annotator=options.annotator)
    with made_ahead(store, screens):
        routes = [*labelling_routes(store, html, "/"), static_route()]
        serve(routes, host=options.host, port=options.port, token=options.token, open_browser=options.browser)


if __name__ == "__main__":
    run_command(main)
