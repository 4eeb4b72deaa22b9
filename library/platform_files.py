#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Files of root with a given content, several at once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_files
short_description: Files of root with a given content, several at once
description:
  - Writes what differs and takes away what is not wanted. Each file is replaced as a whole.
  - One run looks at all files; C(copy) and C(template) need two for each.
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path. Its directory has to be there.
        type: path
        required: true
      content:
        description: Text of the file.
        type: str
        default: ""
      encoding:
        description: Of O(files[].content); V(base64) for what is no text.
        type: str
        choices: [text, base64]
        default: text
      mode:
        description: Mode as a quoted octal.
        type: str
        default: "0644"
      state:
        description: Whether there is to be such a file.
        type: str
        choices: [present, absent]
        default: present
attributes:
  check_mode: {support: full, description: Says what would be written.}
  diff_mode: {support: full, description: Content and mode of each file that differs.}
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: Write a program and its settings
  platform_files:
    files:
      - {path: /opt/clean-up/clean-up, content: "{{ lookup('ansible.builtin.file', 'clean-up.py') }}", mode: "0755"}
      - {path: /opt/clean-up/settings.json, content: "{{ settings | to_nice_json }}"}
"""

RETURN = r"""
paths:
  description: The files that were, or in check mode would be, written or removed.
  returned: always
  type: list
  elements: str
"""

from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.files import write_file

_FILE = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str", "default": ""},
    "encoding": {"type": "str", "choices": ["text", "base64"], "default": "text"},
    "mode": {"type": "str", "default": "0644"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def build_spec() -> dict[str, Any]:
    return {"files": {"type": "list", "elements": "dict", "required": True, "options": _FILE}}


class FilesError(Exception):
    """Names the file."""


@dataclass(frozen=True)
class State:
    """What a file is, or is to be; a file that is not there has no mode."""

    content: bytes = b""
    mode: int | None = None
    owner: tuple[int, int] = (0, 0)

    def shown(self) -> str:
        if self.mode is None:
            return ""
        owner = "" if self.owner == (0, 0) else f" owner={self.owner[0]} group={self.owner[1]}"
        return f"mode={self.mode:04o}{owner}\n{self.content.decode(errors='replace')}"


class Manager:
    """Plans and writes. Raises FilesError, OSError. `owner` is (uid, gid) of all files."""

    def __init__(self, params: dict[str, Any], owner: tuple[int, int] = (0, 0)) -> None:
        self.wanted = {Path(entry["path"]): _wanted(entry, owner) for entry in params["files"]}

    def plan(self) -> list[Path]:
        return [path for path, wanted in self.wanted.items() if found(path) != wanted]

    def diff(self, paths: list[Path]) -> list[dict[str, str]]:
        return [
            {
                "before_header": str(path),
                "after_header": str(path),
                "before": found(path).shown(),
                "after": self.wanted[path].shown(),
            }
            for path in paths
        ]

    def apply(self, paths: list[Path]) -> None:
        for path in paths:
            wanted = self.wanted[path]
            if wanted.mode is None:
                path.unlink(missing_ok=True)
            else:
                write_file(path, wanted.content, *wanted.owner, wanted.mode)


def found(path: Path) -> State:
    """Raises FilesError for what is not a file."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise FilesError(f"{path} is in the way: it is not a file")
    try:
        status = path.stat()
        return State(path.read_bytes(), status.st_mode & 0o7777, (status.st_uid, status.st_gid))
    except FileNotFoundError:
        return State()


def _wanted(entry: dict[str, Any], owner: tuple[int, int]) -> State:
    path = entry["path"]
    if not path.startswith("/"):
        raise FilesError(f"files: {path} is not absolute")
    if entry["state"] == "absent":
        return State()
    content = entry["content"].encode()
    if entry["encoding"] == "base64":
        content = b64decode(content)
    try:
        return State(content, int(entry["mode"], 8), owner)
    except ValueError:
        raise FilesError(f"files: {path}: mode is a quoted octal") from None


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        manager = Manager(module.params)
        paths = manager.plan()
        diff = manager.diff(paths)
        if not module.check_mode:
            manager.apply(paths)
    except (FilesError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(paths), paths=[str(path) for path in paths], diff=diff)


if __name__ == "__main__":
    main()
