"""What the engine client asks and how it reads the answers."""

from __future__ import annotations

import json
import socket
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible.module_utils.n8n_platform import engine as subject
from ansible.module_utils.n8n_platform.http import Response


class FakeClient:
    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.status = 200
        self.asked: list[tuple[str, str, float | None]] = []

    def request(
        self, method: str, path: str, body: Any = None, timeout: float | None = None, **_: Any
    ) -> Response:
        self.asked.append((method, path, timeout))
        answer = self.answers.get(f"{method} {urlsplit(path).path}", {})
        return Response(
            self.status, Message(), answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        )


def engine(**answers: Any) -> tuple[subject.Engine, FakeClient]:
    found = subject.Engine()
    client = FakeClient(
        {key.replace("__", " ", 1).replace("_", "/"): value for key, value in answers.items()}
    )
    found._client = client  # type: ignore[assignment]
    return found, client


def test_an_engine_that_was_killed_has_left_its_socket_and_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "docker.sock")
    assert not subject.listens(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert subject.listens(path)
    assert not subject.listens(path)


def test_containers_are_asked_by_label_stopped_ones_too() -> None:
    found, client = engine(**{"GET__/containers/json": [{"Names": ["/b"]}, {"Names": ["/a"]}]})
    assert [item["Names"] for item in found.containers({"x": "1", "y": None})] == [["/a"], ["/b"]]
    query = parse_qs(urlsplit(client.asked[0][1]).query)
    assert json.loads(query["filters"][0]) == {"label": ["x=1", "y"]}
    assert query["all"] == ["true"]


def test_stop_has_the_containers_own_patience_and_a_longer_timeout() -> None:
    found, client = engine(**{"GET__/containers/c/json": {"Config": {"StopTimeout": 1155}}})
    found.stop("c")
    method, path, timeout = client.asked[-1]
    assert (method, path) == ("POST", "/containers/c/stop?t=1155")
    assert timeout is not None and timeout > 1155


def test_stop_without_stop_time_waits_the_engines_default() -> None:
    found, client = engine(**{"GET__/containers/c/json": {"Config": {}}})
    found.stop("c")
    assert client.asked[-1][1].endswith("?t=10")


def test_address_on_a_network() -> None:
    networks = {"NetworkSettings": {"Networks": {"p_data": {"IPAddress": "10.0.0.2"}}}}
    found, _ = engine(**{"GET__/containers/c/json": networks})
    assert found.address("c", "p_data") == "10.0.0.2"
    with pytest.raises(subject.EngineError, match="p_edge"):
        found.address("c", "p_edge")


def test_an_image_that_is_not_there_has_no_id() -> None:
    found, client = engine(**{"GET__/images/n8n-platform%2Fredis%3Ae48f/json": {"Id": "sha256:71"}})
    assert found.image_id("n8n-platform/redis:e48f") == "sha256:71"
    client.status = 404
    assert found.image_id("n8n-platform/redis:e48f") == ""


def test_logs_lose_their_frame_headers() -> None:
    raw = b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\x04err\n"
    found, _ = engine(**{"GET__/containers/c/logs": raw})
    assert found.logs("c") == "outerr\n"


def test_logs_of_a_terminal_stay() -> None:
    found, _ = engine(**{"GET__/containers/c/logs": b"plain terminal output"})
    assert found.logs("c") == "plain terminal output"


@pytest.mark.parametrize(
    ("state", "health"),
    [
        ({"Status": "running", "Health": {"Status": "starting"}}, "starting"),
        ({"Status": "running"}, "running"),
        ({"Status": "exited", "Health": {"Status": "unhealthy"}}, "exited"),
    ],
)
def test_health(state: dict[str, Any], health: str) -> None:
    assert subject.health({"State": state}) == health


def test_an_exec_that_the_runtime_lost_is_repeated() -> None:
    class Losing(FakeClient):
        starts = 0

        def request(self, method: str, path: str, body: Any = None, **more: Any) -> Response:
            if path.endswith("/start"):
                self.starts += 1
                text = b"OCI runtime exec failed: read init-p\r\n" if self.starts < 3 else b"done"
                header = bytes([1, 0, 0, 0]) + len(text).to_bytes(4, "big")
                return Response(200, Message(), header + text)
            if path.endswith("/json"):
                return Response(200, Message(), json.dumps({"ExitCode": 126 * (self.starts < 3)}).encode())
            return Response(200, Message(), b'{"Id": "e"}')

    found = subject.Engine()
    client = Losing({})
    found._client = client  # type: ignore[assignment]
    assert found.execute("c", ["true"]) == (0, "done")
    assert client.starts == 3
