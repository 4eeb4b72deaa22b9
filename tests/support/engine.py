"""The engine that tests need; where there is none, the project's own role installs and starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException

ROOT = Path(__file__).resolve().parents[2]
SOCKET = "unix:///var/run/docker.sock"


def connected() -> docker.DockerClient | None:
    """A client of the running engine; None when there is no docker command or nothing answers."""
    if not shutil.which("docker"):
        return None
    try:
        client = docker.DockerClient(base_url=SOCKET, timeout=300)
        client.ping()
    except DockerException:
        return None
    return client


def prepare() -> None:
    """Runs molecule/engine.yml on this machine. Fails with what the play has said."""
    playbook = [Path(sys.executable).with_name("ansible-playbook"), "molecule/engine.yml"]
    done = subprocess.run(
        [*playbook, "-i", "inventories/local"],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="session")
def engine() -> docker.DockerClient:
    """A client of this machine's engine; the docker command, Compose and Buildx are there, too."""
    client = connected()
    if client is None:
        prepare()
        client = connected()
    assert client, f"the docker_engine role has run, but nothing answers on {SOCKET}"
    return client
