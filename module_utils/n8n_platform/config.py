"""Content-addressed directories: `<root>/<service>/<sha256>/`, written once and never changed.

A container that mounts such a path sees a change of its configuration as a change of the path, and an older
release still finds the files that it names.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

CURRENT = "current"


class ConfigError(Exception):
    """Names the file or directory that is at fault."""


def digest(files: dict[str, str], mode: int, owner: int, group: int) -> str:
    """sha256 over all that makes the directory what it is: paths, contents, mode and owners."""
    document = json.dumps([files, mode, owner, group], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(document.encode()).hexdigest()


def check_names(files: dict[str, str]) -> None:
    """Raises ConfigError for a path that is absolute, leaves the directory or is both file and directory."""
    for name in files:
        parts = name.split("/")
        if not name or any(part in ("", ".", "..") for part in parts):
            raise ConfigError(f"files: {name!r} is not a plain relative path")
        parents = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        clash = parents & files.keys()
        if clash:
            raise ConfigError(f"files: {sorted(clash)[0]!r} is a file and a directory of {name!r}")


def write_tree(directory: Path, files: dict[str, str], mode: int, owner: int, group: int) -> None:
    """Fills a new directory; what an interrupted run left under the same name is removed first."""
    shutil.rmtree(directory, ignore_errors=True)
    _make_directory(directory, owner, group)
    for name, content in sorted(files.items()):
        path = directory / name
        for parent in reversed(path.relative_to(directory).parents[:-1]):
            if not (directory / parent).is_dir():
                _make_directory(directory / parent, owner, group)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            os.fchown(stream.fileno(), owner, group)
            os.fchmod(stream.fileno(), mode)


def read_tree(directory: Path | None) -> dict[str, str]:
    """{relative path: content}; empty when there is no such directory."""
    if directory is None or not directory.is_dir():
        return {}
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text("utf-8", "replace") for path in found}


def versions(service: Path) -> list[Path]:
    """The finished directories of a service, oldest first; temporary ones start with a dot."""
    if not service.is_dir():
        return []
    found = [
        path for path in service.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] != "."
    ]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def latest(service: Path) -> Path | None:
    """What `current` names, else the newest; the directory that a difference is shown against."""
    link = service / CURRENT
    if link.is_dir():
        return service / link.readlink()
    found = versions(service)
    return found[-1] if found else None


def switch(link: Path, target: str) -> None:
    """Points `link` at `target` (relative to its directory) in one step, so no reader sees it missing."""
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def stale(root: Path, named: Iterable[str], keep: int) -> list[Path]:
    """Directories below `<root>/<service>/` whose path occurs in none of the texts `named`.

    A service that has a `current` link is mounted as a whole, so no text names its directories: there the
    link's own target and the last `keep` stay.
    """
    texts = list(named)
    found: list[Path] = []
    for service in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []:
        known = versions(service)
        kept = {*known[-keep:], latest(service)} if (service / CURRENT).is_symlink() else set()
        found += [path for path in known if path not in kept and not any(str(path) in text for text in texts)]
    return found


def _make_directory(path: Path, owner: int, group: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)
    os.chown(path, owner, group)
