"""The build's comparison of an installed tree with the lock file finds everything that differs."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/container_images/files/n8n/verify-tree.py"
LOCK: dict[str, Any] = {
    "packages": {
        "": {"dependencies": {"n8n": "2.0.0"}},
        "node_modules/n8n": {"version": "2.0.0", "integrity": "sha512-n"},
        "node_modules/a": {"version": "1.0.0", "integrity": "sha512-a"},
        "node_modules/a/node_modules/b": {"version": "3.0.0", "integrity": "sha512-b"},
        "node_modules/for-a-mac": {"version": "1.0.0", "integrity": "sha512-m", "os": ["darwin"]},
        "node_modules/for-no-linux": {"version": "1.0.0", "integrity": "sha512-l", "os": ["!linux"]},
        "node_modules/for-musl": {
            "version": "1.0.0",
            "integrity": "sha512-u",
            "os": ["linux"],
            "libc": ["musl"],
        },
    }
}
ABSENT = ("", "node_modules/for-a-mac", "node_modules/for-no-linux", "node_modules/for-musl")


class Tree:
    """An installed tree that is the lock's until a test changes something."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = copy.deepcopy(LOCK)["packages"]
        self.recorded = {
            path: entry for path, entry in copy.deepcopy(self.lock).items() if path not in ABSENT
        }
        self.on_disk = {path: entry["version"] for path, entry in self.recorded.items()}

    def differences(self, version: str = "2.0.0") -> list[str]:
        """What the program says, as the build runs it; it must fail if and only if it says something."""
        for path, found in self.on_disk.items():
            (self.root / path).mkdir(parents=True)
            (self.root / path / "package.json").write_text(json.dumps({"version": found}))
        for file, packages in (("lock.json", self.lock), ("node_modules/.package-lock.json", self.recorded)):
            (self.root / file).write_text(json.dumps({"packages": packages}))
        command = [sys.executable, str(PROGRAM), str(self.root / "lock.json"), str(self.root), version]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stderr.splitlines()
        assert done.returncode == bool(said), done
        assert f"{len(self.recorded)} packages installed, {len(said)} differ" in done.stdout
        return said


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_the_locks_own_tree_passes(tree: Tree) -> None:
    """Packages of other platforms are in the lock and not on disk."""
    assert tree.differences() == []


def test_a_missing_package(tree: Tree) -> None:
    del tree.recorded["node_modules/a"], tree.on_disk["node_modules/a"]
    assert tree.differences() == ["node_modules/a: missing"]


def test_a_package_too_many(tree: Tree) -> None:
    tree.recorded["node_modules/c"] = {"version": "1.0.0", "integrity": "sha512-c"}
    assert tree.differences() == ["node_modules/c: not in the lock"]


def test_another_version(tree: Tree) -> None:
    tree.recorded["node_modules/a"]["version"] = tree.on_disk["node_modules/a"] = "1.0.1"
    assert tree.differences() == [
        "node_modules/a: version is 1.0.1, the lock says 1.0.0",
        "node_modules/a: version 1.0.1 on disk, the lock says 1.0.0",
    ]


def test_another_version_on_disk_than_npm_recorded(tree: Tree) -> None:
    tree.on_disk["node_modules/a/node_modules/b"] = "3.0.1"
    assert tree.differences() == ["node_modules/a/node_modules/b: version 3.0.1 on disk, the lock says 3.0.0"]


def test_another_integrity(tree: Tree) -> None:
    tree.recorded["node_modules/a"]["integrity"] = "sha512-x"
    assert tree.differences() == ["node_modules/a: integrity is sha512-x, the lock says sha512-a"]


def test_an_integrity_that_nobody_knows(tree: Tree) -> None:
    del tree.recorded["node_modules/a"]["integrity"], tree.lock["node_modules/a"]["integrity"]
    assert tree.differences() == ["node_modules/a: integrity is None, the lock says None"]


def test_a_lock_of_another_n8n(tree: Tree) -> None:
    assert tree.differences("2.0.1") == ["node_modules/n8n: the lock says 2.0.0, 2.0.1 is meant"]
