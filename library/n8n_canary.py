#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Leave a credential in n8n that every drill can decrypt."""

from __future__ import annotations

DOCUMENTATION = r"""
module: n8n_canary
short_description: Leave a credential in n8n that every drill can decrypt
description:
  - Imports the credential C(Platform canary) of the owner by n8n's own command, which encrypts it with n8n's key, where
    the database has none of its id. It holds nothing secret.
  - That command needs no session and no API key, so an owner's second factor is no obstacle.
options:
  project:
    description: Compose project.
    type: str
    required: true
  service:
    description: Service that the command runs in.
    type: str
    default: n8n-main
  postgres_service:
    description: Service of n8n's database.
    type: str
    default: postgres-n8n
attributes:
  check_mode:
    description: Foretells a change where the database does not run yet.
    support: full
  diff_mode:
    support: none
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: configure | Leave a credential that a drill decrypts
  n8n_canary:
    project: n8n-production
"""

RETURN = r"""
id:
  description: The credential's id.
  returned: success
  type: str
"""

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.engine import Engine, output_in, words
from ansible.module_utils.n8n_platform.http import HttpError

_CREDENTIAL = {
    "id": "platform-canary",
    "name": "Platform canary",
    "type": "httpHeaderAuth",
    "data": {"name": "X-Platform-Canary", "value": "sings"},
}
_COUNT = "SELECT count(*) FROM credentials_entity WHERE id = 'platform-canary'"
_IMPORT = """
set -eu
umask 077
file=$(mktemp -p /tmp)
trap 'rm -f "$file"' EXIT
printf %s "$1" >"$file"
n8n import:credentials --input="$file"
"""


class CanaryError(Exception):
    """The database or n8n does not run, or the command has not made the credential."""


def build_spec() -> dict[str, Any]:
    return {
        "project": {"type": "str", "required": True},
        "service": {"type": "str", "default": "n8n-main"},
        "postgres_service": {"type": "str", "default": "postgres-n8n"},
    }


class Manager:
    """Raises CanaryError and HttpError."""

    def __init__(self, params: dict[str, Any], engine: Engine) -> None:
        self.params = params
        self.engine = engine

    def plan(self) -> bool:
        """Whether it has to be made."""
        argv = ["psql", "-XqAt", "-U", "postgres", "-d", "n8n", "-c", _COUNT]
        return not int(self._output(self.params["postgres_service"], argv))

    def apply(self) -> None:
        argv = ["sh", "-c", _IMPORT, "sh", json.dumps([_CREDENTIAL])]
        output = self._output(self.params["service"], argv)
        if self.plan():
            raise CanaryError(f"{self.params['service']}: nothing was imported: {words(output)}")

    def _output(self, service: str, argv: list[str]) -> str:
        return output_in(self.engine, self.params["project"], service, argv, CanaryError)


def run(manager: Manager, check_mode: bool) -> dict[str, Any]:
    try:
        missing = manager.plan()
    except (CanaryError, HttpError):
        if not check_mode:
            raise
        missing = True
    if missing and not check_mode:
        manager.apply()
    return {"changed": missing, "id": _CREDENTIAL["id"]}


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        result = run(Manager(module.params, Engine(timeout=300.0)), module.check_mode)
    except (CanaryError, HttpError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
