"""A bare host whose ordinary user has nothing but a clone of this checkout's commit."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible.module_utils.n8n_platform import images_clients

from tests.support.deployment import ROOT
from tests.support.nested_host import NestedHost, created

HOME = "/home/deploy"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
# Enough for an environment whose images the host builds itself, with what is needed meanwhile.
DEPLOYMENT_GB = 40
# What the report of `make up` and `make verify` begins with.
HEALTHY = "Environment local on localhost: healthy"


@contextmanager
def fresh_clone(folder: Path, disk_gb: int = 20) -> Iterator[NestedHost]:
    """A host with what the README asks for, and the clone in HOME/platform of the user `deploy`."""
    bundle = folder / "checkout.bundle"
    subprocess.run(["git", "bundle", "create", "--quiet", bundle, "HEAD"], cwd=ROOT, check=True)
    with created(NestedHost(folder, disk_gb=disk_gb)) as host:
        # This machine's way to packages, like the sources of apt that the host has from it.
        pip = images_clients.pip_conf(images_clients.texts(images_clients.PIP_FILES), dict(os.environ))
        host.put("/etc/pip.conf", f"{pip}cert = {CA_BUNDLE}\n".encode())
        host.put(CA_BUNDLE, Path(CA_BUNDLE).read_bytes())
        code, output = host.inside("apt-get update -qq && apt-get install -y -qq git make")
        assert code == 0, output
        host.put(f"{HOME}/checkout.bundle", bundle.read_bytes(), owner=1000)
        # What sudo asks instead of a person at a terminal.
        password = (folder / "password").read_text(encoding="utf-8")
        host.put(f"{HOME}/askpass", f"#!/bin/sh\necho '{password}'\n".encode(), owner=1000)
        assert host.inside(f"chmod 0700 {HOME}/askpass")[0] == 0
        assert operator(host, "git clone --quiet checkout.bundle platform")[0] == 0
        yield host


def operator(host: NestedHost, command: str, **environment: str) -> tuple[int, str, str]:
    """Code, output and messages of a command of the user who may use sudo with a password."""
    # Without a terminal sudo asks the helper only where there might be a window for it.
    environment = {"HOME": HOME, "SUDO_ASKPASS": f"{HOME}/askpass", "DISPLAY": ":0", **environment}
    code, (output, messages) = host.machine.exec_run(
        ["sh", "-c", command], user="deploy", workdir=HOME, environment=environment, demux=True
    )
    return code, (output or b"").decode(), (messages or b"").decode()


def make(host: NestedHost, target: str) -> str:
    """What `make <target>` says, which has to succeed; Ansible reads the password for sudo from a file."""
    file = f"{HOME}/password"
    host.put(file, (host.directory / "password").read_bytes(), owner=1000)
    command = f"cd platform && make {target}"
    code, output, messages = operator(host, command, ANSIBLE_BECOME_PASSWORD_FILE=file)
    assert code == 0, output[-6000:] + messages[-2000:]
    return output
