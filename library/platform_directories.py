#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Create an environment's directories and those of the volumes that roles contribute."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_directories
short_description: Create an environment's directories and volumes
description:
  - Creates directories and gives existing ones their owner, group and mode. What lies inside is never
    touched and
    nothing is ever removed.
  - Below O(volumes_root) a symlink is refused, since containers own what lies there.
options:
  directories:
    description: Directories, parents before children.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      owner:
        description: Numeric uid.
        type: int
        default: 0
      group:
        description: Numeric gid.
        type: int
        default: 0
      mode:
        description: Mode, octal.
        type: str
        default: "0755"
  contributions:
    description:
      - What roles bring along; each entry of C(volumes), with C(name), C(owner), C(group) and C(mode),
        becomes a
        directory of that name (or relative path) below O(volumes_root). The same name in two roles is an
        error that names both.
    type: list
    elements: dict
    default: []
  volumes_root:
    description: Directory of the volumes, needed with O(contributions).
    type: path
attributes:
  check_mode:
    support: full
    description: Changes nothing.
  diff_mode:
    support: full
    description: Owner, group and mode of each directory that differs.
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: config | Create the directories
  platform_directories:
    directories:
      - {path: "{{ platform_secrets_root }}", mode: "0700"}
    volumes_root: "{{ platform_volumes_root }}"
    contributions: "{{ platform_contributions }}"
"""

RETURN = r"""
directories:
  description: All directories looked after, in order.
  returned: always
  type: list
  elements: str
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.files import held

_VOLUME_KEYS = {"name", "owner", "group", "mode"}


def build_spec() -> dict[str, Any]:
    return {
        "directories": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "path": {"type": "path", "required": True},
                "owner": {"type": "int", "default": 0},
                "group": {"type": "int", "default": 0},
                "mode": {"type": "str", "default": "0755"},
            },
        },
        "contributions": {"type": "list", "elements": "dict", "default": []},
        "volumes_root": {"type": "path"},
    }


class DirectoriesError(Exception):
    """Names the directory, the variable and the roles."""


@dataclass(frozen=True)
class Directory:
    """`root`: up to there the path may lead through symlinks."""

    path: Path
    owner: int
    group: int
    mode: int
    root: Path

    def wanted(self) -> str:
        return f"{self.path} owner={self.owner} group={self.group} mode={self.mode:04o}\n"

    def found(self) -> str:
        try:
            with held(self.root, self.path) as directory:
                status = directory.stat()
        except FileNotFoundError:
            return ""
        except NotADirectoryError as error:
            raise DirectoriesError(str(error)) from None
        return f"{self.path} owner={status.st_uid} group={status.st_gid} mode={status.st_mode & 0o7777:04o}\n"

    def create(self) -> None:
        with held(self.root, self.path, make=True) as directory:
            os.chown(directory, self.owner, self.group)
            directory.chmod(self.mode)


class Manager:
    """Plans and carries out the creation. Raises DirectoriesError."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.directories = [
            _directory(entry, entry["path"], "directories", params["volumes_root"])
            for entry in params["directories"]
        ]
        self.directories += _volumes(params["contributions"], params["volumes_root"])
        for directory in self.directories:
            if not directory.path.is_absolute():
                raise DirectoriesError(f"directories: {directory.path} is not absolute")

    def plan(self) -> list[Directory]:
        return [directory for directory in self.directories if directory.found() != directory.wanted()]

    def apply(self, differences: list[Directory]) -> None:
        for directory in differences:
            directory.create()

    @staticmethod
    def diff(differences: list[Directory]) -> dict[str, str]:
        return {
            "before": "".join(directory.found() for directory in differences),
            "after": "".join(directory.wanted() for directory in differences),
        }


def _volumes(contributions: list[dict[str, Any]], root: str | None) -> list[Directory]:
    roles: dict[str, str] = {}
    found = []
    for contribution in contributions:
        role = str(contribution.get("role", "a contribution without role"))
        for volume in contribution.get("volumes") or []:
            name = str(volume.get("name", ""))
            if not root:
                raise DirectoriesError("volumes_root: needed, since contributions have volumes")
            plain = all(part not in ("", ".", "..") for part in name.split("/"))
            if set(volume) != _VOLUME_KEYS or not plain:
                raise DirectoriesError(f"{role}: volume {name!r} needs exactly name, owner, group and mode")
            if name in roles:
                raise DirectoriesError(f"volume {name!r} is contributed by {roles[name]} and by {role}")
            roles[name] = role
            found.append(_directory(volume, f"{root}/{name}", f"{role}: volume {name!r}", root))
    return found


def _directory(entry: dict[str, Any], path: str, where: str, volumes_root: str | None) -> Directory:
    inside = bool(volumes_root) and Path(path).is_relative_to(str(volumes_root))
    root = Path(str(volumes_root) if inside else path)
    try:
        mode = int(entry["mode"], 8)
        return Directory(Path(path), int(entry["owner"]), int(entry["group"]), mode, root)
    except (TypeError, ValueError):
        raise DirectoriesError(
            f"{where}: {path}: owner, group are numbers and mode is a quoted octal"
        ) from None


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        manager = Manager(module.params)
        differences = manager.plan()
        diff = manager.diff(differences)
        if not module.check_mode:
            manager.apply(differences)
    except (DirectoriesError, OSError) as error:
        module.fail_json(msg=str(error))
    paths = [str(directory.path) for directory in manager.directories]
    module.exit_json(changed=bool(differences), directories=paths, diff=diff)


if __name__ == "__main__":
    main()
