"""The first command of an operator on a bare host, after nothing but `git clone`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fresh_clone import HOME, fresh_clone, operator
from tests.support.nested_host import NestedHost


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NestedHost]:
    with fresh_clone(tmp_path_factory.mktemp("clone")) as host:
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
