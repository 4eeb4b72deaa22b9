"""A webhook processor that is told to stop leaves the edge first (roles/n8n/files/leave-first.py)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "roles/n8n/files/leave-first.py"
# Ready at once; says when its signal came, and ends with a code of its own, or never.
PROGRAM = """
import http.server, signal, sys, time
def stop(*_):
    print(time.monotonic(), flush=True)
    if sys.argv[2] == "ends":
        raise SystemExit(7)
signal.signal(signal.SIGTERM, stop)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
WRAPPER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("leave_first", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.PORT, module.PROGRAM_PORT = int(sys.argv[2]), int(sys.argv[3])
module.LEAVE_SECONDS, module.FINISH_SECONDS, module.SLOW_SECONDS = 1.0, 1.0, 3.0
sys.argv = ["leave-first.py", sys.executable, "-c", sys.argv[4], sys.argv[3], sys.argv[5]]
sys.exit(module.main())
"""


class Wrapped:
    def __init__(self, folder: Path, manner: str) -> None:
        self.port, self.program_port = free_port(), free_port()
        argv = [
            sys.executable,
            "-c",
            WRAPPER,
            SCRIPT,
            str(self.port),
            str(self.program_port),
            PROGRAM,
            manner,
        ]
        self.process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            start_new_session=True,
        )
        self.wait_for(200)

    def wait_for(self, wanted: int) -> None:
        deadline = time.monotonic() + 20
        while status(self.port) != wanted:
            assert time.monotonic() < deadline, f"readiness is {status(self.port)}, not {wanted}"
            time.sleep(0.02)

    def tell(self) -> float:
        """When it was told to stop."""
        self.process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        self.wait_for(503)
        return told

    def end(self) -> tuple[int, float]:
        """Exit code, and when the program got its signal."""
        code = self.process.wait(timeout=20)
        assert self.process.stdout
        return code, float(self.process.stdout.readline())


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


@pytest.fixture
def wrapped(tmp_path: Path) -> Iterator[Callable[[str], Wrapped]]:
    (tmp_path / "healthz").mkdir()
    (tmp_path / "healthz/readiness").write_text("ok", encoding="utf-8")
    started: list[Wrapped] = []

    def start(manner: str) -> Wrapped:
        started.append(Wrapped(tmp_path, manner))
        return started[-1]

    yield start
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait(timeout=20)


def test_readiness_ends_before_the_program_is_told(wrapped: Callable[[str], Wrapped]) -> None:
    processor = wrapped("ends")
    told = processor.tell()
    assert time.monotonic() - told < 0.9, "readiness has to end at once"
    code, signalled = processor.end()
    assert code == 7, "the program's own exit code"
    assert signalled - told >= 1.0, "the program was told before the edge could know"


def test_a_request_that_waits_for_its_answer_is_waited_for(wrapped: Callable[[str], Wrapped]) -> None:
    processor = wrapped("ends")
    with socket.create_connection(("127.0.0.1", processor.program_port)):
        told = processor.tell()
        time.sleep(2.5)
        assert processor.process.poll() is None
        closed = time.monotonic()
    code, signalled = processor.end()
    assert (code, signalled >= closed > told) == (7, True)


def test_a_second_signal_does_not_hurry_it(wrapped: Callable[[str], Wrapped]) -> None:
    processor = wrapped("ends")
    told = processor.tell()
    processor.process.send_signal(signal.SIGTERM)
    code, signalled = processor.end()
    assert (code, signalled - told >= 1.0) == (7, True)


def test_who_waits_for_nobody_is_ended(wrapped: Callable[[str], Wrapped]) -> None:
    processor = wrapped("stays")
    processor.tell()
    assert processor.end()[0] == 0


def test_who_is_slow_stays_for_a_while(wrapped: Callable[[str], Wrapped]) -> None:
    processor = wrapped("ends")
    (program,) = (
        Path(f"/proc/{processor.process.pid}/task/{processor.process.pid}/children").read_text().split()
    )
    os.kill(int(program), signal.SIGSTOP)
    assert status(processor.port) == 200, "it only takes longer"
    processor.wait_for(503)
    os.kill(int(program), signal.SIGCONT)
    processor.wait_for(200)


def test_who_is_gone_is_not_taken_for_slow() -> None:
    code = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('m', sys.argv[1]);"
        "m = importlib.util.module_from_spec(spec); spec.loader.exec_module(m);"
        "m.PROGRAM_PORT, m.last_ready = int(sys.argv[2]), m.time.monotonic(); print(m.own_readiness())"
    )
    argv = [sys.executable, "-c", code, SCRIPT, str(free_port())]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() == "503"
