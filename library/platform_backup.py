#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Make, prune or verify the backups of an environment."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_backup
short_description: Make, prune or verify the backups of an environment
description:
  - Does what the installed command C(platform-backup) does, under the same lock, with the same log and metrics.
  - Fails when the command would end with another exit code than 0; RV(code) is that code.
options:
  definition:
    description: The file C(backup.json) that role backup writes.
    type: path
    required: true
  state:
    description:
      - V(ready) writes O(content) and makes repositories that are missing.
      - V(made) makes a set of O(type); with type V(auto) only when one is owed.
      - V(pruned) removes what the retention lets go.
      - V(verified) reads back what was written.
      - V(idle) only fails while a backup, a pruning or a verification is at work, and names it.
    type: str
    choices: [ready, made, pruned, verified, idle]
    required: true
  content:
    description: What stands in O(definition), see module_utils/n8n_platform/backup.py. Needed with V(ready).
    type: dict
  type:
    description: What V(made) makes.
    type: str
    choices: [full, diff, incr, auto]
    default: auto
  full:
    description: V(verified) reads all data instead of the part whose turn it is.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: V(made) forecasts, V(pruned) lists exactly what would go, V(ready) says what is missing.
  diff_mode:
    support: full
    description: What V(pruned) removes, what V(ready) makes, and the definition.
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: Write what is backed up, and make the repositories
  platform_backup:
    definition: "{{ platform_state_root }}/backup.json"
    content: "{{ __backup_definition }}"
    state: ready

- name: Make what is owed
  platform_backup:
    definition: "{{ platform_state_root }}/backup.json"
    state: made

- name: See what would be removed
  platform_backup:
    definition: "{{ platform_state_root }}/backup.json"
    state: pruned
  check_mode: true
"""

RETURN = r"""
run:
  description: The set that was made, empty when none was.
  returned: success
  type: str
  sample: 20261122T020000Z
lines:
  description: What was done or, in check mode, would be done.
  returned: success
  type: list
  elements: str
forecast:
  description: With V(made) in check mode, the type that would be made, the bytes it may need and those that are free.
  returned: success
  type: dict
  sample: {type: full, required_bytes: 734003200, free_bytes: 42949672960}
code:
  description: Exit code of the command; documented in docs/backup.md.
  returned: always
  type: int
"""

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.backup import BackupError, Definition, Exit
from ansible.module_utils.n8n_platform.backup_lock import refuse_while_working
from ansible.module_utils.n8n_platform.backup_service import Answer, Service
from ansible.module_utils.n8n_platform.engine import EngineError
from ansible.module_utils.n8n_platform.files import write_file
from ansible.module_utils.n8n_platform.http import HttpError

_STATES = ("ready", "made", "pruned", "verified", "idle")


def build_spec() -> dict[str, Any]:
    return {
        "definition": {"type": "path", "required": True},
        "state": {"type": "str", "choices": list(_STATES), "required": True},
        "content": {"type": "dict"},
        "type": {"type": "str", "choices": ["full", "diff", "incr", "auto"], "default": "auto"},
        "full": {"type": "bool", "default": False},
    }


class Manager:
    """Plans and carries out one state. Raises BackupError."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.state: str = params["state"]
        self.type: str = params["type"]
        self.full: bool = params["full"]
        self.forecast: dict[str, Any] = {}
        self.path = Path(params["definition"])
        self.before = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        self.after = self.before
        if params["content"] is not None:
            self.after = json.dumps(params["content"], indent=2, sort_keys=True) + "\n"
        if params["content"] is not None:
            definition: Definition | None = Definition(params["content"])
        else:
            # On a first run in check mode nothing has been written yet.
            definition = Definition.load(self.path) if self.before else None
        self.service = Service(definition, by="ansible") if definition else None

    def plan(self, check: bool) -> list[str]:
        """What would be done, in words; asked in check mode only where the answer costs something."""
        if self.state == "idle":
            return []
        if self.service is None:
            return [f"{self.state}: there is no definition yet"]
        if self.state == "ready":
            written = [] if self.after == self.before else ["definition"]
            return written + [f"repository {name}" for name in self.service.initialise(dry_run=True)]
        if check and self.state == "made":
            self.forecast = self.service.forecast(self.type)
            return [f"{self.forecast['type']} set"] if self.forecast["type"] else []
        if check and self.state == "pruned":
            answer = self.service.prune(dry_run=True)
            if answer.code:
                raise BackupError("; ".join(answer.problems), answer.code)
            return [removal.line() for removal in answer.removals]
        return []

    def apply(self, steps: list[str]) -> Answer:
        if self.state == "idle":
            if self.service:
                refuse_while_working(self.service.definition.state_root)
            return Answer()
        if self.service is None:
            raise BackupError("definition: run the site playbook first", Exit.USAGE)
        if self.state == "ready":
            if steps:
                write_file(self.path, self.after, mode=0o600)
                self.service.initialise()
            return Answer(lines=steps)
        if self.state == "made":
            return self.service.run(self.type)
        if self.state == "pruned":
            return self.service.prune(dry_run=False)
        return self.service.verify(self.full)

    def diff(self, lines: list[str]) -> dict[str, str]:
        """Secrets are in neither: the definition holds names of secrets only."""
        done = "".join(f"{line}\n" for line in lines if line != "definition")
        return (
            {"before": self.before, "after": self.after + done} if self.before != self.after or done else {}
        )

    def changed(self, answer: Answer) -> bool:
        if self.state == "ready":
            return bool(answer.lines)
        return bool(answer.manifest) if self.state == "made" else bool(answer.removals)


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        manager = Manager(module.params)
        steps = manager.plan(module.check_mode)
        if module.check_mode:
            told = {"run": "", "lines": steps, "forecast": manager.forecast, "code": 0}
            module.exit_json(changed=bool(steps), diff=manager.diff(steps), **told)
        answer = manager.apply(steps)
    except BackupError as error:
        module.fail_json(msg=str(error), code=int(error.code))
    except (EngineError, HttpError, OSError) as error:
        module.fail_json(msg=str(error), code=int(Exit.FAILED))
    result = {"run": (answer.manifest or {}).get("run", ""), "lines": answer.lines, "code": int(answer.code)}
    if answer.code:
        module.fail_json(msg="; ".join(answer.problems or answer.lines), **result)
    changed = manager.changed(answer)
    module.exit_json(changed=changed, forecast={}, diff=manager.diff(answer.lines), **result)


if __name__ == "__main__":
    main()
