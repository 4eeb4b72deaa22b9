#!/usr/bin/python
"""Ansible module: claims an n8n instance for its owner."""

from __future__ import annotations

DOCUMENTATION = r"""
module: n8n_owner
short_description: Claim an n8n instance
description:
  - Until it has an owner, n8n gives itself to whoever asks first. This module waits until n8n answers and asks
    first, with the password that the secret store holds as C(n8n_owner_password).
  - An instance that has an owner is left alone; its password is never changed. With O(password) the store learns
    which one it has, after n8n has taken it.
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
    description: The owner's e-mail address.
    type: str
    required: true
  first_name:
    description: The owner's first name.
    type: str
    default: Platform
  last_name:
    description: The owner's last name.
    type: str
    default: Owner
  password:
    description:
      - The password that the owner has, or is to have where there is none yet. One that n8n refuses is not stored.
      - Of an account with a second factor n8n checks the password first, so that is no obstacle.
    type: str
  timeout:
    description: Seconds to wait until n8n is ready.
    type: int
    default: 300
attributes:
  check_mode:
    description: Only asks n8n about owner and password; without a running n8n a change is foretold.
    support: full
  diff_mode:
    description: Before and after of the owner's address, and that the stored password changes, never a value.
    support: full
"""

EXAMPLES = r"""
- name: Claim n8n
  n8n_owner:
    project: n8n-local
    store_file: "{{ platform_state_root }}/openbao-store.json"
    environment: local
    email: owner@n8n.localhost

- name: Tell the store which password the owner has now
  n8n_owner:
    project: n8n-local
    store_file: "{{ platform_state_root }}/openbao-store.json"
    environment: local
    email: owner@n8n.localhost
    password: "{{ lookup('ansible.builtin.file', 'new-password') }}"
  no_log: true
"""

RETURN = r"""
email:
  description: The address this module claims the instance for.
  returned: success
  type: str
password_in:
  description: Where the password is to be found.
  returned: success
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.n8n import (
    ADDRESS_RULES,
    API_ARGUMENTS,
    OWNER_ENTRY,
    N8n,
    N8nError,
    PasswordRefused,
    address,
)
from ansible.module_utils.n8n_platform.openbao import SecretStore, StoreError


def build_spec() -> dict[str, Any]:
    return {
        **API_ARGUMENTS,
        "email": {"type": "str", "required": True},
        "first_name": {"type": "str", "default": "Platform"},
        "last_name": {"type": "str", "default": "Owner"},
        "password": {"type": "str", "no_log": True},
        "timeout": {"type": "int", "default": 300},
    }


class Manager:
    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params

    def plan(self, wait: bool) -> list[str]:
        """`owner` when the instance has none, `password` when the store has another than is given.

        Raises N8nError (n8n refuses the given password), StoreError, HttpError.
        """
        self.n8n = N8n(address(self.params))
        if wait:
            self.n8n.wait_until_ready(self.params["timeout"])
        differences = [] if self.n8n.has_owner() else ["owner"]
        given = self.params["password"]
        if given and SecretStore.from_params(self.params).get(OWNER_ENTRY) != given:
            if not differences:
                self.n8n.check_password(self.params["email"], given)
            differences.append("password")
        return differences

    def apply(self, differences: list[str]) -> None:
        """Raises N8nError (no password in the store), StoreError, HttpError."""
        store = SecretStore.from_params(self.params)
        if "password" in differences:
            store.put(OWNER_ENTRY, self.params["password"])
        if "owner" in differences:
            self._claim(store.get(OWNER_ENTRY))

    def _claim(self, password: str | None) -> None:
        if password is None:
            raise N8nError(f"the store has no {OWNER_ENTRY} for environment {self.params['environment']}")
        names = (self.params["first_name"], self.params["last_name"])
        self.n8n.set_up_owner(self.params["email"], *names, password)


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    manager = Manager(params)
    try:
        differences = manager.plan(wait=not check_mode)
    except PasswordRefused:
        raise
    except (N8nError, HttpError):
        if not check_mode:
            raise
        differences = ["owner"]
    if differences and not check_mode:
        manager.apply(differences)
    lines = {
        "owner": ("owner: none\n", f"owner: {params['email']}\n"),
        "password": ("stored password: another one\n", "stored password: the given one\n"),
    }
    before, after = ("".join(lines[name][side] for name in differences) for side in (0, 1))
    location = f"secret {OWNER_ENTRY} of environment {params['environment']} in the store"
    return {
        "changed": bool(differences),
        "email": params["email"],
        "password_in": location,
        "diff": {"before": before, "after": after},
    }


def main() -> None:
    module = AnsibleModule(argument_spec=build_spec(), supports_check_mode=True, **ADDRESS_RULES)
    try:
        result = run(module.params, module.check_mode)
    except (N8nError, HttpError, StoreError) as error:
        module.fail_json(msg=f"the owner cannot be set up: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
