#!/usr/bin/python3
"""Run a webhook processor behind a proxy so that it leaves first and stops then.

    leave-first.py <program> [argument...]

At SIGTERM n8n 2.41 closes its databases but not its listening socket, goes on taking requests that it can only answer
with 500, and waits for executions whose end it may have missed, in the worst case until its stop time is over. Here the
readiness that the proxy asks for (port 5677, any path; until then the program's own) turns into 503. The program gets
its signal when the proxy has had the time to see that and no connection is open any more: n8n closes idle ones after
5 s, so those that stay are requests that wait for an answer. What it then still waits for runs on workers, who need
nothing from it: after FINISH_SECONDS it is ended. Exits with the program's code.
"""

import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PROGRAM_PORT, PORT = 5678, 5677
# The proxy asks once a second and waits two for the answer.
LEAVE_SECONDS = 3.0
FINISH_SECONDS = 30.0
SLOW_SECONDS = 10.0
ESTABLISHED = "01"
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}

leaving = threading.Event()
last_ready = float("-inf")


class Readiness(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if leaving.is_set() else own_readiness())
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """An access log of health checks is of no use to anybody."""


def own_readiness() -> int:
    """The program's. One that takes longer than it has is still there: on a busy host all would leave at once."""
    global last_ready
    try:
        # No proxy: it is this very container.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{PROGRAM_PORT}/healthz/readiness", timeout=0.9) as response:
            last_ready = time.monotonic()
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        slow = isinstance(getattr(error, "reason", error), TimeoutError)
        return 200 if slow and time.monotonic() - last_ready < SLOW_SECONDS else 503


def connections() -> int:
    """Established IPv4 connections to the program's port, as the kernel lists them."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:])
    return sum(row[1].endswith(f":{PROGRAM_PORT:04X}") and row[3] == ESTABLISHED for row in rows)


def take_leave(program: subprocess.Popen) -> None:
    time.sleep(LEAVE_SECONDS)
    while connections():
        time.sleep(0.1)
    program.send_signal(signal.SIGTERM)
    try:
        program.wait(FINISH_SECONDS)
    except subprocess.TimeoutExpired:
        print("leave-first: nobody waits for an answer any more; ending it", flush=True)
        program.kill()


def main() -> int:
    # Blocked and waited for: a handler would run only when the main thread happens to be the one that is interrupted.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    program = subprocess.Popen(
        sys.argv[1:], preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, [])
    )
    server = ThreadingHTTPServer(("", PORT), Readiness)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while program.poll() is None:
        if signal.sigwait(SIGNALS) != signal.SIGCHLD and not leaving.is_set():
            leaving.set()
            threading.Thread(target=take_leave, args=[program], daemon=True).start()
    if leaving.is_set() and program.returncode == -signal.SIGKILL:
        return 0
    return program.returncode if program.returncode >= 0 else 128 - program.returncode


if __name__ == "__main__":
    sys.exit(main())
