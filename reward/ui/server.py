"""What serves a page of ours: guards around a list of routes, and the process that listens.

A request passes only if it names this server (another name that leads here is DNS rebinding), brings the token where
there is one, and, if it may change something, comes from a page of this server, as JSON of a bounded size.
"""

import contextlib
import hashlib
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
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.console import UserError, console

HERE = Path(__file__).parent
KINDS = {".css": "text/css", ".js": "text/javascript"}
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
        self.names = {host, socket.gethostname().lower()}
        if is_loopback(host):
            self.names = {host, "localhost", "127.0.0.1", "::1"}
        # Cookies do not know ports: two servers of one machine must not take each other's.
        self.cookie, self.secret = f"token-{port}", hashlib.sha256((token or "").encode()).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        refusal = self._refusal(request)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if self.token and not refusal and "token" in request.query_params:
                    headers.append("Set-Cookie", f"{self.cookie}={self.secret}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        await (refusal or self.app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """What is answered instead; None for a request that may pass."""
        host, headers, query = request.headers.get("host", ""), request.headers, request.query_params
        if re.sub(r":\d+$", "", host.lower()).strip("[]") not in self.names and not self.names & {"0.0.0.0", "::"}:
            return error(403, "this server has another name: open the address that it printed")
        given = request.cookies.get(self.cookie, "")
        if "token" in query:
            given = hashlib.sha256(query["token"].encode()).hexdigest()
        if self.token and not secrets.compare_digest(given.encode(), self.secret.encode()):
            return error(401, "the token is missing or wrong: open the address that the server printed")
        if request.method in ("GET", "HEAD"):
            return None
        if headers.get("origin") not in (f"http://{host}", f"https://{host}"):
            return error(403, "the request does not come from a page of this server")
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return error(415, "the request must be application/json")
        if "content-length" not in headers:
            return error(411, "the request must say how long it is")
        if int(headers["content-length"]) > self.max_body:
            return error(413, f"the request is larger than {self.max_body} bytes")
        return None


def make_app(
    routes: Sequence[BaseRoute], *, host: str, port: int, token: str | None = None, max_body: int = 1 << 20
) -> Starlette:
    """The guarded application of `routes`, served as `host` and `port`; its errors are JSON {"error": one line}."""
    if not (token or is_loopback(host)):
        raise UserError(f"{host} can be reached from other machines: give a token")

    async def failed(_: Request, raised: Exception) -> Response:
        if isinstance(raised, HTTPException):
            return error(raised.status_code, raised.detail)
        known = isinstance(raised, UserError)
        return error(400, str(raised)) if known else error(500, f"{type(raised).__name__}: see the terminal")

    guard = Middleware(Guard, host=host.lower(), port=port, token=token, max_body=max_body)
    handlers: Any = dict.fromkeys((HTTPException, UserError, Exception), failed)
    return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers)


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
        if open_browser:
            threading.Thread(target=_open_browser, args=(address,), daemon=True).start()
        app = make_app(routes, host=host, port=port, token=token)
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, ws="none")
        config.timeout_graceful_shutdown = 1
        uvicorn.Server(config).run(sockets=[listener])


def json_route(path: str, answer: Callable[[Mapping[str, Any]], Any], method: str = "GET") -> Route:
    """A route whose `answer` gets the query (GET) or the JSON object that was posted, in a thread of its own."""

    async def endpoint(request: Request) -> Response:
        values: Any = request.query_params
        if method == "POST":
            with contextlib.suppress(ValueError, RecursionError):
                values = json.loads(await request.body())
            if not isinstance(values, dict):
                raise UserError("the request is no JSON object")
        return JSONResponse(await run_in_threadpool(answer, values))

    return Route(path, endpoint, methods=[method])


def templates(*folders: Path) -> Environment:
    """The templates of `folders` and of this one; whatever they are given is escaped."""
    return Environment(loader=FileSystemLoader([*folders, HERE]), autoescape=True, undefined=StrictUndefined)


def static_route(*folders: Path) -> Route:
    """/static/NAME: the style sheets and scripts of `folders` and of this one, and nothing else."""
    files = {path.name: path for folder in (HERE, *folders) for path in folder.iterdir() if path.suffix in KINDS}

    async def endpoint(request: Request) -> Response:
        path = files.get(request.path_params["name"])
        return FileResponse(path, media_type=KINDS[path.suffix]) if path else error(404, "there is no such file")

    return Route("/static/{name}", endpoint)


def error(status: int, reason: str) -> Response:
    """{"error": reason}, on one line."""
    return JSONResponse({"error": " ".join(reason.split())}, status)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def _open_browser(address: str) -> None:
    opened = False
    with contextlib.suppress(webbrowser.Error):
        opened = webbrowser.open(address)
    if not opened:
        console.print("no browser could be opened: open the address yourself", soft_wrap=True)
