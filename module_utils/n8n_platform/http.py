"""JSON over HTTP with the standard library: http://, https:// and a server on a unix socket."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

_UNIX = "unix://"
_MESSAGE_LENGTH = 300


class HttpError(Exception):
    """A request that got no answer (`status` 0) or an answer of 400 and above.

    `path` comes without its query and `message` is the server's own words: neither request nor response
    bodies are kept, since they may hold secrets.
    """

    def __init__(self, method: str, path: str, status: int, message: str) -> None:
        self.method = method
        self.path = path.partition("?")[0]
        self.status = status
        self.message = message
        super().__init__(f"{method} {self.path}: {f'status {status}: ' if status else ''}{message}")


@dataclass(frozen=True)
class Response:
    """`headers.get(name)` is case-insensitive, `headers.get_all(name)` gives repeated ones (Set-Cookie)."""

    status: int
    headers: Message
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        """The parsed body, None when it is empty; raises ValueError when it is not JSON."""
        return json.loads(self.body) if self.body.strip() else None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class JsonClient:
    """One connection per request, so that a restarted server never leaves a stale one behind.

    base_url: `http://host:port/prefix`, `https://...` or `unix:///path.sock`; headers: sent with every
    request;
    timeout: seconds for connecting and for each read; ca_file: PEM bundle to trust instead of the system's;
    connect_to: address to connect to while base_url's name stays SNI and Host (a name that need not resolve).
    """

    def __init__(
        self,
        base_url: str,
        headers: dict[str, str] | None = None,
        timeout: float = 10.0,
        ca_file: str | None = None,
        connect_to: str | None = None,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._headers = dict(headers or {})
        self._timeout = timeout
        self._ca_file = ca_file
        self._connect_to = connect_to
        self._prefix = "" if self._base.startswith(_UNIX) else urlsplit(self._base).path

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        allowed: tuple[int, ...] = (),
        timeout: float | None = None,
    ) -> Response:
        """Sends `body` (bytes as they are, anything else as JSON); `allowed`: statuses >= 400 that are
        answers.

        Raises HttpError. Redirects are returned, not followed.
        """
        sent = {"Accept": "application/json", **self._headers}
        payload = body
        if body is not None and not isinstance(body, bytes):
            payload = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        connection = self._connection(timeout or self._timeout)
        try:
            connection.request(method, self._prefix + path, payload, {**sent, **(headers or {})})
            raw = connection.getresponse()
            response = Response(raw.status, raw.headers, raw.read())
        except (OSError, http.client.HTTPException) as error:
            raise HttpError(
                method, path, 0, f"no answer from {self._base}: {error or type(error).__name__}"
            ) from None
        finally:
            connection.close()
        if response.status >= 400 and response.status not in allowed:
            raise HttpError(method, path, response.status, _message(response))
        return response

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._base.startswith(_UNIX):
            return _UnixConnection(self._base[len(_UNIX) :], timeout)
        url = urlsplit(self._base)
        host = url.hostname or ""
        if url.scheme == "http":
            plain = http.client.HTTPConnection(host, url.port, timeout=timeout)
            self._redirect_connect(plain)
            return plain
        if url.scheme != "https":
            raise ValueError(f"base_url: {self._base!r} is none of http://, https://, unix://")
        context = ssl.create_default_context(cafile=self._ca_file)
        secure = http.client.HTTPSConnection(host, url.port, timeout=timeout, context=context)
        self._redirect_connect(secure)
        return secure

    def _redirect_connect(self, connection: http.client.HTTPConnection) -> None:
        address = self._connect_to
        if address:
            # http.client's own hook: the name stays in Host and SNI, only the TCP connection goes elsewhere.
            connection._create_connection = (  # type: ignore[attr-defined]
                lambda target, *rest: socket.create_connection((address, target[1]), *rest)
            )


def _message(response: Response) -> str:
    try:
        parsed = response.json
    except ValueError:
        return " ".join(response.text.split())[:_MESSAGE_LENGTH]
    if not isinstance(parsed, dict):
        return http.client.responses.get(response.status, "")
    for key in ("message", "errors", "error", "detail", "warnings"):
        if parsed.get(key):
            found = parsed[key]
            return (found if isinstance(found, str) else json.dumps(found))[:_MESSAGE_LENGTH]
    return http.client.responses.get(response.status, "")
