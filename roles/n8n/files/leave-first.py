#!/usr/bin/python3
"""Run a program behind a proxy so that the proxy stops sending before the program stops taking.

    leave-first.py <program> [argument...]

n8n closes its databases before its listening socket, and forgets executions that are only just being created: requests
that arrive in that moment are answered with 500, or not at all. Here the readiness that the proxy asks for (port 5677,
any path) turns into 503 at SIGTERM, and the program gets its signal only when the proxy has had the time to see it.
Until then the readiness is the program's own. Exits with the program's code.
"""

import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

READINESS = "http://127.0.0.1:5678/healthz/readiness"
PORT = 5677
# The proxy asks once a second and waits a second for the answer.
LEAVE_SECONDS = 3.0

leaving = threading.Event()


class Readiness(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if leaving.is_set() else own_readiness())
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """An access log of health checks is of no use to anybody."""


def own_readiness() -> int:
    try:
        # No proxy: it is this very container.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(READINESS, timeout=0.9) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 503


def main() -> int:
    program = subprocess.Popen(sys.argv[1:])

    def leave(signum: int, _: object) -> None:
        if not leaving.is_set():
            leaving.set()
            threading.Timer(LEAVE_SECONDS, program.send_signal, [signum]).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    server = ThreadingHTTPServer(("", PORT), Readiness)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = program.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
