#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Put the keys of an opened bundle where a restore reads them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_bundle
short_description: Put the keys of a bundle where a restore reads them
description:
  - The action plugin of the same name opens the bundle on the controller; this writes what was in it on the target,
    one file each in O(directory), for root only.
  - Every content is compared with the fingerprint that the bundle states. Nothing is written unless all fit.
options:
  bundle:
    description: File of the bundle on the controller.
    type: path
    required: true
  identity_file:
    description: File of the private key on the controller, made by C(make backup-key), or a plain age key.
    type: path
    required: true
  passphrase_file:
    description: File on the controller whose first line is the passphrase of O(identity_file).
    type: path
  passphrase:
    description: The passphrase itself, as asked for at a prompt.
    type: str
  environment:
    description: The environment that is restored; a bundle of another one is refused.
    type: str
    required: true
  directory:
    description: Directory of the keys on the target.
    type: path
    required: true
  content:
    description: The opened bundle. Given by the action plugin.
    type: str
attributes:
  check_mode:
    support: full
    description: Opens and compares; writes nothing.
  diff_mode:
    support: full
    description: Names of files only.
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: Open the bundle
  platform_bundle:
    bundle: production-20261122T020000Z.age
    identity_file: backup-key.age
    passphrase_file: passphrase
    environment: production
    directory: /var/lib/n8n-platform/production/state/recovery/keys
"""

RETURN = r"""
run:
  description: The backup run that the bundle was made in.
  returned: success
  type: str
definition:
  description: The source's definition of its backups, without secrets.
  returned: success
  type: dict
"""

import json
import re
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.files import make_directory, write_file
from ansible.module_utils.n8n_platform.secrets import fingerprint

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_VERSION = 1
_DEFINITION = "backup.json"


class BundleError(Exception):
    """The bundle is not what it should be; the text names the part, never a content."""


def build_spec() -> dict[str, Any]:
    return {
        "bundle": {"type": "path", "required": True},
        "identity_file": {"type": "path", "required": True},
        "passphrase_file": {"type": "path", "no_log": False},
        "passphrase": {"type": "str", "no_log": True},
        "environment": {"type": "str", "required": True},
        "directory": {"type": "path", "required": True},
        "content": {"type": "str", "no_log": True},
    }


class Manager:
    """Raises BundleError."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.directory = Path(params["directory"])
        self.bundle = _parse(params["bundle"], params["content"] or "")
        if self.bundle["environment"] != params["environment"]:
            theirs = self.bundle["environment"]
            raise BundleError(
                f"backup_bundle_file: {params['bundle']} is of {theirs}, not of {params['environment']}"
            )
        self.wanted: dict[str, str] = {**self.bundle["secrets"], **self.bundle["files"]}

    @property
    def definition(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.wanted[_DEFINITION])
        return found

    def plan(self) -> list[Path]:
        """Files that are not there as the bundle has them."""
        return [path for path, text in sorted(self._files().items()) if not _holds(path, text)]

    def apply(self, paths: list[Path]) -> None:
        make_directory(self.directory, 0o700)
        files = self._files()
        for path in paths:
            write_file(path, files[path])

    def _files(self) -> dict[Path, str]:
        return {self.directory / name: text for name, text in self.wanted.items()}


def _parse(name: str, content: str) -> dict[str, Any]:
    try:
        bundle: dict[str, Any] = json.loads(content)
        texts = {**bundle["secrets"], **bundle["files"]}
        stated = bundle["fingerprints"]
        version = bundle["version"]
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"backup_bundle_file: {name} is no bundle of keys") from None
    if version != _VERSION:
        raise BundleError(f"backup_bundle_file: {name} is of version {version}, which is not known here")
    for part, text in sorted(texts.items()):
        if not _NAME.fullmatch(part):
            raise BundleError(f"backup_bundle_file: {name} holds a part of an impossible name")
        if stated.get(part) != fingerprint(text):
            raise BundleError(f"backup_bundle_file: {name} is damaged: {part} differs from its fingerprint")
    if _DEFINITION not in texts:
        raise BundleError(f"backup_bundle_file: {name} holds no {_DEFINITION}")
    return bundle


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text and path.stat().st_mode & 0o7777 == 0o400
    except OSError:
        return False


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        manager = Manager(module.params)
    except BundleError as error:
        module.fail_json(msg=str(error))
    paths = manager.plan()
    if not module.check_mode:
        manager.apply(paths)
    after = "".join(f"write {path}\n" for path in paths)
    module.exit_json(
        changed=bool(paths),
        run=manager.bundle["run"],
        definition=manager.definition,
        diff={"before": "", "after": after},
    )


if __name__ == "__main__":
    main()
