"""The documented commands of a restore on the core deployment, and what is seen of it meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.file_lock import file_lock

from tests.support.deployment import ROOT, Deployment, wait_until

INVENTORY = "../molecule/core/inventory"


def for_core(text: str, core: Deployment, **changes: str) -> str:
    """A command of the docs for this environment."""
    text = text.strip().replace("ENV=production", f"ENV={INVENTORY}")
    text = text.replace("platform_confirm=production", f"platform_confirm={core.name}")
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def start(command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "-euc", f"exec {command}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def succeeds(command: str) -> str:
    process = start(command)
    output, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, output[-6000:]
    return output


def killed(command: str, when: Callable[[], Any], what: str) -> None:
    """Starts a command and kills it as soon as `when` is true."""
    process = start(command)
    try:
        wait_until(lambda: when() or process.poll() is not None, what, 900, every=0.2)
        assert process.poll() is None, process.communicate()[0][-6000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def released(deployment: Deployment) -> None:
    """Waits until the modules of a killed run have ended as well: they may work a little longer, and hold the lock."""
    with file_lock(Path(f"/run/lock/n8n-platform-{deployment.name}.lock"), patience=180):
        pass


def refused(command: str) -> str:
    process = start(command)
    output, _ = process.communicate(timeout=900)
    assert process.returncode != 0
    return output


def executions(core: Deployment) -> set[str]:
    return {row[0] for row in core.sql("SELECT id FROM execution_entity WHERE status = 'success'")}


def one_more(core: Deployment) -> set[str]:
    """All executions that have succeeded, one of the smoke workflow among them that began now."""
    newest = int(core.sql("SELECT coalesce(max(id), 0) FROM execution_entity")[0][0])
    assert core.smoke()[0] == 200
    wait_until(lambda: {n for n in executions(core) if int(n) > newest}, "the execution to be saved")
    return executions(core)


def now(core: Deployment) -> str:
    """The database's clock, which a point in time is compared with."""
    ((text,),) = core.sql(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    )
    return text


class Polled(threading.Thread):
    """Repeats `look` each `every` seconds while the block lasts; `failures` holds what it raised."""

    def __init__(self, every: float) -> None:
        super().__init__(daemon=True)
        self.every = every
        self.failures: list[str] = []
        self._over = threading.Event()

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(60)

    def run(self) -> None:
        while not self._over.wait(self.every):
            try:
                self.look()
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")

    def look(self) -> None:
        raise NotImplementedError


class Sender(Polled):
    """Somebody who goes on calling a webhook."""

    def __init__(self, core: Deployment) -> None:
        super().__init__(0.5)
        self.core = core
        self.answers: list[tuple[int, str]] = []

    def look(self) -> None:
        status, headers = self.core.smoke()
        self.answers.append((status, headers.get("retry-after", "")))

    def again(self) -> Sender:
        """Another one, which goes on with what this one has seen."""
        other = Sender(self.core)
        other.answers, other.failures = self.answers, self.failures
        return other
