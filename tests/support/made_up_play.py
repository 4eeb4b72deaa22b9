"""A play of a test's own on the control host, with the inventory of a laptop and the project's own roles."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.support.repository import ROOT


def run_play(folder: Path, book: list[dict[str, Any]], *roles: Path, **variables: Any) -> None:
    """Runs the plays of `book`, which see the roles below `roles` too, and takes any failure for the test's."""
    (folder / "book.yml").write_text(yaml.safe_dump(book))
    done = called(folder, folder / "book.yml", *roles, ROOT / "roles", **variables)
    assert done.returncode == 0, done.stdout + done.stderr


def called(folder: Path, playbook: Path, *roles: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    """A playbook that sees the roles below `roles` and nothing else of this process; what it keeps is in `folder`."""
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(ROOT / "inventories/local")]
    return subprocess.run(
        [*command, "-e", json.dumps(variables), str(playbook)],
        cwd=ROOT,
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "ANSIBLE_REMOTE_TMP": str(folder / "tmp"),
            "ANSIBLE_ROLES_PATH": ":".join(map(str, roles)),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def play(*tasks: dict[str, Any]) -> dict[str, Any]:
    return {"hosts": "platform", "gather_facts": False, "tasks": list(tasks)}


def written(path: Path, content: Any, **variables: Any) -> dict[str, Any]:
    """A task that writes `content`, templated, as JSON."""
    copy = {"dest": str(path), "content": "{{ content | to_json }}"}
    return {"ansible.builtin.copy": copy, "vars": {"content": content, **variables}}
