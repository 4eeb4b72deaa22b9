"""JsonClient against real local servers: TCP, TLS-free unix socket, failures."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any

import pytest
from ansible.module_utils.n8n_platform.http import HttpError, JsonClient


class Handler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        status, _, rest = self.path.lstrip("/").partition("/")
        seen = {
            "path": self.path,
            "body": body.decode(),
            "headers": dict(self.headers),
            "method": self.command,
        }
        document = {"text": b"plain\n  words", "message": b'{"message": "no such thing", "value": "hidden"}'}
        payload = document.get(rest.partition("?")[0], json.dumps(seen).encode())
        self.send_response(int(status))
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.end_headers()
        self.wfile.write(payload)

    do_GET = do_POST = answer

    def log_message(self, *_: Any) -> None:
        pass

    def address_string(self) -> str:
        return ""


class UnixHTTPServer(UnixStreamServer):
    def get_request(self) -> Any:
        return super().get_request()[0], ("", 0)


def serve(server: Any) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def tcp() -> Iterator[HTTPServer]:
    yield from serve(HTTPServer(("127.0.0.1", 0), Handler))


@pytest.fixture
def client(tcp: HTTPServer) -> JsonClient:
    return JsonClient(f"http://127.0.0.1:{tcp.server_port}/200", {"X-Own": "1"})


def test_sends_json_below_the_prefix_with_all_headers(client: JsonClient) -> None:
    seen = client.request("POST", "/thing?x=1", {"a": [1]}, {"X-More": "2"}).json
    assert (seen["method"], seen["path"], json.loads(seen["body"])) == ("POST", "/200/thing?x=1", {"a": [1]})
    assert {seen["headers"]["X-Own"], seen["headers"]["X-More"]} == {"1", "2"}
    assert seen["headers"]["Content-Type"] == "application/json"


def test_sends_bytes_as_they_are(client: JsonClient) -> None:
    seen = client.request("POST", "/", b"raw", {"Content-Type": "text/plain"}).json
    assert (seen["body"], seen["headers"]["Content-Type"]) == ("raw", "text/plain")


def test_repeated_headers_can_be_read(client: JsonClient) -> None:
    assert client.request("GET", "/").headers.get_all("set-cookie") == ["a=1", "b=2"]


def test_error_has_the_servers_words_but_neither_body_nor_query(tcp: HTTPServer) -> None:
    with pytest.raises(HttpError) as caught:
        JsonClient(f"http://127.0.0.1:{tcp.server_port}").request(
            "POST", "/404/message?token=x", {"password": "pw"}
        )
    error = caught.value
    assert (error.method, error.path, error.status, error.message) == (
        "POST",
        "/404/message",
        404,
        "no such thing",
    )
    assert not {"hidden", "pw", "token"} & set(str(error).replace('"', " ").split())


def test_a_text_answer_becomes_one_line(tcp: HTTPServer) -> None:
    with pytest.raises(HttpError, match="plain words"):
        JsonClient(f"http://127.0.0.1:{tcp.server_port}").request("GET", "/503/text")


def test_an_allowed_status_is_an_answer(tcp: HTTPServer) -> None:
    answer = JsonClient(f"http://127.0.0.1:{tcp.server_port}").request("GET", "/404/message", allowed=(404,))
    assert (answer.status, answer.json["message"]) == (404, "no such thing")


def test_connect_to_keeps_the_name(tcp: HTTPServer) -> None:
    client = JsonClient(f"http://no-such.invalid:{tcp.server_port}", connect_to="127.0.0.1")
    assert client.request("GET", "/200/x").json["headers"]["Host"] == f"no-such.invalid:{tcp.server_port}"


def test_speaks_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for _ in serve(UnixHTTPServer(str(path), Handler)):
        assert JsonClient(f"unix://{path}").request("GET", "/200/x").json["path"] == "/200/x"


def test_no_answer_is_status_0(tmp_path: Path) -> None:
    with pytest.raises(HttpError, match="no answer") as caught:
        JsonClient(f"unix://{tmp_path}/missing").request("GET", "/x")
    assert caught.value.status == 0


def test_timeout_is_status_0() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(HttpError, match="no answer"):
        JsonClient(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1).request("GET", "/")


def test_another_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="ftp://x"):
        JsonClient("ftp://x").request("GET", "/")
