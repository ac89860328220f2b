"""The labelling page: what a browser asks of a `Store`."""

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from data.jsonl import Kind
from reward.ui.server import json_route
from reward.ui.store import Store, rankings_file


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
