"""What bin/drill does after a drill, and what it is told of the failure."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from callback.platform_lock import lock_path

ROOT = Path(__file__).resolve().parents[2]
# Writes down what it is called with and what the first one has left; each book fails as the test says.
PROGRAM = """#!/bin/sh
book=$(basename "$3")
echo "$* $(cat "$PLATFORM_FAILURE_FILE")" >> {calls}
[ "$book" = drill.yml ] || exit 0
printf '%s' "{says}" > "$PLATFORM_FAILURE_FILE"
exit {code}
"""


@pytest.mark.parametrize(
    ("code", "says", "after"),
    [
        (0, "", []),
        (2, "Compare: the copy differs", ["Compare: the copy differs"]),
        # Of a rescue: in the end it went well.
        (0, "Try: no", []),
        # Refused, since another run has the environment.
        (1, "", []),
    ],
)
def test_only_a_drill_in_which_something_failed_has_an_aftermath(
    tmp_path: Path, code: int, says: str, after: list[str]
) -> None:
    program, calls = tmp_path / "ansible-playbook", tmp_path / "calls"
    program.write_text(PROGRAM.format(calls=calls, says=says, code=code))
    program.chmod(0o755)
    given = ["-i", "inventories/drill.yml", "playbooks/drill.yml", "-e", "restore_from=s3"]
    done = subprocess.run(
        [ROOT / "bin/drill", program, *given],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode == code
    failed = "-i inventories/drill.yml playbooks/_drill_failed.yml -e restore_from=s3"
    assert calls.read_text().splitlines() == [" ".join(given) + " ", *(f"{failed} {text}" for text in after)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ansible-playbook", "calls"]


@pytest.mark.parametrize(
    ("task", "kept"),
    [
        ({"ansible.builtin.fail": {"msg": "the copy differs"}}, "Try: the copy differs"),
        ({"ansible.builtin.fail": {"msg": "{{ item }} is gone"}, "loop": ["one"]}, "Try: one is gone"),
        ({"ansible.builtin.fail": {"msg": "s3cret"}, "no_log": True}, "Try: see its output"),
        ({"ansible.builtin.debug": {"msg": "well"}}, None),
    ],
)
def test_the_reason_of_a_failure_is_kept(tmp_path: Path, task: dict[str, Any], kept: str | None) -> None:
    book, reason = tmp_path / "book.yml", tmp_path / "reason"
    book.write_text(
        yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": [{"name": "Try", **task}]}])
    )
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(tmp_path),
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "plugins/callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "platform_failure",
        "PLATFORM_FAILURE_FILE": str(reason),
    }
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "-c", "local", book]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(kept), done.stdout
    assert (reason.read_text() if reason.exists() else None) == kept


@pytest.mark.parametrize(
    ("inventory", "source"),
    [
        ({}, "local"),
        # A store on this very host would be lost with it.
        ({"platform_object_storage": "own"}, "local"),
        ({"platform_object_storage": "external"}, "s3"),
        ({"platform_object_storage": "external", "restore_drill_from": "local"}, "local"),
    ],
)
def test_a_drill_rehearses_the_loss_of_the_host_where_something_outlives_it(
    tmp_path: Path, inventory: dict[str, str], source: str
) -> None:
    plays = yaml.safe_load((ROOT / "playbooks/drill.yml").read_text())
    (given_to_copy,) = [play["vars"] for play in plays if "restore_run" in play.get("vars", {})]
    # The copy itself has no bucket.
    variables = {**given_to_copy, "platform_object_storage": "none", "platform_preflight_access": "observe"}
    tasks = [{"ansible.builtin.debug": {"msg": "from-{{ restore_from }}"}}]
    book, program = tmp_path / "book.yml", Path(sys.executable).with_name("ansible-playbook")
    book.write_text(
        yaml.safe_dump([{"hosts": "platform", "gather_facts": False, "vars": variables, "tasks": tasks}])
    )
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory/hosts.yml").write_text(
        yaml.safe_dump({"platform": {"hosts": {"localhost": {"ansible_connection": "local", **inventory}}}})
    )
    argv = [program, "-i", "inventories/local", "-i", str(tmp_path / "inventory"), book]
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"from-{source}" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("held", [False, True])
def test_a_drill_beside_a_restore_into_the_copy_is_refused_before_it_has_begun(
    tmp_path: Path, held: bool
) -> None:
    name = f"dt-{os.getpid()}"
    # Only what happens in which play, and under whose lock.
    own = [play for play in yaml.safe_load((ROOT / "playbooks/drill.yml").read_text()) if "hosts" in play]
    for play in own:
        told = [{"ansible.builtin.debug": {"msg": task["name"]}} for task in play["tasks"]]
        play.update(tasks=told, become=False)
    book, inventory = tmp_path / "book.yml", tmp_path / "hosts.yml"
    book.write_text(yaml.safe_dump(own))
    host = {"ansible_connection": "local", "platform_environment": name, "platform_root": str(tmp_path)}
    inventory.write_text(yaml.safe_dump({"platform": {"hosts": {"localhost": host}}}))
    locks = [lock_path(name), lock_path(f"{name}-scratch")]
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, book]
    try:
        with locks[1].open("w") as lock:
            if held:
                fcntl.flock(lock, fcntl.LOCK_EX)
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    finally:
        for path in locks:
            path.unlink(missing_ok=True)
    assert (done.returncode != 0) == held, done.stdout + done.stderr
    assert ("Write down that a drill has begun" in done.stdout) == (not held)
    assert (f"{name}-scratch is in use" in done.stderr) == held
