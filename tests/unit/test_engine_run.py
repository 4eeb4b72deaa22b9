"""When a program that runs once is started again, and when not; the client is a script that fails as Docker's does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform import engine_run as subject
from ansible.module_utils.n8n_platform.engine import EngineError

LOST = "OCI runtime create failed: runc create failed: unable to start container process: waiting for init"
NO_IMAGE = "No such image: x:1."


class NoContainers:
    """An engine that has already removed every container it is asked about."""

    socket = "/nowhere"

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def client(directory: Path, failures: int, message: str) -> tuple[subject.OneShots, Path]:
    """A client whose first `failures` calls fail with `message`; one line for each call in the file."""
    calls, script = directory / "calls", directory / "docker"
    script.write_text(
        f'#!/bin/sh\necho "$@" >>{calls}\n'
        f"[ $(wc -l <{calls}) -gt {failures} ] && exec cat\n"
        f"echo 'docker: Error response from daemon: {message}' >&2\nexit 125\n"
    )
    script.chmod(0o755)
    return subject.OneShots(NoContainers(), "test", "once", docker=str(script)), calls  # type: ignore[arg-type]


def names(calls: Path) -> list[str]:
    return [line.split("--name ")[1].split()[0] for line in calls.read_text().splitlines()]


def test_a_container_that_the_runtime_lost_is_started_again_with_its_whole_input(tmp_path: Path) -> None:
    oneshots, calls = client(tmp_path, 2, LOST)
    assert oneshots.run("x:1", ["cat"], stdin="words").stdout == "words"
    assert len(set(names(calls))) == 3


def test_a_runtime_that_always_fails_is_reported(tmp_path: Path) -> None:
    oneshots, calls = client(tmp_path, 99, LOST)
    with pytest.raises(EngineError, match="no container could be made: .*waiting for init"):
        oneshots.run("x:1", ["cat"])
    assert len(names(calls)) == 3


def test_what_would_fail_again_is_not_repeated(tmp_path: Path) -> None:
    oneshots, calls = client(tmp_path, 1, NO_IMAGE)
    with pytest.raises(EngineError, match="No such image"):
        oneshots.run("x:1", ["cat"])
    assert len(names(calls)) == 1
