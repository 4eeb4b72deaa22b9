#!/usr/bin/python
"""Ansible module: refuses environment variables that n8n would misread."""

from __future__ import annotations

DOCUMENTATION = r"""
module: n8n_environment
short_description: Check n8n's environment variables against the list made from its package
description:
  - n8n falls back to a default when a value is malformed and ignores a name it does not know. This module
    fails instead and names every such variable; it never changes anything.
version_added: "1.0.0"
author: n8n platform maintainers
options:
  known:
    description: The list that C(bin/n8n-environment) made (keys V(version), V(variables), V(retired)).
    type: dict
    required: true
  extra:
    description: The operator's own variables. Names that belong to the platform and secrets are refused too.
    type: dict
    default: {}
  managed:
    description: What the platform itself sets, one dictionary of names and values per process.
    type: dict
    default: {}
attributes:
  check_mode:
    description: The module only reads its arguments, so a check run does all that a run does.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Check the operator's variables
  n8n_environment:
    known: "{{ lookup('ansible.builtin.file', 'environment-2.41.1.json') | from_json }}"
    extra: {N8N_LOG_LEVEL: debug}
"""

RETURN = r"""
checked:
  description: How many variables were looked at.
  returned: success
  type: int
findings:
  description: One sentence per refused variable.
  returned: failure
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.n8n_environment import check


def build_spec() -> dict[str, Any]:
    return {
        "known": {"type": "dict", "required": True},
        "extra": {"type": "dict", "default": {}},
        "managed": {"type": "dict", "default": {}},
    }


def findings(params: dict[str, Any]) -> list[str]:
    """All that is wrong; the platform's own table is held to the same rules, ownership aside."""
    found = [f"n8n_environment_extra: {finding}" for finding in check(params["extra"], params["known"])]
    for process, variables in params["managed"].items():
        found += [f"{process}: {finding}" for finding in check(variables, params["known"], operator=False)]
    return found


def main() -> None:
    module = AnsibleModule(argument_spec=build_spec(), supports_check_mode=True)
    problems = findings(module.params)
    if problems:
        module.fail_json(msg="; ".join(problems), findings=problems)
    checked = len(module.params["extra"]) + sum(map(len, module.params["managed"].values()))
    module.exit_json(changed=False, checked=checked)


if __name__ == "__main__":
    main()
