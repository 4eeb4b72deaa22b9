"""An outbound proxy for tests, which writes down what it is asked for and answers it itself."""

from __future__ import annotations

import ssl
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.certificates import Authority
from tests.support.gateway import gateway

# molecule/pair/staging names it, and the file of the authority.
NETWORK, SUBNET, ADDRESS, PORT = "n8n-platform-test-proxy", "10.204.8.0/28", "10.204.8.1", 3128
CACHE = Path("/var/cache/n8n-platform/test-proxy")
ANSWER = "by the proxy"


def authority() -> Authority:
    """Signs what the proxy shows in place of others. Kept, so that a deployment which trusts it need not change."""
    return Authority(CACHE)


class Proxy:
    """Listens on ADDRESS:PORT while the block lasts, and reads what goes through its tunnels.

    directory: for certificates. asked: method and address of each request, in a tunnel the path alone.
    """

    def __init__(self, directory: Path) -> None:
        self.asked: list[str] = []
        self._directory = directory
        self._stack = ExitStack()

    def __enter__(self) -> Proxy:
        with self._stack as stack:
            stack.enter_context(gateway(NETWORK, SUBNET, ADDRESS))
            server = stack.enter_context(ThreadingHTTPServer((ADDRESS, PORT), self._handler()))
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _tls(self, name: str) -> ssl.SSLContext:
        certificate, key = self._directory / "proxy.crt", self._directory / "proxy.key"
        # n8n 2.41 compares what answers for an address, through a tunnel, with this name.
        authority().issue(certificate, key, [name, "localhost"], last_day=2)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        return context

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                proxy.asked.append(f"{self.command} {self.path}")
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                self.wfile.write(ANSWER.encode())

            def do_CONNECT(self) -> None:
                proxy.asked.append(f"{self.command} {self.path}")
                self.send_response(200)
                self.end_headers()
                context = proxy._tls(self.path.rpartition(":")[0])
                self.connection = context.wrap_socket(self.connection, server_side=True)
                self.setup_streams()
                self.handle_one_request()

            def setup_streams(self) -> None:
                self.rfile = self.connection.makefile("rb")
                self.wfile = self.connection.makefile("wb", 0)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
