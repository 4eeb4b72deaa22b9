"""A proxy before an S3 store that does what stores and networks do on bad days."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPResponse, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}
_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{0}</Code><Message>made by the test</Message></Error>'
)
_CODES = {403: "AccessDenied", 404: "NoSuchBucket", 500: "InternalError", 503: "SlowDown"}


@dataclass
class Fault:
    """What happens to requests of `methods` whose path contains `path`, the first `times` of them (-1: all).

    kind: `status` (that HTTP status), `error200` (an error in the body of a 200), `empty200`,
    `page200` (somebody else's page), `stall` (no answer for
    as long as the client waits), `reset` (of the connection in the middle of what the client sends), `reset_answer`
    (in the middle of what it gets), `flip` (one byte of the answer's body is another), `drip` (the body at 5 KB/s).
    """

    kind: str
    status: int = 500
    methods: tuple[str, ...] = ("GET", "HEAD", "PUT", "POST", "DELETE")
    path: str = ""
    times: int = -1
    met: int = 0

    def meets(self, method: str, path: str) -> bool:
        if method not in self.methods or self.path not in path or self.met == self.times:
            return False
        self.met += 1
        return True


@dataclass
class FaultProxy:
    """`with FaultProxy(store.endpoint, store.ca_file, certificate, key) as proxy: proxy.fault = Fault("stall")`.

    Listens by TLS at `endpoint`; `address` has to be in the certificate. What meets no fault goes to the store.
    """

    upstream: str
    ca_file: Path
    certificate: Path
    key: Path
    address: str = "127.0.0.1"
    fault: Fault | None = None
    requests: list[str] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"https://{self.address}:{self._server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        self._over = threading.Event()
        self._server = ThreadingHTTPServer((self.address, 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        # The handshake is the thread's, so that a client that stalls in it stalls nobody else.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def wait_for_end(self) -> None:
        self._over.wait()

    def over(self, seconds: float) -> bool:
        """Whether the proxy ends within that time."""
        return self._over.wait(seconds)

    def forward(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[Any, bytes]:
        """The store's answer and its body. Headers, the signed Host too, go there as the client sent them."""
        url = urlsplit(self.upstream)
        context = ssl.create_default_context(cafile=str(self.ca_file))
        # Newer Pythons want extensions that an authority of tests does not have.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        connection = HTTPSConnection(url.hostname or "", url.port, context=context, timeout=60)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer: HTTPResponse = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"

    def handle_request(self) -> None:
        self.proxy.requests.append(f"{self.command} {self.path}")
        fault = self.proxy.fault
        if fault and fault.meets(self.command, self.path):
            getattr(self, f"_{fault.kind}")(fault)
        else:
            answer, content = self._forwarded()
            self._send(answer.status, answer.getheaders(), content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

    def log_message(self, *_: object) -> None:
        pass

    def _forwarded(self) -> tuple[Any, bytes]:
        headers = [item for item in self.headers.items() if item[0].lower() != "content-length"]
        body = b"".join(self._parts())
        return self.proxy.forward(
            self.command, self.path, [*headers, ("Content-Length", str(len(body)))], body
        )

    def _parts(self) -> Iterator[bytes]:
        """What the client sends, chunk by chunk, or in two halves."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().partition(b";")[0] or b"0", 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            length = int(self.headers.get("Content-Length") or 0)
            yield self.rfile.read(length // 2)
            yield self.rfile.read(length - length // 2)

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value if self.command == "HEAD" else length
            elif name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _swallow(self) -> None:
        for _ in self._parts():
            pass

    def _status(self, fault: Fault) -> None:
        self._swallow()
        content = _ERROR.format(_CODES[fault.status]).encode()
        self._send(fault.status, [("Content-Type", "application/xml")], content)

    def _error200(self, fault: Fault) -> None:
        self._swallow()
        self._send(200, [("Content-Type", "application/xml")], _ERROR.format("InternalError").encode())

    def _page200(self, fault: Fault) -> None:
        self._swallow()
        self._send(200, [("Content-Type", "text/html")], b"<html><body>Please log in</body></html>")

    def _empty200(self, fault: Fault) -> None:
        self._swallow()
        self._send(200, [("Last-Modified", "Sun, 22 Nov 2026 10:00:00 GMT")], b"")

    def _stall(self, fault: Fault) -> None:
        self.proxy.wait_for_end()
        self.close_connection = True

    def _reset(self, fault: Fault) -> None:
        next(self._parts(), None)
        self._cut()

    def _reset_answer(self, fault: Fault) -> None:
        content = self._answered()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self._cut()

    def _drip(self, fault: Fault) -> None:
        content = self._answered()
        self.close_connection = True
        for start in range(0, len(content), 512):
            if self.proxy.over(0.1):
                return
            self.wfile.write(content[start : start + 512])
            self.wfile.flush()

    def _flip(self, fault: Fault) -> None:
        answer, content = self._forwarded()
        middle = len(content) // 2
        content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        # Without the store's checksum, which not every store sends.
        headers = [item for item in answer.getheaders() if not item[0].lower().startswith("x-amz-checksum")]
        self._send(answer.status, headers, content)

    def _answered(self) -> bytes:
        """Sends the head of the store's answer; its content is left to the caller."""
        answer, content = self._forwarded()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.end_headers()
        return content

    def _cut(self) -> None:
        """RST instead of a proper end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Below TLS, which would say goodbye.
        socket.socket(fileno=self.connection.detach()).close()
