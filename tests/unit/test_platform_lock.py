"""The lock of an environment: who gets it, and what the others are told."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("platform_lock", ROOT / "plugins/callback/platform_lock.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_second_run_is_told_who_holds_the_lock(lock: ModuleType, tmp_path: Path) -> None:
    held = lock.take_lock("blue", tmp_path / "l", True, "ansible-playbook site.yml")
    with pytest.raises(lock.LockHeldError, match=f"blue is in use.*process {os.getpid()} of .*site.yml"):
        lock.take_lock("blue", tmp_path / "l", True, "other")
    os.close(held)
    os.close(lock.take_lock("blue", tmp_path / "l", True, "other"))


def test_readers_share_and_a_writer_waits_for_none_of_them(lock: ModuleType, tmp_path: Path) -> None:
    first = lock.take_lock("blue", tmp_path / "l", False, "verify")
    second = lock.take_lock("blue", tmp_path / "l", False, "verify")
    with pytest.raises(lock.LockHeldError):
        lock.take_lock("blue", tmp_path / "l", True, "site")
    os.close(first)
    os.close(second)


def test_the_lock_does_not_follow_a_link(lock: ModuleType, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "l").symlink_to(victim)
    with pytest.raises(OSError):
        lock.take_lock("blue", tmp_path / "l", True, "site")
    assert victim.read_text() == "precious"


def test_the_shown_command_leaves_extra_variables_out(lock: ModuleType) -> None:
    shown = lock.command_line(
        {"inventory": ["inventories/blue"], "args": ["site.yml"], "extra_vars": ["p=hunter2"], "check": True}
    )
    assert shown == "ansible-playbook -i inventories/blue --check site.yml"


@pytest.fixture
def play(tmp_path: Path) -> Any:
    """Runs a play of environment `lock-test-<pid>`; returns the finished process."""
    book = tmp_path / "book.yml"
    book.write_text(
        textwrap.dedent(
            """
            - hosts: localhost
              connection: local
              gather_facts: false
              tasks:
                - {name: Done, ansible.builtin.debug: {msg: it has run}}
            """
        )
    )

    def run(*arguments: str, access: str = "change", name: str = f"lock-test-{os.getpid()}") -> Any:
        variables = json.dumps({"platform_environment": name, "platform_preflight_access": access})
        return subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                "-i",
                "localhost,",
                "-e",
                variables,
                *arguments,
                book,
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_run_ends_before_its_first_task_when_the_lock_is_taken(lock: ModuleType, play: Any) -> None:
    name = f"lock-test-{os.getpid()}"
    path = lock.lock_path(name)
    held = lock.take_lock(name, path, True, "the other run")
    try:
        refused, observer = play(), play(access="observe")
    finally:
        os.close(held)
        path.unlink()
    assert refused.returncode != 0
    assert "it has run" not in refused.stdout
    assert f"{name} is in use" in refused.stderr and "the other run" in refused.stderr
    assert observer.returncode == 0, observer.stderr


def test_check_mode_shares_with_a_reader(lock: ModuleType, play: Any) -> None:
    name = f"lock-test-{os.getpid()}"
    path = lock.lock_path(name)
    held = lock.take_lock(name, path, False, "verify")
    try:
        checking, changing = play("--check"), play()
    finally:
        os.close(held)
        path.unlink()
    assert checking.returncode == 0, checking.stderr
    assert changing.returncode != 0
