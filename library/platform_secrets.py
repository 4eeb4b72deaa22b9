#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Make missing secrets in the store and write the files that services read."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_secrets
short_description: Make missing secrets in the store and write the files that services read
description:
  - Makes each contributed secret once, keeps it in the store, and writes one file per consuming service,
    C(<secrets_root>/<service>/<name>), mode 0400, owned by the service's user, without a trailing newline.
  - A file that differs from the store is repaired; one that nobody reads any more is removed, unless a kept release
    still names it. Everything that has to be refused is refused before anything is written.
  - Values are neither returned nor shown in a diff.
options:
  state:
    description: C(present) makes and writes; C(verified) changes nothing and fails when something differs.
    type: str
    choices: [present, verified]
    default: present
  store_file:
    description: File that says how to reach the store, made by M(platform_openbao).
    type: path
    required: true
  environment:
    description: Name of the environment; its secrets lie below it in the store.
    type: str
    required: true
  secrets:
    description: What the roles contribute.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Unique name, C([a-z0-9_]).
        type: str
        required: true
      kind:
        description:
          - C(password) letters and digits; C(hex) random bytes; C(create_only) made once and never again;
            C(provided) O(secrets[].value) from the operator; C(certificate) from the store's PKI;
            C(derived) made of other secrets, again whenever one of them changes.
        type: str
        required: true
        choices: [password, hex, create_only, provided, certificate, derived]
      length:
        description: Characters of a password, 32 if not given.
        type: int
      bytes:
        description: Bytes of a hex value, 32 if not given. With it, a create_only value is hex too.
        type: int
      value:
        description: Of provided; of create_only to import an existing one.
        type: str
      variable:
        description: The operator's variable behind O(secrets[].value), for messages.
        type: str
      guard_path:
        description: create_only. A file, or directory that is not empty, which is useless without this secret.
        type: path
      fingerprint_path:
        description: create_only. File that tells, beside the data, which value the data needs.
        type: path
      common_name:
        description: Certificate. Subject; the first of O(secrets[].dns_names) if not given.
        type: str
      dns_names:
        description: Certificate. At least one. When all lie below O(domain) the C(edge) issuer signs, else C(internal).
        type: list
        elements: str
        default: []
      ip_addresses:
        description: Certificate.
        type: list
        elements: str
        default: []
      ttl_days:
        description: Certificate. Life in days; it is renewed when less than a third is left.
        type: int
        default: 90
      template:
        description: Derived. Text with C({name}), C({name.crt}) or C({sha256:name}).
        type: str
      hash:
        description: Derived. Hash of O(secrets[].of), bcrypt with cost 4.
        type: str
        choices: [bcrypt]
      of:
        description: Derived. Name of the secret that is hashed.
        type: str
      falls_back_to:
        description: >-
          Provided. Name of the secret whose value operators give for this one, too, as long as they have no other; it
          never replaces another that is stored.
        type: str
      host:
        description: Also write C(<secrets_root>/host/<name>) for root on the host.
        type: bool
        default: false
  services:
    description: All services by name; their C(secrets) and C(user) are read.
    type: dict
    required: true
  secrets_root:
    description: Directory of the files.
    type: path
    required: true
  releases_root:
    description: Directory of the releases; a file that one of them names is kept.
    type: path
  domain:
    description: Domain that the edge issuer may sign.
    type: str
    required: true
  versions_file:
    description: JSON file of the versions.
    type: path
    required: true
  ca_file:
    description: File for the edge issuer's certificate, readable by all, for operators' clients.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Before the first set-up everything counts as missing; while the store is down nothing does.
  diff_mode:
    support: full
    description: Names of secrets and files, never a value.
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: files | Make missing secrets and write the files
  platform_secrets:
    store_file: "{{ platform_state_root }}/openbao-store.json"
    environment: "{{ platform_environment }}"
    secrets:
      - {name: redis_cache_password, kind: password}
    services:
      redis-cache: {user: "2002:2002", secrets: [redis_cache_password]}
    secrets_root: "{{ platform_secrets_root }}"
    domain: "{{ platform_domain }}"
    versions_file: "{{ platform_state_root }}/secret-versions.json"
    ca_file: "{{ platform_data_root }}/ca.crt"
  no_log: "{{ platform_no_log }}"
