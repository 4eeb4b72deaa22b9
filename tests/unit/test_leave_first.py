"""A webhook processor that is told to stop leaves the edge first (roles/n8n/files/leave-first.py)."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "roles/n8n/files/leave-first.py"
# Ready at once; writes when its signal came, and ends with a code of its own.
PROGRAM = """
import http.server, signal, sys, time
def stop(*_):
    print(time.monotonic(), flush=True)
    raise SystemExit(7)
signal.signal(signal.SIGTERM, stop)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
WRAPPER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("leave_first", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.PORT, module.LEAVE_SECONDS = int(sys.argv[2]), 1.0
module.READINESS = f"http://127.0.0.1:{sys.argv[3]}/"
sys.argv = ["leave-first.py", sys.executable, "-c", sys.argv[4], sys.argv[3]]
sys.exit(module.main())
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def status(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz/readiness", timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_for(port: int, wanted: int) -> None:
    deadline = time.monotonic() + 20
    while status(port) != wanted:
        assert time.monotonic() < deadline, f"readiness is {status(port)}, not {wanted}"
        time.sleep(0.02)


@pytest.fixture
def wrapped(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    argv = [sys.executable, "-c", WRAPPER, SCRIPT, str(port), str(free_port()), PROGRAM]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path
    ) as process:
        try:
            yield process, port
        finally:
            process.kill()


def test_readiness_ends_before_the_program_is_told(wrapped: tuple[subprocess.Popen[str], int]) -> None:
    process, port = wrapped
    wait_for(port, 200)
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    wait_for(port, 503)
    assert time.monotonic() - told < 0.9, "readiness has to end at once"
    assert process.wait(timeout=20) == 7, "the program's own exit code"
    assert process.stdout
    assert float(process.stdout.read()) - told >= 1.0, "the program was told before the edge could know"


def test_a_second_signal_does_not_hurry_it(wrapped: tuple[subprocess.Popen[str], int]) -> None:
    process, port = wrapped
    wait_for(port, 200)
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    wait_for(port, 503)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 7
    assert time.monotonic() - told >= 1.0
