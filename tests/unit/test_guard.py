"""The guard around every unit test: each of these would harm the machine if it were let through."""

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

ELSEWHERE = Path("/nonexistent/n8n-platform-test")
refused = pytest.raises(AssertionError, match="keeps to itself")


@pytest.mark.parametrize(
    "reach",
    [
        lambda _: ELSEWHERE.write_text(""),
        lambda _: ELSEWHERE.mkdir(),
        lambda _: ELSEWHERE.unlink(missing_ok=True),
        lambda _: os.open(ELSEWHERE, os.O_RDWR),
        lambda _: os.chmod(ELSEWHERE, 0o600),
        lambda _: os.chown(ELSEWHERE, -1, -1),
        lambda _: os.symlink("x", ELSEWHERE),
        lambda tmp_path: os.rename(tmp_path, ELSEWHERE),
        lambda tmp_path: (tmp_path / "../../../../../../../../nonexistent/x").write_text(""),
        lambda _: subprocess.run(["mount", "--version"], check=False),
        lambda _: subprocess.run(["/usr/bin/dpkg", "--version"], check=False),
        lambda _: socket.create_connection(("192.0.2.1", 80), 0.1),
        lambda _: socket.socket(socket.AF_UNIX).connect("/nonexistent/docker.sock"),
        lambda _: os.kill(-1, 0),
    ],
)
def test_what_reaches_out_is_refused(tmp_path: Path, reach: Any) -> None:
    with refused:
        reach(tmp_path)


def test_a_link_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(ELSEWHERE)
    with refused:
        (tmp_path / "link").write_text("")
    with refused:
        (tmp_path / "link").chmod(0o600)
    (tmp_path / "link").unlink()


def test_a_folder_of_ones_own_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_text("c")
    shutil.rmtree(tmp_path / "a")
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho made up\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert subprocess.run(["docker"], capture_output=True, check=True).stdout == b"made up\n"
