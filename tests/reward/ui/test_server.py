"""The guards around a page, its files and its errors; what listens, and what it says when it cannot."""

import contextlib
import errno
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from data.console import UserError
from data.run.page import templates
from reward.ui import server
from reward.ui.server import is_loopback, json_route, make_app, serve, static_route

HERE = "http://127.0.0.1:8000"
OURS = {"Origin": HERE}


def answer(values: Mapping[str, Any]) -> Any:
    if "fail" in values:
        raise UserError("no such\nthing: choose another")
    if "full" in values:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "break" in values:
        raise RuntimeError("a secret")
    return dict(values)


def client(host: str = "127.0.0.1", address: str = HERE, **options: Any) -> TestClient:
    routes = [json_route("/get", answer, {}), json_route("/post", answer, {}, post=True), static_route()]
    app = make_app(routes, host=host, port=8000, **options)
    return TestClient(app, base_url=address, raise_server_exceptions=False)


@pytest.mark.parametrize("name", ["127.0.0.1:8000", "localhost:9000", "localhost", "[::1]:8000", "LOCALHOST:8000"])
def test_this_server_goes_by_its_names(name: str) -> None:
    assert client().get("/get?a=1", headers={"Host": name}).json() == {"a": "1"}


@pytest.mark.parametrize("name", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_a_foreign_name_that_leads_here_is_refused(name: str) -> None:
    """DNS rebinding: the browser takes such a page for one of ours, but it says what it was called by."""
    response = client().get("/get", headers={"Host": name})
    assert response.status_code == 403
    assert "another name" in response.json()["error"]


@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", "http://127.0.0.1:9000", "http://127.0.0.1", "http://localhost:8000"],
)
def test_a_page_of_another_origin_cannot_post(origin: str | None) -> None:
    headers = {"Origin": origin} if origin else {}
    response = client().post("/post", json={}, headers=headers)
    assert (response.status_code, "does not come from a page" in response.json()["error"]) == (403, True)


def test_a_page_of_this_server_posts() -> None:
    assert client().post("/post", json={"a": [1, "ü"]}, headers=OURS).json() == {"a": [1, "ü"]}
    tunnel = {"Host": "localhost:9999", "Origin": "http://localhost:9999"}
    assert client().post("/post", json={"a": 1}, headers=tunnel).json() == {"a": 1}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_is_no_request(kind: str) -> None:
    """What a form can send, another page can send without asking."""
    assert client().post("/post", content=b"{}", headers=OURS | {"Content-Type": kind}).status_code == 415


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": "\\ud800"}', "half a character"),
        (b"{}", 'the key "a" is missing'),
        (b'{"a": 1}', '"a" must be a string'),
    ],
)
def test_what_is_not_asked_for_is_one_line(body: bytes, line: str) -> None:
    app = make_app([json_route("/post", answer, {"a": str}, post=True)], host="127.0.0.1", port=8000)
    headers = OURS | {"Content-Type": "application/json; charset=utf-8"}
    response = TestClient(app, base_url=HERE).post("/post", content=body, headers=headers)
    assert response.status_code == 400
    assert line in response.json()["error"]
    assert "\n" not in response.json()["error"]


def test_what_is_no_json_is_sent_as_it_is() -> None:
    app = make_app([json_route("/get", lambda _: PlainTextResponse("as it is"), {})], host="127.0.0.1", port=8000)
    assert TestClient(app, base_url=HERE).get("/get").text == "as it is"


def test_sizes_are_limited_before_anything_is_read() -> None:
    small = client(max_body=100)
    assert small.post("/post", json={"a": "x" * 50}, headers=OURS).status_code == 200
    assert small.post("/post", json={"a": "x" * 100}, headers=OURS).status_code == 413
    pieces = (b"x" for _ in range(3))
    chunked = small.post("/post", content=pieces, headers=OURS | {"Content-Type": "application/json"})
    assert chunked.status_code == 413


def test_a_token_is_asked_for_once() -> None:
    guarded = client(token="a-long-token")
    assert guarded.get("/get").status_code == 401
    assert guarded.get("/get?token=another").status_code == 401
    assert not guarded.cookies
    first = guarded.get("/get?token=a-long-token")
    assert first.status_code == 200
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert guarded.get("/get").status_code == 200
    assert guarded.post("/post", json={}, headers=OURS).status_code == 200
    kept = {"Cookie": "; ".join(f"{name}={value}" for name, value in guarded.cookies.items())}
    assert client(token="a-long-token").get("/get", headers=kept).status_code == 200
    assert client(token="another-token").get("/get", headers=kept).status_code == 401


def test_only_loopback_goes_without_a_token() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", "")] == [False] * 5
    with pytest.raises(UserError, match="give a token"):
        make_app([], host="0.0.0.0", port=8000)
    everywhere = client("0.0.0.0", "http://192.168.1.5:8000", token="a-long-token")
    assert everywhere.get("/get?token=a-long-token").status_code == 200
    one = client("192.168.1.5", "http://192.168.1.5:8000", token="a-long-token")
    assert one.get("/get?token=a-long-token").status_code == 200
    assert one.get("/get?token=a-long-token", headers={"Host": "evil.example"}).status_code == 403


