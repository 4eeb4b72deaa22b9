#!/usr/bin/python
"""Ansible module: one credential of an n8n instance exists."""

from __future__ import annotations

DOCUMENTATION = r"""
module: n8n_credential
short_description: Make a credential of n8n that is not there
description:
  - Makes the credential where the owner sees none of this name and type. One that is there is left as it is, since n8n
    does not tell what it holds.
author: n8n platform maintainers
options:
  url:
    description: Base URL of n8n's main process; alternative to O(project).
    type: str
  project:
    description: Compose project whose service C(n8n-main) is meant; its address is asked of the engine.
    type: str
  store_file:
    description: File on the target that says how to reach the secret store, which holds the API key.
    type: path
    required: true
  environment:
    description: Environment whose secrets are meant.
    type: str
    required: true
  name:
    description: Name of the credential.
    type: str
    required: true
  type:
    description: n8n's type of credential.
    type: str
    required: true
  data:
    description: What it holds, as the type's schema has it.
    type: dict
    required: true
attributes:
  check_mode:
    description: Only reads; without a running n8n or an API key a change is foretold.
    support: full
  diff_mode:
    description: Name and type; never what it holds.
    support: full
"""

EXAMPLES = r"""
- name: Leave a credential that a drill decrypts
  n8n_credential:
    project: n8n-local
    store_file: "{{ platform_state_root }}/openbao-store.json"
    environment: local
    name: Platform canary
    type: httpHeaderAuth
    data: {name: X-Canary, value: sings}
"""

RETURN = r"""
id:
  description: The credential's id; empty when there is none.
  returned: success
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.n8n import (
    ADDRESS_RULES,
    API_ARGUMENTS,
    N8n,
    N8nError,
    client_from_params,
)
from ansible.module_utils.n8n_platform.openbao import StoreError, StoreUnavailable


def build_spec() -> dict[str, Any]:
    return {
        **API_ARGUMENTS,
        "name": {"type": "str", "required": True},
        "type": {"type": "str", "required": True},
        "data": {"type": "dict", "required": True, "no_log": True},
    }


class Manager:
    def __init__(self, params: dict[str, Any]) -> None:
        self.wanted = {"name": params["name"], "type": params["type"]}
        self.data = params["data"]
        self.id = ""

    def plan(self, n8n: N8n) -> bool:
        """Whether it has to be made. Raises HttpError."""
        found = next((one for one in n8n.credentials() if self.wanted.items() <= one.items()), None)
        self.id = found["id"] if found else ""
        return not found

    def apply(self, n8n: N8n) -> None:
        """Raises HttpError."""
        self.id = n8n.create_credential({**self.wanted, "data": self.data})["id"]


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Raises N8nError, HttpError and StoreError."""
    manager = Manager(params)
    try:
        n8n = client_from_params(params)
        missing = manager.plan(n8n)
        if missing and not check_mode:
            manager.apply(n8n)
    except (N8nError, HttpError, StoreUnavailable):
        if not check_mode:
            raise
        missing = True
    text = "{name} ({type})\n".format(**manager.wanted)
    return {"changed": missing, "id": manager.id, "diff": {"before": "" if missing else text, "after": text}}


def main() -> None:
    module = AnsibleModule(argument_spec=build_spec(), supports_check_mode=True, **ADDRESS_RULES)
    try:
        result = run(module.params, module.check_mode)
    except (N8nError, HttpError, StoreError) as error:
        module.fail_json(msg=f"credential {module.params['name']!r}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