"""

RETURN = r"""
versions:
  description: Version in the store by file name, such as C(n8n_encryption_key) or C(edge_tls.crt).
  returned: always
  type: dict
secrets_changed:
  description: Names of the secrets that were made, renewed or changed.
  returned: always
  type: list
  elements: str
files:
  description: Paths of the files that were written or removed.
  returned: always
  type: list
  elements: str
"""

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform import secrets
from ansible.module_utils.n8n_platform.files import make_directory, write_file
from ansible.module_utils.n8n_platform.openbao import (
    STORE_ARGUMENTS,
    Secret,
    SecretStore,
    StoreError,
    StoreUnavailable,
)
from ansible.module_utils.n8n_platform.redact import withhold
from ansible.module_utils.n8n_platform.secret_values import Change, ValuePlanner

_SECRET = {
    "name": {"type": "str", "required": True},
    "kind": {
        "type": "str",
        "required": True,
        "choices": ["password", "hex", "create_only", "provided", "certificate", "derived"],
    },
    "length": {"type": "int"},
    "bytes": {"type": "int"},
    "value": {"type": "str", "no_log": True},
    "variable": {"type": "str"},
    "guard_path": {"type": "path"},
    "fingerprint_path": {"type": "path"},
    "common_name": {"type": "str"},
    "dns_names": {"type": "list", "elements": "str", "default": []},
    "ip_addresses": {"type": "list", "elements": "str", "default": []},
    "ttl_days": {"type": "int", "default": 90},
    "template": {"type": "str"},
    "hash": {"type": "str", "choices": ["bcrypt"]},
    "of": {"type": "str"},
    "falls_back_to": {"type": "str"},
    "host": {"type": "bool", "default": False},
}


def build_spec() -> dict[str, Any]:
    return {
        **STORE_ARGUMENTS,
        "state": {"type": "str", "choices": ["present", "verified"], "default": "present"},
        # Only the sub-option `value` is secret; without `no_log: False` Ansible would warn about the name.
        "secrets": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": _SECRET,
            "no_log": False,
        },
        "services": {"type": "dict", "required": True},
        "secrets_root": {"type": "path", "required": True, "no_log": False},
        "releases_root": {"type": "path"},
        "domain": {"type": "str", "required": True},
        "versions_file": {"type": "path", "required": True},
        "ca_file": {"type": "path", "required": True},
    }


class Manager:
    """Compares store and files with what is contributed. Raises SecretError, StoreError."""

    def __init__(self, params: dict[str, Any], given: dict[str, str], check_mode: bool) -> None:
        self.params = params
        self.check_mode = check_mode
        self.root = Path(params["secrets_root"])
        self.specs = _by_name(params["secrets"])
        self.wanted = secrets.wanted_files(self.root, self.specs, params["services"])
        readers = {file.name: file.path.parent.name for file in self.wanted}
        self.planner = ValuePlanner(self.specs, given, readers, [params["domain"]])
        self.store: SecretStore | None = None
        self.unknown = False
        self.stored: dict[str, Secret] = {}

    def plan(self) -> list[Change]:
        """Changes of values. Reads the store; writes nothing. Raises SecretError for what has to be refused."""
        try:
            self.store = SecretStore.from_params(self.params)
            self.stored = {name: self.store.read(name) for name in self.specs}
            cas = {self.planner.issuer(spec) for spec in self.specs.values() if spec["kind"] == "certificate"}
            self.planner.cas = {
                issuer: self.store.ca_certificate(issuer) for issuer in sorted(cas | {"edge"})
            }
        except StoreUnavailable:
            if not self.check_mode:
                raise
            self.store = None
            if any(Path(self.params[file]).exists() for file in ("store_file", "versions_file")):
                # It was set up and is down: what it holds is not known, so nothing is said to be missing.
                self.unknown = True
                return []
        return self.planner.plan(self.stored)

    def apply(self, changes: list[Change]) -> None:
        """Carries the changes out in the store; a derived value is computed from what was just written."""
        for change in changes:
            assert self.store is not None
            fields = self.planner.fields(change.name, self.stored, self.store)
            version = self.store.write(change.name, fields, self.stored[change.name].version)
            self.stored[change.name] = Secret(change.name, version, fields)

    def versions(self) -> dict[str, int]:
        if not self.store:
            return _read_json(Path(self.params["versions_file"]))
        known = {name: entry for name, entry in self.stored.items() if entry.exists}
        return {
            file: known[name].version
            for name in sorted(known)
            for file in secrets.file_names(self.specs[name])
        }

    def plan_files(self, changes: list[Change]) -> list[tuple[Path, str | None, int, int, int]]:
        """(path, content or None = remove, uid, gid, mode) of each file that is not as it should be."""
        if self.unknown:
            return []
        changing = {change.name for change in changes}
        steps = []
        for file in self.wanted:
            entry = self.stored.get(file.name)
            content = secrets.contents(self.specs[file.name], entry.fields if entry else {}).get(
                file.path.name
            )
            if self.check_mode and (content is None or file.name in changing):
                steps.append((file.path, "", file.uid, file.gid, 0o400))
            elif content is not None and not secrets.is_in_place(file, content):
                steps.append((file.path, content, file.uid, file.gid, 0o400))
        kept = _texts(self.params["releases_root"])
        stray = secrets.stray_files(self.root, [file.path for file in self.wanted], kept)
        return steps + [(path, None, 0, 0, 0) for path in stray] + self._plan_public_files()

    def _plan_public_files(self) -> list[tuple[Path, str | None, int, int, int]]:
        if not self.store:
            return []
        versions = json.dumps(self.versions(), indent=2, sort_keys=True) + "\n"
        wanted = [(Path(self.params["versions_file"]), versions, 0o444)]
        wanted.append((Path(self.params["ca_file"]), self.planner.cas["edge"] + "\n", 0o444))
        wanted += [
            (Path(path), text + "\n", 0o400) for path, text in self.planner.fingerprints(self.stored).items()
        ]
        return [(path, text, 0, 0, mode) for path, text, mode in wanted if not _holds(path, text)]

    def apply_files(self, steps: list[tuple[Path, str | None, int, int, int]]) -> None:
        # The engine mounts single files, so nobody but root has to get into the directories.
        for directory in {self.root, *(file.path.parent for file in self.wanted)}:
            make_directory(directory, 0o700)
        for path, content, uid, gid, mode in steps:
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_file(path, content, uid, gid, mode)
        for directory in self.root.iterdir():
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()


def _by_name(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    specs: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry["name"] in specs:
            raise secrets.SecretError(f"secret {entry['name']}: is contributed twice")
        specs[entry["name"]] = entry
    return specs


def _texts(releases_root: str | None) -> str:
    paths = Path(releases_root).glob("*/compose.yaml") if releases_root else []
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(paths))


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except OSError:
        return False


def _read_json(path: Path) -> dict[str, int]:
    try:
        found: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return {}


def run(module: AnsibleModule) -> dict[str, Any]:
    """The module's result; `problems` lists what differs when only verifying."""
    given = withhold(module, "secrets", "value")
    read_only = module.check_mode or module.params["state"] == "verified"
    manager = Manager(module.params, given, check_mode=module.check_mode)
    changes = manager.plan()
    if not read_only:
        manager.apply(changes)
    files = manager.plan_files(changes)
    if not read_only:
        manager.apply_files(files)
    lines = [f"{change.reason} secret {change.name}" for change in changes]
    lines += [f"{'write' if content is not None else 'remove'} {path}" for path, content, *_ in files]
    return {
        "changed": bool(lines),
        "versions": manager.versions(),
        "secrets_changed": [change.name for change in changes],
        "files": [str(path) for path, *_ in files],
        "diff": {"before": "", "after": "".join(f"{line}\n" for line in lines)},
    }


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        result = run(module)
    except (secrets.SecretError, StoreError) as error:
        module.fail_json(msg=str(error))
    if module.params["state"] == "verified" and result.pop("changed"):
        module.fail_json(
            msg="secrets: differ from the store or are due: " + result["diff"]["after"].strip(), **result
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