def test_every_response_is_fenced_in() -> None:
    ours = client()
    for response in (ours.get("/get"), ours.get("/none"), ours.get("/get", headers={"Host": "evil"})):
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"


def test_errors_are_one_line_of_json() -> None:
    ours = client()
    response = ours.get("/get?fail=1")
    assert (response.status_code, response.json()) == (400, {"error": "no such thing: choose another"})
    response = ours.get("/get?full=1")
    assert (response.status_code, "No space left" in response.json()["error"]) == (507, True)
    response = ours.get("/get?break=1")
    assert (response.status_code, "secret" in response.text) == (500, False)
    assert (ours.get("/none").status_code, ours.get("/post").status_code) == (404, 405)


@pytest.mark.parametrize("name", ["server.py", "base.html.j2", "..%2fserver.py", "%2e%2e/server.py", "none.css", ""])
def test_only_style_sheets_and_scripts_are_served(name: str) -> None:
    ours = client()
    assert "color-scheme" in ours.get("/static/page.css").text
    assert "--paper: " in ours.get("/static/palette.css").text
    assert ours.get("/static/palette.css").headers["content-type"].startswith("text/css")
    assert ours.get("/static/page.js").headers["content-type"].startswith("text/javascript")
    assert ours.get(f"/static/{name}").status_code == 404


def test_another_folder_extends_the_page_and_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "mine.html.j2").write_text(
        '{% extends "reward/ui/base.html.j2" %}{% block title %}{{ title }}{% endblock %}'
    )
    (tmp_path / "mine.js").write_text("// mine")
    pages = templates(tmp_path)

    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(pages.get_template("mine.html.j2").render(title="<script>alert(1)</script>"))

    app = make_app([Route("/", page), static_route(tmp_path)], host="localhost", port=8000)
    with TestClient(app, base_url="http://localhost:8000") as browser:
        text = browser.get("/").text
        assert "<title>&lt;script&gt;alert(1)&lt;/script&gt; · shakespeare-rlhf</title>" in text
        assert browser.get("/static/mine.js").text == "// mine"


# ---- listening ----


@contextlib.contextmanager
def served(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[list[str]]:
    """`serve` on a free port in a thread; yields the lines it printed."""
    lines: list[str] = []
    printed, servers = threading.Event(), []

    def tell(line: str, flush: bool) -> None:
        lines.append(line)
        printed.set()

    class Server(uvicorn.Server):
        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            servers.append(self)

    monkeypatch.setattr(server, "print", tell, raising=False)
    monkeypatch.setattr(server.uvicorn, "Server", Server)
    settings: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "token": None, "open_browser": False} | options
    thread = threading.Thread(target=serve, args=([json_route("/get", answer, {})],), kwargs=settings)
    thread.start()
    assert printed.wait(10)
    try:
        yield lines
    finally:
        servers[0].should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def request(port: int, path: str) -> dict[str, Any]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n".encode())
        received = b"".join(iter(lambda: connection.recv(4096), b""))
    body: dict[str, Any] = json.loads(received.partition(b"\r\n\r\n")[2])
    return body


def test_port_zero_is_a_free_one_and_the_address_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(monkeypatch) as [address]:
        port = int(address.removeprefix("http://127.0.0.1:").removesuffix("/"))
        assert request(port, "/get?a=1") == {"a": "1"}
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1, port {port} .*choose another --port"):
            serve([], host="127.0.0.1", port=port, token=None, open_browser=False)


def test_whoever_listens_to_all_makes_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(monkeypatch, host="0.0.0.0") as [address]:
        place, _, token = address.partition("/?token=")
        port = int(place.rpartition(":")[2])
        assert len(token) >= 16
        assert "token" in request(port, "/get")["error"]
        assert request(port, f"/get?token={token}") == {"token": token}


@pytest.mark.parametrize(
    ("host", "port", "line"),
    [
        ("203.0.113.7", 0, "cannot listen on 203.0.113.7"),
        ("no.such.host.invalid", 0, "cannot listen on no.such.host.invalid"),
        ("127.0.0.1", 70_000, "--port must be 0 to 65535"),
        ("127.0.0.1", -1, "--port must be 0 to 65535"),
    ],
)
def test_where_it_cannot_listen_is_one_line(host: str, port: int, line: str) -> None:
    with pytest.raises(UserError, match=line):
        serve([], host=host, port=port, token=None, open_browser=False)


def test_a_token_that_would_break_the_address_is_refused() -> None:
    with pytest.raises(UserError, match="--token must be"):
        serve([], host="127.0.0.1", port=0, token="a b&c", open_browser=False)


def test_a_browser_that_cannot_be_opened_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = threading.Event()

    def nothing(address: str) -> bool:
        tried.set()
        return False

    monkeypatch.setattr(server.webbrowser, "open", nothing)
    with served(monkeypatch, open_browser=True) as [address]:
        assert tried.wait(10)
        assert request(int(address.rpartition(":")[2].strip("/")), "/get") == {}
    assert "no browser could be opened" in capsys.readouterr().err
