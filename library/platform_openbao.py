#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Prepare, set up and check the secret store."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_openbao
short_description: Prepare, set up and check the secret store
description:
  - For an OpenBao of our own (O(address) is a C(unix://) path) it makes what the server needs to start,
    initialises it, sets up KV, PKI and an AppRole, and revokes the root token. The next run takes up a killed one.
  - For an external store (C(https://)) it checks what our AppRole may do and creates nothing there.
  - Both leave O(store_file), the one file by which other modules reach the store.
options:
  state:
    description:
      - C(prepared) makes directories and seal key (own store) or checks access (external) before anything starts.
      - C(configured) initialises and sets up a running store.
      - C(verified) changes nothing and fails unless the store is usable.
    type: str
    choices: [prepared, configured, verified]
    required: true
  store:
    description: Which store, and what it should look like.
    type: dict
    required: true
    suboptions:
      environment:
        description: Name of the environment; secrets lie below it.
        type: str
        required: true
      address:
        description: C(unix:///path.sock) of our own store, or C(https://host:port) of an external one.
        type: str
        required: true
      store_file:
        description: File, root only, by which other modules reach the store.
        type: path
        required: true
      mount:
        description: Path of the KV version 2 engine.
        type: str
        default: kv
      pki_mount:
        description: Path of the PKI engine.
        type: str
        default: pki
      record_file:
        description: Own store only. File of recovery key and AppRole, root only.
        type: path
      seal_directory:
        description: Own store only. Directory of the seal key C(openbao.key).
        type: path
      data_directory:
        description: Own store only. Directory of the server's data.
        type: path
      audit_file:
        description: Own store only. Its audit log, of which one former file is kept once it grew beyond 64 MiB.
        type: path
      owner:
        description: Own store only. Numeric user that the server runs as.
        type: int
        default: 2004
      policy:
        description: Own store only. Policy of our AppRole, in HCL.
        type: str
        default: ""
      edge_names:
        description: Own store only. DNS names (with everything below them) that the C(edge) issuer may sign.
        type: list
        elements: str
        default: []
      certificates:
        description:
          - Own store only. The DNS names of each certificate that will be asked for. Those of certificates that are
            not wholly below O(edge_names) may be signed by the C(internal) issuer.
        type: list
        elements: list
        default: []
      report_seal_key:
        description: Own store only. Whether C(verified) warns that the seal key lies beside the data.
        type: bool
        default: false
      wait_seconds:
        description: Own store only. How long to wait for it to answer and to unseal itself.
        type: int
        default: 60
      role_id:
        description: External store only. The AppRole's role_id.
        type: str
        default: ""
      secret_id:
        description: External store only. The AppRole's secret_id.
        type: str
        default: ""
      auth_mount:
        description: External store only. Path of the AppRole method.
        type: str
        default: approle
      namespace:
        description: External store only. Namespace, where the store has such.
        type: str
        default: ""
      ca_certificate:
        description: External store only. PEM of the CA that signed its certificate; the system's ones when empty.
        type: str
        default: ""
attributes:
  check_mode:
    support: full
    description: A store that does not exist yet counts as a difference.
  diff_mode:
    support: full
    description: Names what would be made, never a value.
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: configure_store | Set up the store
  platform_openbao:
    state: configured
    store:
      environment: local
      address: unix:///var/lib/n8n-platform/local/run/openbao/api.sock
      store_file: /var/lib/n8n-platform/local/state/openbao-store.json
      record_file: /var/lib/n8n-platform/local/state/openbao.json
      seal_directory: /var/lib/n8n-platform/local/seal
      data_directory: /var/lib/n8n-platform/local/volumes/openbao
      policy: "{{ lookup('ansible.builtin.template', 'deployer.hcl.j2') }}"
      edge_names: [localhost]
"""

RETURN = r"""
generation:
  description: Number of the data directory that the server has to use. It grows only when an initialisation was
    cut off before its keys were recorded, so that nothing can have been stored.
  returned: own store
  type: int
steps:
  description: What was done or, in check mode, would be done.
  returned: always
  type: list
  elements: str
"""

import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform import openbao_setup
from ansible.module_utils.n8n_platform.openbao import BaoClient, SecretStore, StoreError
from ansible.module_utils.n8n_platform.openbao_setup import StoreManager
from ansible.module_utils.n8n_platform.secrets import issuer_names, make_directory, write_file

_SOCKET_LENGTH = 107


_STORE = {
    "environment": {"type": "str", "required": True},
    "address": {"type": "str", "required": True},
    "store_file": {"type": "path", "required": True},
    "mount": {"type": "str", "default": "kv"},
    "pki_mount": {"type": "str", "default": "pki"},
    "record_file": {"type": "path"},
    "seal_directory": {"type": "path"},
    "data_directory": {"type": "path"},
    "audit_file": {"type": "path"},
    "owner": {"type": "int", "default": 2004},
    "policy": {"type": "str", "default": ""},
    "edge_names": {"type": "list", "elements": "str", "default": []},
    "certificates": {"type": "list", "elements": "list", "default": []},
    "report_seal_key": {"type": "bool", "default": False, "no_log": False},
    "wait_seconds": {"type": "int", "default": 60},
    "role_id": {"type": "str", "default": ""},
    "secret_id": {"type": "str", "default": "", "no_log": True},
    "auth_mount": {"type": "str", "default": "approle"},
    "namespace": {"type": "str", "default": ""},
    "ca_certificate": {"type": "str", "default": ""},
}


def build_spec() -> dict[str, Any]:
    return {
        "state": {"type": "str", "choices": ["prepared", "configured", "verified"], "required": True},
        "store": {"type": "dict", "required": True, "options": _STORE},
    }


class OwnStore(StoreManager):
    """Raises StoreError, with what to do about it."""

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__(params)
        self.socket_directory = Path(params["address"].removeprefix("unix://")).parent
        self.seal_key = Path(params["seal_directory"]) / openbao_setup.SEAL_KEY
        self.data = Path(params["data_directory"])
        self.record = openbao_setup.Record(Path(params["record_file"]))
        self.client = BaoClient(params["address"])
        domains = issuer_names(params["certificates"], params["edge_names"])
        wanted = openbao_setup.Setup(
            params["environment"], params["mount"], params["pki_mount"], params["policy"], domains
        )
        self.setup = wanted.widened(self.record.get("domains", {}))

    def connection(self) -> dict[str, str]:
        keys = {key: self.record.get(key, "") for key in ("role_id", "secret_id")}
        mounts = {key: self.params[key] for key in ("mount", "pki_mount")}
        return {"address": self.params["address"], "auth_mount": "approle", **mounts, **keys}

    def plan_prepared(self) -> list[str]:
        if len(self.params["address"].removeprefix("unix://")) > _SOCKET_LENGTH:
            raise StoreError(
                f"platform_root is too long: {self.params['address']} exceeds a socket's {_SOCKET_LENGTH} characters"
            )
        openbao_setup.refuse_lost_parts(self.seal_key, self.data, self.record)
        steps = []
        if self.record.phase == "started":
            steps.append("begin anew: an initialisation was cut off before its keys were recorded")
        if not self.seal_key.exists():
            steps.append("make seal key")
        if not self.record.path.exists():
            steps.append("make record")
        uid = self.params["owner"]
        directories = (self.socket_directory, self.seal_key.parent)
        steps += [f"make directory {path}" for path in directories if not _is_private(path, uid)]
        generation = self.record.generation + (self.record.phase == "started")
        self.result = {"generation": generation}
        return steps

    def apply_prepared(self, steps: list[str]) -> None:
        uid = self.params["owner"]
        self.record.path.parent.mkdir(parents=True, exist_ok=True)
        for directory in (self.socket_directory, self.seal_key.parent):
            make_directory(directory, 0o700, uid, uid)
        if "make seal key" in steps:
            write_file(self.seal_key, secrets.token_hex(openbao_setup.SEAL_KEY_LENGTH // 2), uid, uid)
        if "make record" in steps:
            self.record.update(phase="new", generation=1)
        if self.record.phase == "started":
            abandoned = [*self.record.get("abandoned", []), self.record.generation]
            self.record.update(phase="new", generation=self.record.generation + 1, abandoned=abandoned)

    def plan_configured(self) -> list[str]:
        if self.record.phase != "initialised":
            return ["initialise", "set up"]
        if self.record.get("setup") != self.setup.digest or self.record.get("root_token"):
            return ["set up"]
        self.client.wait(self.params["wait_seconds"])
        self.store().login()
        return self.plan_store_file()

    def apply_configured(self, steps: list[str]) -> None:
        if "initialise" in steps or "set up" in steps:
            self._initialise()
            self.client.wait(self.params["wait_seconds"])
            root = openbao_setup.root_client(self.client, self.record, self.store())
            openbao_setup.apply_setup(root, self.setup, self.record)
            self.store().login()
            self.write_store_file()
            openbao_setup.revoke_root(root, self.record)
            self.record.update(setup=self.setup.digest)
        elif steps:
            self.write_store_file()
        self._remove_abandoned()
        if self.params["audit_file"]:
            openbao_setup.rotate_audit(Path(self.params["audit_file"]))

    def verify(self) -> list[str]:
        if self.record.get("root_token"):
            raise StoreError(
                f"the root token in {self.record.path} is not revoked yet: run the site playbook"
            )
        if self.record.get("setup") != self.setup.digest:
            raise StoreError("the store is not set up as the inventory says: run the site playbook")
        super().verify()
        if not self.params["report_seal_key"]:
            return []
        return [f"the seal key {self.seal_key} lies on the host whose data it protects (docs/secrets.md)"]

    def _initialise(self) -> None:
        health = self.client.wait(self.params["wait_seconds"], ready=False)
        if not health.initialized:
            if self.record.phase == "initialised":
                raise StoreError(
                    f"the store is empty, but {self.record.path} says that it was set up: its data below "
                    f"{self.data} is gone. Restore it from a backup; or, if its secrets are lost for good, "
                    "move that file away to begin anew"
                )
            openbao_setup.initialise(self.client, self.record)
        elif self.record.phase != "initialised":
            raise StoreError(
                f"the store is initialised, but its keys are not in {self.record.path}: run the secrets role's config"
            )

    def _remove_abandoned(self) -> None:
        abandoned = self.record.get("abandoned", [])
        for generation in abandoned:
            shutil.rmtree(self.data / str(generation), ignore_errors=True)
        if abandoned:
            self.record.update(abandoned=None)


class ExternalStore(StoreManager):
    """Raises StoreError that names the variable or the missing capability."""

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__(params)
        self.ca_file = self.store_file.with_name("openbao-ca.pem")

    def connection(self) -> dict[str, str]:
        names = ("address", "auth_mount", "mount", "pki_mount", "namespace", "role_id", "secret_id")
        ca_file = str(self.ca_file) if self.params["ca_certificate"] else ""
        return {**{name: self.params[name] for name in names}, "ca_file": ca_file}

    def plan_prepared(self) -> list[str]:
        if not self.params["role_id"] or not self.params["secret_id"]:
            raise StoreError(
                "secrets_openbao_role_id and secrets_openbao_secret_id_file: an external store needs both"
            )
        steps = self.plan_store_file()
        wanted = self.params["ca_certificate"]
        if wanted and (not self.ca_file.exists() or self.ca_file.read_text(encoding="utf-8") != wanted):
            steps.append("write CA certificate")
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as ca_file:
            ca_file.write(wanted)
            ca_file.flush()
            connection = {**self.connection(), "ca_file": ca_file.name if wanted else ""}
            try:
                SecretStore(connection, self.params["environment"]).check_access()
            except StoreError as error:
                raise type(error)(f"secrets_openbao_address: {error}") from None
        return steps

    def apply_prepared(self, steps: list[str]) -> None:
        if "write CA certificate" in steps:
            self.ca_file.parent.mkdir(parents=True, exist_ok=True)
            write_file(self.ca_file, self.params["ca_certificate"], mode=0o444)
        if "write store file" in steps:
            self.write_store_file()

    def plan_configured(self) -> list[str]:
        self.store().login()
        return []

    def apply_configured(self, steps: list[str]) -> None:
        """Nothing to set up: the operator of that store did."""


def _is_private(path: Path, uid: int) -> bool:
    return path.is_dir() and (path.stat().st_mode & 0o7777, path.stat().st_uid) == (0o700, uid)


class Manager:
    """Plans and reaches one state of either kind of store. Raises StoreError."""

    def __init__(self, params: dict[str, Any]) -> None:
        store = params["store"]
        self.state = params["state"]
        self.store = OwnStore(store) if store["address"].startswith("unix://") else ExternalStore(store)
        self.warnings: list[str] = []

    def plan(self) -> list[str]:
        if self.state == "verified":
            self.warnings = self.store.verify()
            return []
        return self.store.plan_prepared() if self.state == "prepared" else self.store.plan_configured()

    def apply(self, steps: list[str]) -> None:
        if self.state == "prepared":
            self.store.apply_prepared(steps)
        elif self.state == "configured":
            self.store.apply_configured(steps)


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        manager = Manager(module.params)
        steps = manager.plan()
        if not module.check_mode:
            manager.apply(steps)
    except StoreError as error:
        module.fail_json(msg=str(error))
    for warning in manager.warnings:
        module.warn(warning)
    diff = {"before": "", "after": "".join(f"{step}\n" for step in steps)}
    module.exit_json(changed=bool(steps), steps=steps, diff=diff, **manager.store.result)


if __name__ == "__main__":
    main()
