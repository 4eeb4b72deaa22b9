"""The first command of an operator on a bare host, after nothing but `git clone`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.depth import nightly
from tests.support.fresh_clone import DEPLOYMENT_GB, HEALTHY, HOME, fresh_clone, make, operator
from tests.support.nested_host import NestedHost


# One for each test: they all have the same name.
@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[NestedHost]:
    with fresh_clone(tmp_path) as host:
        yield host


@pytest.fixture
def spacious(tmp_path: Path) -> Iterator[NestedHost]:
    with fresh_clone(tmp_path, DEPLOYMENT_GB) as host:
        yield host


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


@nightly("seven minutes, all images built, 40 GB of disk")
def test_one_command_ends_in_an_environment_that_works(spacious: NestedHost) -> None:
    assert spacious.inside("command -v docker dockerd")[0] != 0
    for target in ("up", "verify"):
        said = make(spacious, target)
        assert HEALTHY in said, (target, said[-3000:])
