#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Write a service's rendered configuration as one content-addressed directory."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_config
short_description: Write a service's configuration as one content-addressed directory
description:
  - Writes all files of a service at once into C(<root>/<service>/<sha256>/), under a temporary name that is
    renamed
    when it is complete, so that a directory which exists is whole and is never changed afterwards.
  - A container mounts the returned C(path); a service that reloads mounts C(<root>/<service>) and reads
    C(current/).
  - Old directories are removed by M(platform_compose_assemble), once no release names them.
options:
  root:
    description: Directory of all rendered configuration, platform_config_root.
    type: path
    required: true
  service:
    description: Name of the service, one directory below O(root).
    type: str
    required: true
  files:
    description: Contents by relative path. No secrets, those are files of their own.
    type: dict
    required: true
  owner:
    description: Owner of files and directories, a name or a numeric uid.
    type: str
    default: root
  group:
    description: Group of files and directories, a name or a numeric gid.
    type: str
    default: root
  mode:
    description: Mode of the files, octal; directories are 0755. Containers run as other users, hence
      readable by all.
    type: str
    default: "0444"
  validate:
    description:
      - A command by relative path, as a list of arguments; C(%s) is the file's path and C(%d) the
        directory's.
      - Runs before a new directory gets its name, so a refused file leaves nothing behind. Not run in check
        mode.
    type: dict
    default: {}
  current:
    description: Also point the link C(current) at the directory, in one step.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Returns the path that the directory would have.
  diff_mode:
    support: full
    description: Each file compared with the directory that C(current), else the newest, names.
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: config | Render the instances
  platform_config:
    root: "{{ platform_config_root }}"
    service: redis-cache
    files:
      redis.conf: "{{ lookup('ansible.builtin.template', 'redis.conf.j2') }}"
  register: __redis_config
"""

RETURN = r"""
path:
  description: The directory, to be mounted into the service's containers.
  returned: always
  type: str
sha256:
  description: Name of the directory, a hash of paths, contents, mode and owners.
  returned: always
  type: str
"""

import grp
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform import config


def build_spec() -> dict[str, Any]:
    return {
        "root": {"type": "path", "required": True},
        "service": {"type": "str", "required": True},
        "files": {"type": "dict", "required": True},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str", "default": "0444"},
        "validate": {"type": "dict", "default": {}},
        "current": {"type": "bool", "default": False},
    }


class Manager:
    """Plans and writes one directory. Raises ConfigError."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.files: dict[str, str] = params["files"]
        self.validate: dict[str, list[str]] = params["validate"]
        self.link: bool = params["current"]
        self._check()
        self.mode = int(params["mode"], 8)
        self.owner = _uid(params["owner"])
        self.group = _gid(params["group"])
        self.service = Path(params["root"]) / params["service"]
        self.sha256 = config.digest(self.files, self.mode, self.owner, self.group)
        self.path = self.service / self.sha256

    def _check(self) -> None:
        config.check_names(self.files)
        for name, content in self.files.items():
            if not isinstance(content, str):
                raise config.ConfigError(f"files: {name!r} is {type(content).__name__}, not text")
        unknown = sorted(set(self.validate) - set(self.files))
        if unknown:
            raise config.ConfigError(f"validate: {unknown[0]!r} is not among files")

    def plan(self) -> list[str]:
        steps = [] if self.path.is_dir() else ["write"]
        link = self.service / config.CURRENT
        if self.link and not (link.is_symlink() and str(link.readlink()) == self.sha256):
            steps.append("switch")
        return steps

    def diff(self) -> list[dict[str, str]]:
        former = config.latest(self.service)
        before = config.read_tree(former)
        names = sorted(before.keys() | self.files.keys())
        return [
            {
                "before_header": f"{former or self.service}/{name}",
                "after_header": f"{self.path}/{name}",
                "before": before.get(name, ""),
                "after": self.files.get(name, ""),
            }
            for name in names
            if before.get(name) != self.files.get(name)
        ]

    def apply(self, steps: list[str]) -> None:
        if "write" in steps:
            self._write()
        if "switch" in steps:
            config.switch(self.service / config.CURRENT, self.sha256)

    def _write(self) -> None:
        temporary = self.service / f".{self.sha256}.new"
        config.write_tree(temporary, self.files, self.mode, self.owner, self.group)
        try:
            for name, argv in sorted(self.validate.items()):
                _validate(name, [_expand(part, temporary, name) for part in argv])
            temporary.replace(self.path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _expand(argument: Any, directory: Path, name: str) -> str:
    return str(argument).replace("%s", str(directory / name)).replace("%d", str(directory))


def _validate(name: str, argv: list[str]) -> None:
    try:
        result = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    except OSError as error:
        raise config.ConfigError(f"validate: {name}: {argv[0]} cannot be run: {error.strerror}") from None
    if result.returncode:
        words = (result.stderr.strip() or result.stdout.strip())[-2000:]
        raise config.ConfigError(f"validate: {name} is refused by {argv[0]}: {words}")


def _uid(name: str) -> int:
    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise config.ConfigError(f"owner: no user {name!r} on this host") from None


def _gid(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise config.ConfigError(f"group: no group {name!r} on this host") from None


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        manager = Manager(module.params)
        steps = manager.plan()
        diff = manager.diff() if steps else []
        if not module.check_mode:
            manager.apply(steps)
    except (config.ConfigError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(steps), path=str(manager.path), sha256=manager.sha256, diff=diff)


if __name__ == "__main__":
    main()
