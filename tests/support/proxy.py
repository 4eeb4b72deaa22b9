"""An outbound proxy for tests, which writes down what it is asked for and answers it itself."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.gateway import gateway

# molecule/pair/staging names it.
NETWORK, SUBNET, ADDRESS, PORT = "n8n-platform-test-proxy", "10.204.8.0/28", "10.204.8.1", 3128
ANSWER = "by the proxy"


class Proxy:
    """Listens on ADDRESS:PORT while the block lasts. `asked`: method and address of each request."""

    def __init__(self) -> None:
        self.asked: list[str] = []
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

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(f"{self.command} {self.path}")
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                self.wfile.write(ANSWER.encode())

            def do_CONNECT(self) -> None:
                asked.append(f"{self.command} {self.path}")
                self.send_error(403)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
