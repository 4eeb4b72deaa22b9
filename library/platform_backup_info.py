#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Tell which backups there are, how old they are, and what is wrong with them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_backup_info
short_description: Tell which backups there are and what is wrong with them
description:
  - Reads manifests and the state of the last runs on the host; asks neither the bucket nor a container.
  - A set without a manifest that is whole is no backup, and is named among RV(problems).
options:
  definition:
    description: The file C(backup.json) that role backup writes. Where there is none yet, nothing is there to tell.
    type: path
    required: true
  fail_on_problems:
    description: Fail when there are RV(problems).
    type: bool
    default: false
attributes:
  check_mode: {description: Only looks., support: full}
  diff_mode: {description: Changes nothing., support: none}
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: Look at the backups
  platform_backup_info:
    definition: "{{ platform_state_root }}/backup.json"
  register: __backup_info
"""

RETURN = r"""
sets:
  description: All sets, newest first, with run, type, age_seconds, bytes, items and the repositories they lie in.
  returned: success
  type: list
  elements: dict
  sample: [{run: 20261122T020000Z, good: true, type: full, age_seconds: 3600, repositories: [local, s3]}]
newest:
  description: The newest good set; null without one.
  returned: success
  type: dict
  sample: {run: 20261122T020000Z, age_seconds: 3600}
window:
  description:
    - The moments between which everything can be restored, by repository, and C(gaps), those in between whose
      write-ahead log was lost; one that no later set has closed ends the window.
  returned: success
  type: dict
  sample: {local: {from: "2026-11-15T02:00:00+00:00", to: "2026-11-22T03:00:00+00:00", gaps: []}}
offsite:
  description: Whether there is a copy on another host (state none, local-store or off-site) and its newest set.
  returned: success
  type: dict
  sample: {state: off-site, newest: 20261122T020000Z}
last_run:
  description: The last run, also a failed one.
  returned: success
  type: dict
last_verified:
  description: When everything was last read back, and what was found.
  returned: success
  type: dict
last_drill:
  description: The last restore drill.
  returned: success
  type: dict
problems:
  description: What somebody has to look at.
  returned: always
  type: list
  elements: str
summary:
  description: The same in lines to be shown.
  returned: success
  type: list
  elements: str
notes:
  description: What is missing by choice, such as an off-site copy.
  returned: always
  type: list
  elements: str
"""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.backup import BackupError, Definition
from ansible.module_utils.n8n_platform.backup_info import describe, summary

_NOTHING: dict[str, Any] = {
    "environment": "",
    "sets": [],
    "newest": None,
    "window": {},
    "offsite": {},
    "last_run": None,
    "last_verified": None,
    "last_drill": None,
    "problems": [],
    "warnings": [],
}


def build_spec() -> dict[str, Any]:
    return {
        "definition": {"type": "path", "required": True},
        "fail_on_problems": {"type": "bool", "default": False},
    }


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    path = Path(module.params["definition"])
    try:
        found = describe(Definition.load(path), datetime.now(timezone.utc)) if path.exists() else _NOTHING
    except BackupError as error:
        module.fail_json(msg=str(error))
    lines = [f"Backups: {line}" for line in summary(found)] if found["environment"] else []
    told = {("notes" if key == "warnings" else key): value for key, value in found.items()} | {
        "summary": lines
    }
    if module.params["fail_on_problems"] and found["problems"]:
        module.fail_json(msg=f"backup: {'; '.join(found['problems'])}", **told)
    module.exit_json(changed=False, **told)


if __name__ == "__main__":
    main()
