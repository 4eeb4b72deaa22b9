#!/usr/bin/python
"""Ansible module: keeps one working n8n API key in the secret store."""

from __future__ import annotations

DOCUMENTATION = r"""
module: n8n_api_key
short_description: Keep one working API key of n8n in the secret store
description:
  - Asks n8n whether the key that the store holds as C(n8n_api_key) works and has all scopes. If not, the owner
    logs in, keys of the same label are deleted, a new one is made and put into the store.
  - The key itself is never an argument or a result.
author: n8n platform maintainers
options:
  url:
    description: Base URL of n8n's main process; alternative to O(project).
    type: str
  project:
    description: Compose project whose service C(n8n-main) is meant; its address is asked of the engine.
    type: str
  store_file:
    description: File on the target that says how to reach the secret store.
    type: path
    required: true
  environment:
    description: Environment whose secrets are meant.
    type: str
    required: true
  email:
    description: The owner's e-mail address, to log in with.
    type: str
    required: true
  label:
    description: Name of the key in n8n.
    type: str
    default: platform
  scopes:
    description: What the key may do.
    type: list
    elements: str
    default:
      - execution:list
      - execution:read
      - securityAudit:generate
      - tag:create
      - tag:list
      - tag:read
      - workflow:activate
      - workflow:create
      - workflow:deactivate
      - workflow:delete
      - workflow:list
      - workflow:read
      - workflow:update
      - workflowTags:list
      - workflowTags:update
attributes:
  check_mode:
    description: Only asks whether the stored key works; without a running n8n a change is foretold.
    support: full
  diff_mode:
    description: Scopes that the key lacks; never the key.
    support: full
"""

EXAMPLES = r"""
- name: Keep the API key working
  n8n_api_key:
    project: n8n-local
    store_file: "{{ platform_state_root }}/openbao-store.json"
    environment: local
    email: owner@n8n.localhost
"""

RETURN = r"""
key_in:
  description: Where the key is to be found.
  returned: success
  type: str
scopes:
  description: What the key may do.
  returned: success
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.n8n import (
    ADDRESS_RULES,
    API_ARGUMENTS,
    KEY_ENTRY,
    OWNER_ENTRY,
    N8n,
    N8nError,
    address,
)
from ansible.module_utils.n8n_platform.openbao import SecretStore, StoreError, StoreUnavailable

SCOPES = [
    "execution:list", "execution:read", "securityAudit:generate", "tag:create", "tag:list", "tag:read",
    "workflow:activate", "workflow:create", "workflow:deactivate", "workflow:delete", "workflow:list",
    "workflow:read", "workflow:update", "workflowTags:list", "workflowTags:update",
]  # fmt: skip


def build_spec() -> dict[str, Any]:
    return {
        **API_ARGUMENTS,
        "email": {"type": "str", "required": True},
        "label": {"type": "str", "default": "platform", "no_log": False},
        "scopes": {"type": "list", "elements": "str", "default": SCOPES},
    }


class Manager:
    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params

    def plan(self) -> list[str]:
        """Scopes that the stored key lacks, all of them when there is none or n8n refuses it."""
        self.store = SecretStore.from_params(self.params)
        self.url = address(self.params)
        key = self.store.get(KEY_ENTRY)
        have = (N8n(self.url, key).key_scopes() if key else None) or set()
        return sorted(set(self.params["scopes"]) - have)

    def apply(self) -> None:
        """Raises N8nError (login refused, scope unknown to n8n), HttpError, StoreError."""
        password = self.store.get(OWNER_ENTRY)
        if password is None:
            raise N8nError(f"the store has no {OWNER_ENTRY} for environment {self.params['environment']}")
        n8n = N8n(self.url)
        n8n.login(self.params["email"], password)
        if unknown := sorted(set(self.params["scopes"]) - set(n8n.offered_scopes())):
            raise N8nError(f"scopes: n8n does not offer the owner {', '.join(unknown)}")
        self.store.put(KEY_ENTRY, n8n.create_api_key(self.params["label"], self.params["scopes"]))


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    manager = Manager(params)
    try:
        missing = manager.plan()
    except (N8nError, HttpError, StoreUnavailable):
        if not check_mode:
            raise
        missing = sorted(params["scopes"])
    if missing and not check_mode:
        manager.apply()
    location = f"secret {KEY_ENTRY} of environment {params['environment']} in the store"
    after = "".join(f"{scope}\n" for scope in missing)
    return {
        "changed": bool(missing),
        "key_in": location,
        "scopes": params["scopes"],
        "diff": {"before": "", "after": after},
    }


def main() -> None:
    module = AnsibleModule(argument_spec=build_spec(), supports_check_mode=True, **ADDRESS_RULES)
    try:
        result = run(module.params, module.check_mode)
    except (N8nError, HttpError, StoreError) as error:
        module.fail_json(msg=f"the API key cannot be kept: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
