"""The first command of an operator on a bare host, after nothing but `git clone`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.n8n_platform import images_clients

from molecule.host.tests.conftest import NestedHost, created
from tests.support.deployment import ROOT

HOME = "/home/deploy"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NestedHost]:
    """A host with what the README asks for, and its user with a clone of this checkout's commit."""
    folder = tmp_path_factory.mktemp("clone")
    bundle = folder / "checkout.bundle"
    subprocess.run(["git", "bundle", "create", "--quiet", bundle, "HEAD"], cwd=ROOT, check=True)
    with created(NestedHost(folder)) as host:
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


def operator(host: NestedHost, command: str) -> tuple[int, str, str]:
    """Code, output and messages of a command of the user who may use sudo with a password."""
    # Without a terminal sudo asks the helper only where there might be a window for it.
    environment = {"HOME": HOME, "SUDO_ASKPASS": f"{HOME}/askpass", "DISPLAY": ":0"}
    code, (output, messages) = host.machine.exec_run(
        ["sh", "-c", command], user="deploy", workdir=HOME, environment=environment, demux=True
    )
    return code, (output or b"").decode(), (messages or b"").decode()


@pytest.mark.full
def test_one_command_makes_the_environment_with_sudo_and_a_word(fresh: NestedHost) -> None:
    assert operator(fresh, "sudo -n true")[0] != 0, "sudo asks for a password"
    assert operator(fresh, "python3 -m venv try")[0] != 0, "the package is not there"
    code, output, messages = operator(fresh, "cd platform && make venv")
    assert code == 0, output + messages
    said = "lacks a working venv; installing the package python3.13-venv (as root)"
    assert f"bootstrap: /usr/bin/python3.13 {said}" in messages
    assert "bootstrap: installing requirements.txt into .venv" in messages
    code, version, messages = operator(fresh, "cd platform && .venv/bin/ansible-playbook --version")
    assert (code, messages) == (0, "")
    assert version.startswith("ansible-playbook [core 2.19.")
    assert f"config file = {HOME}/platform/ansible.cfg" in version
    assert operator(fresh, "cd platform && make venv") == (0, "", "")
