#!/usr/bin/python
"""Ansible module: one workflow of an n8n instance, as its JSON says."""

from __future__ import annotations

DOCUMENTATION = r"""
module: n8n_workflow
short_description: Create, update, publish or delete a workflow of n8n
description:
  - Compares a workflow with its JSON and changes what differs. A workflow is known by its name, so a second one
    of the same name is an error.
  - Compared are nodes (by name), connections and settings, and of these only what the JSON says; what n8n adds
    of its own (ids, defaults) does not count.
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
  definition:
    description: The workflow as n8n exports it; C(name) is its identity. For V(absent) only the name counts.
    type: dict
    required: true
  state:
    description: Whether the workflow exists.
    type: str
    choices: [present, absent]
    default: present
  active:
    description: Whether it is published, in its present version. Without it, this is left as it is.
    type: bool
attributes:
  check_mode:
    description: Only reads; without a running n8n or an API key a change is foretold.
    support: full
  diff_mode:
    description: The compared parts before and after.
    support: full
"""

EXAMPLES = r"""
- name: Deploy a workflow
  n8n_workflow:
    project: n8n-local
    store_file: "{{ platform_state_root }}/openbao-store.json"
    environment: local
    definition: "{{ lookup('ansible.builtin.file', 'workflows/smoke/workflow.json') | from_json }}"
    active: true
"""

RETURN = r"""
id:
  description: The workflow's id; empty when there is none.
  returned: success
  type: str
active:
  description: Whether it is published.
  returned: success
  type: bool
actions:
  description: What was done, of V(create), V(update), V(publish), V(unpublish), V(delete).
  returned: success
  type: list
  elements: str
"""

import json
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

WRITABLE = ("name", "nodes", "connections", "settings", "staticData", "pinData", "nodeGroups")
NOT_COMPARED = ("id",)


def build_spec() -> dict[str, Any]:
    return {
        **API_ARGUMENTS,
        "definition": {"type": "dict", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "active": {"type": "bool"},
    }


def wanted_parts(definition: dict[str, Any]) -> dict[str, Any]:
    """What is compared, in a form that does not depend on the order of nodes."""
    nodes = {
        node["name"]: {k: v for k, v in node.items() if k not in NOT_COMPARED} for node in definition["nodes"]
    }
    return {
        "nodes": nodes,
        "connections": definition["connections"],
        "settings": definition.get("settings", {}),
    }


def present_parts(workflow: dict[str, Any] | None, wanted: dict[str, Any]) -> dict[str, Any]:
    """The same parts of the workflow in n8n, reduced to the keys that `wanted` has (all nodes, all connections)."""
    if workflow is None:
        return {}
    nodes = {}
    for node in workflow["nodes"]:
        keys = wanted["nodes"].get(node["name"], node)
        nodes[node["name"]] = {key: node[key] for key in keys if key in node}
    settings = {
        key: value for key, value in (workflow["settings"] or {}).items() if key in wanted["settings"]
    }
    return {"nodes": nodes, "connections": workflow["connections"], "settings": settings}


class Manager:
    def __init__(self, params: dict[str, Any], n8n: N8n) -> None:
        self.params, self.n8n = params, n8n
        self.definition = params["definition"]
        self.workflow: dict[str, Any] | None = None
        self.diff = {"before": "", "after": ""}

    def plan(self) -> list[str]:
        """Actions in order. Raises N8nError (several workflows of that name), HttpError."""
        name = self.definition["name"]
        found = [w for w in self.n8n.workflows(name) if w["name"] == name and not w.get("isArchived")]
        if len(found) > 1:
            raise N8nError(f"n8n has {len(found)} workflows called {name!r}: rename or delete all but one")
        self.workflow = found[0] if found else None
        if self.params["state"] == "absent":
            return ["delete"] if self.workflow else []
        wanted = wanted_parts(self.definition)
        present = present_parts(self.workflow, wanted)
        actions = [] if present == wanted else ["update" if self.workflow else "create"]
        actions += self._publication(bool(actions))
        if actions:
            self.diff = {
                "before": self._text(present, self._published()),
                "after": self._text(wanted, self.params["active"]),
            }
        return actions

    def apply(self, actions: list[str]) -> None:
        """Raises HttpError."""
        body = {key: self.definition[key] for key in WRITABLE if key in self.definition}
        body.setdefault("settings", {})
        for action in actions:
            identifier = self.workflow["id"] if self.workflow else ""
            if action == "create":
                self.workflow = self.n8n.create_workflow(body)
            elif action == "update":
                self.workflow = self.n8n.update_workflow(identifier, body)
            elif action == "publish":
                self.workflow = self.n8n.publish_workflow(identifier)
            elif action == "unpublish":
                self.workflow = self.n8n.unpublish_workflow(identifier)
            else:
                self.n8n.delete_workflow(identifier)
                self.workflow = None

    def _publication(self, edited: bool) -> list[str]:
        """An edited workflow is published again: senders otherwise go on getting its former version."""
        wanted, workflow = self.params["active"], self.workflow
        if wanted is None:
            return []
        current = workflow is not None and workflow["activeVersionId"] == workflow["versionId"] and not edited
        if wanted:
            return [] if self._published() and current else ["publish"]
        return ["unpublish"] if self._published() else []

    def _published(self) -> bool:
        return bool(self.workflow and self.workflow["active"])

    def _text(self, parts: dict[str, Any], active: bool | None) -> str:
        return (
            json.dumps({**parts, "active": active}, indent=2, sort_keys=True, default=str) + "\n"
            if parts
            else ""
        )


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    try:
        manager = Manager(params, client_from_params(params))
        actions = manager.plan()
    except (N8nError, HttpError, StoreUnavailable):
        if not check_mode:
            raise
        return {
            "changed": True,
            "id": "",
            "active": False,
            "actions": [],
            "diff": {"before": "", "after": ""},
        }
    if not check_mode:
        manager.apply(actions)
    workflow = manager.workflow or {}
    return {
        "changed": bool(actions),
        "id": workflow.get("id", ""),
        "active": bool(workflow.get("active")),
        "actions": actions,
        "diff": manager.diff,
    }


def main() -> None:
    module = AnsibleModule(argument_spec=build_spec(), supports_check_mode=True, **ADDRESS_RULES)
    name = module.params["definition"].get("name")
    if not name:
        module.fail_json(msg="definition: the workflow has no name")
    try:
        result = run(module.params, module.check_mode)
    except (N8nError, HttpError, StoreError) as error:
        module.fail_json(msg=f"workflow {name!r}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
