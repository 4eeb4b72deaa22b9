"""Runs that are killed as a power cut kills them: the process and all that it has started, at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.deployment import Deployment, Run

TIMEOUT_SECONDS = 120.0


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and its descendants; stopped first, so that none escapes by a fork."""
    family = [pid]
    for member in family:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGSTOP)
        family += _children(member)
    for member in family:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    """Of all threads: a child belongs to the thread that has forked it."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(word) for word in path.read_text().split()]
    return found


class Killer:
    """Kills the run once task `task` has begun and `moment` is true; `struck` tells whether it did.

    moment: asked every 20 ms; containers: those of the environment's services that are killed with it.
    """

    def __init__(
        self, deployment: Deployment, task: str, moment: Callable[[], Any], containers: bool
    ) -> None:
        self._deployment, self._task, self._moment, self._containers = deployment, task, moment, containers
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self.struck = False

    def __call__(self, event: dict[str, Any]) -> None:
        begun = event["event"] == "playbook_on_task_start" and event["event_data"]["task"].endswith(
            self._task
        )
        if begun and self._thread is None:
            self._thread = threading.Thread(target=self._wait_and_kill, args=(int(event["pid"]),))
            self._thread.start()

    def _wait_and_kill(self, pid: int) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not self._moment():
            if self._over.wait(0.02) or time.monotonic() > deadline:
                return
        kill_tree(pid)
        self.struck = True
        for container in self._deployment.containers().values() if self._containers else ():
            with suppress(Exception):  # it may have ended by itself
                container.kill()

    def finish(self) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()


def killed(
    deployment: Deployment,
    playbook: str,
    task: str,
    moment: Callable[[], Any] = lambda: True,
    *,
    containers: bool = False,
    **extra: Any,
) -> Run:
    """A run of `playbook` that was killed in task `task` as soon as `moment` was true. Fails when it was not."""
    killer = Killer(deployment, task, moment, containers)
    try:
        run = deployment.run(playbook, on_event=killer, **extra)
    finally:
        killer.finish()
    assert killer.struck, (
        f"the run ended before it could be killed in '{task}': {run.rc}\n{run.stdout[-3000:]}"
    )
    assert run.rc != 0
    return run


def killed_after(deployment: Deployment, playbook: str, seconds: float, **extra: Any) -> bool:
    """Kills a run, and the environment's containers, `seconds` after its first task. False when it had ended before."""
    begun = time.monotonic()
    killer = Killer(deployment, "", lambda: time.monotonic() > begun + seconds, containers=True)
    try:
        deployment.run(playbook, on_event=killer, **extra)
    finally:
        killer.finish()
    return killer.struck
