"""The pages and what they ask for: play, blind, and teach, which is the labelling page and more below it."""

import json
import random
from collections.abc import Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from data.jsonl import Kind
from data.run.page import templates
from reward.label import labelling_routes
from reward.ui.server import json_route, static_route
from reward.ui.store import Store
from rlhf.judging.blind import Booth
from rlhf.judging.cast import Sampling
from rlhf.taste.teaching import Teaching

HERE = Path(__file__).parent
NUMBER = (int, float, type(None))
TALK: dict[str, Kind] = {"speakers": list[str], "texts": list[str], "answerer": str, "asked": str}
Values = Mapping[str, Any]
DRAW: dict[str, Kind] = {"pair": str, "heldout": bool}
VOTE: dict[str, Kind] = {"id": str, "choice": (int, type(None)), "annotator": str}
TEACH: dict[str, Kind] = {"name": str, "mode": str, "annotators": list[str], "craft": NUMBER, "watch": list[str]}


def play_routes(booth: Booth, teaching: Teaching, store: Store, annotator: str) -> list[BaseRoute]:
    """All that the server answers."""
    cast, jinja = booth.cast, templates(HERE)

    def html(page: str, **context: Any) -> str:
        template = jinja.get_template(f"{page}.html.j2")
        return str(template.render(page=page, speakers=cast.speakers, annotator=annotator, **context))

    def answer(values: Values) -> Response:
        """A line of JSON per token; see `Cast.answers`."""
        events = cast.answers(cast.typed(values), list(dict.fromkeys(values["whom"])), Sampling.of(values))
        first = list(islice(events, 1))  # what is wrong with the request is said before the response begins
        return StreamingResponse(json.dumps(event) + "\n" for event in chain(first, events))

    watched = [pair.prompt for pair in random.sample(cast.training, min(3, len(cast.training)))]
    return [
        Route("/", lambda _: HTMLResponse(html("play", cue=cast.cue(), cast=cast))),
        Route("/blind", lambda _: HTMLResponse(html("blind", pairs=booth.pairs))),
        *labelling_routes(store, html("teach", watched=watched), "/teach"),
        static_route(HERE),
        json_route("/play/cue", lambda _: cast.cue(), {}),
        json_route("/play/answer", answer, TALK | {"whom": list[str]}, post=True),
        json_route("/play/judge", cast.judge_typed, TALK | {"who": str, "ids": list[int]}, post=True),
        json_route("/blind/rates", lambda _: booth.rates(), {}),
        json_route("/blind/draw", lambda values: booth.draw(*(values[key] for key in DRAW)), DRAW, post=True),
        json_route("/blind/vote", lambda values: booth.vote(*(values[key] for key in VOTE)), VOTE, post=True),
        json_route("/teach/state", lambda _: teaching.state(), {}),
        json_route("/teach/start", lambda values: teaching.start(*(values[key] for key in TEACH)), TEACH, post=True),
        json_route("/teach/stop", lambda _: teaching.stop(), {}, post=True),
    ]
