"""What serves our pages: guards around a list of routes, and the process that listens.

A request passes only if it names this server (another name that leads here is DNS rebinding), brings the token where
there is one, and, if it may change something, comes from a page of this server, as JSON of a bounded size.
"""

import contextlib
import ipaddress
import json
import re
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.console import UserError, console
from data.jsonl import Kind, parse_row
from data.run.page import templates

HERE = Path(__file__).parent
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware that refuses requests (see above) and adds `HEADERS` to every response."""

    def __init__(self, app: ASGIApp, host: str, port: int, token: str | None, max_body: int) -> None:
        self.app, self.token, self.max_body = app, token, max_body
        own = ("localhost", "127.0.0.1", "::1") if is_loopback(host) else (socket.gethostname().lower(),)
        self.names = {host.lower(), *own}
        self.cookie = f"token-{port}"  # cookies do not know ports: another server of this machine has its own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope) if scope["type"] == "http" else None
        refusal = request and self._refusal(request)

        async def send_with_headers(message: Message) -> None:
            if request and message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if self.token and not refusal and "token" in request.query_params:
                    headers.append("Set-Cookie", f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        await (refusal or self.app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """What is answered instead; None for a request that may pass."""
        headers, host = request.headers, request.headers.get("host", "")
        if re.sub(r":\d+$", "", host.lower()).strip("[]") not in self.names and not self.names & {"0.0.0.0", "::"}:
            return error(403, "this server has another name: open the address that it printed")
        given = request.query_params.get("token", request.cookies.get(self.cookie, ""))
        if self.token and not secrets.compare_digest(given.encode(), self.token.encode()):
            return error(401, "the token is missing or wrong: open the address that the server printed")
        if request.method in ("GET", "HEAD"):
            return None
        if headers.get("origin") not in (f"http://{host}", f"https://{host}"):
            return error(403, "the request does not come from a page of this server")
        if headers.get("content-type", "").partition(";")[0] != "application/json":
            return error(415, "the request must be application/json")
        if int(headers.get("content-length", self.max_body + 1)) > self.max_body:
            return error(413, f"the request must have at most {self.max_body} bytes, and say how many")
        return None


def make_app(
    routes: Sequence[BaseRoute], *, host: str, port: int, token: str | None = None, max_body: int = 1 << 20
) -> Starlette:
    """The guarded application of `routes`, served as `host` and `port`. User errors are JSON {"error": one line}."""
    if not (token or is_loopback(host)):
        raise UserError(f"{host} can be reached from other machines: give a token")

    guard = Middleware(Guard, host=host, port=port, token=token, max_body=max_body)
    told: Any = {UserError: lambda _, said: error(400, str(said)), OSError: lambda _, said: error(507, str(said))}
    return Starlette(routes=routes, middleware=[guard], exception_handlers=told)


def serve(routes: Sequence[BaseRoute], *, host: str, port: int, token: str | None, open_browser: bool) -> None:
    """Serve until Ctrl-C: prints the address to stdout and opens it. UserError where it cannot listen.

    Port 0 is any free one. Where other machines can reach the host there is a token, made here if none is given.
    """
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(16)
    if token is not None and not re.fullmatch(r"[A-Za-z0-9_-]{8,}", token):
        raise UserError("--token must be 8 or more letters, digits, '-' or '_'")
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port must be 0 to 65535, but is {port}")
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as failure:
        raise UserError(f"cannot listen on {host}, port {port} ({failure.strerror}): choose another --port") from None
    with listener, contextlib.suppress(KeyboardInterrupt):
        port = listener.getsockname()[1]
        name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        address = f"http://{name}:{port}/" + (f"?token={token}" if token else "")
        print(address, flush=True)

        def look() -> None:
            if open_browser and not webbrowser.open(address):
                console.print("no browser could be opened: open the address yourself")

        threading.Thread(target=look, daemon=True).start()
        app = make_app(routes, host=host, port=port, token=token)
        config = uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])


def json_route(
    path: str, answer: Callable[[dict[str, Any]], Any], required: Mapping[str, Kind], post: bool = False
) -> Route:
    """A route: a thread has `answer` make JSON, or a Response, of the query or of what was posted (`required` keys)."""

    async def endpoint(request: Request) -> Response:
        content = await request.body() if post else json.dumps(dict(request.query_params)).encode()
        answered = await run_in_threadpool(answer, parse_row(content, required, {}))
        return answered if isinstance(answered, Response) else JSONResponse(answered)

    return Route(path, endpoint, methods=["POST" if post else "GET"])


def static_route(*folders: Path) -> Route:
    """/static/NAME: the style sheets and scripts of `folders` and of this one, palette.css, and nothing else."""
    files = {path.name: path.read_text("utf-8") for folder in (HERE, *folders) for path in folder.glob("*.[cj]s*")}
    files["palette.css"] = templates(HERE).get_template("palette.css.j2").render()

    def endpoint(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in files:
            return error(404, "there is no such file")
        return Response(files[name], media_type="text/css" if name.endswith(".css") else "text/javascript")

    return Route("/static/{name}", endpoint)


def error(status: int, reason: str) -> Response:
    return JSONResponse({"error": " ".join(reason.split())}, status)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"
