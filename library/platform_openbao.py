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
      - C(restored) lets a running store of our own that was never set up take the snapshot of O(recovery). A damaged
        snapshot, another seal key or a record that does not belong to it are refused; the next C(prepared) begins anew.
      - C(configured) initialises and sets up a running store.
      - C(verified) changes nothing and fails unless the store is usable.
    type: str
    choices: [prepared, restored, configured, verified]
    required: true
  recovery:
    description: Own store only. Files of the source that is restored here; C(prepared) then takes its seal key.
    type: dict
    suboptions:
      snapshot:
        description: Raft snapshot of the source.
        type: path
        required: true
      record:
        description: Record of recovery key and AppRole of the source.
        type: path
        required: true
      seal_key:
        description: Seal key of the source.
        type: path
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

import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.files import write_file
from ansible.module_utils.n8n_platform.openbao import SecretStore, StoreError
from ansible.module_utils.n8n_platform.openbao_own import OwnStore
from ansible.module_utils.n8n_platform.openbao_setup import StoreManager

_STATES = ("prepared", "restored", "configured", "verified")
_RECOVERY = {
    "snapshot": {"type": "path", "required": True},
    "record": {"type": "path", "required": True},
    "seal_key": {"type": "path", "required": True, "no_log": False},
}
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
        "state": {"type": "str", "choices": list(_STATES), "required": True},
        "recovery": {"type": "dict", "options": _RECOVERY},
        "store": {"type": "dict", "required": True, "options": _STORE},
    }


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

    def plan_restored(self) -> list[str]:
        """A store that others run is restored by them."""
        return []

    def apply_restored(self, steps: list[str]) -> None:
        """Nothing was planned."""

    def plan_configured(self) -> list[str]:
        self.store().login()
        return []

    def apply_configured(self, steps: list[str]) -> None:
        """Nothing to set up: the operator of that store did."""


class Manager:
    """Plans and reaches one state of either kind of store. Raises StoreError."""

    def __init__(self, params: dict[str, Any]) -> None:
        store = params["store"]
        self.state = params["state"]
        own = store["address"].startswith("unix://")
        self.store = OwnStore(store, params.get("recovery")) if own else ExternalStore(store)
        self.warnings: list[str] = []

    def plan(self) -> list[str]:
        if self.state == "verified":
            self.warnings = self.store.verify()
            return []
        plans = {
            "prepared": self.store.plan_prepared,
            "restored": self.store.plan_restored,
            "configured": self.store.plan_configured,
        }
        return plans[self.state]()

    def apply(self, steps: list[str]) -> None:
        if self.state == "prepared":
            self.store.apply_prepared(steps)
        elif self.state == "restored":
            self.store.apply_restored(steps)
        elif self.state == "configured":
            self.store.apply_configured(steps)


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        manager = Manager(module.params)
        steps = manager.plan()
        if not module.check_mode:
            manager.apply(steps)
    except (StoreError, OSError) as error:
        module.fail_json(msg=str(error))
    for warning in manager.warnings:
        module.warn(warning)
    diff = {"before": "", "after": "".join(f"{step}\n" for step in steps)}
    module.exit_json(changed=bool(steps), steps=steps, diff=diff, **manager.store.result)


if __name__ == "__main__":
    main()
