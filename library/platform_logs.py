#!/usr/bin/python
"""Shows the logs of an environment's containers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_logs
short_description: Shows the logs of an environment's containers
description:
  - Returns the last lines of each service's log, without secrets.
options:
  project:
    description: Name of the Compose project.
    type: str
    required: true
  secrets_root:
    description: Folder of the environment's secret files; their values are replaced in what is shown.
    type: path
    required: true
  services:
    description: Services to show; all when empty.
    type: list
    elements: str
    default: []
  lines:
    description: Lines of each service.
    type: int
    default: 50
attributes:
  check_mode:
    support: full
    description: Only reads.
  diff_mode:
    support: none
    description: Changes nothing.
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: Show the last lines of the main process
  platform_logs:
    project: n8n-local
    secrets_root: /var/lib/n8n-platform/local/secrets
    services: [n8n-main]
"""

RETURN = r"""
logs:
  description: Service name to its last lines.
  returned: success
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.support import Redactor, project_logs


def build_spec() -> dict[str, Any]:
    return {
        "project": {"type": "str", "required": True},
        "secrets_root": {"type": "path", "required": True},
        "services": {"type": "list", "elements": "str", "default": []},
        "lines": {"type": "int", "default": 50},
    }


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    options = module.params
    redactor = Redactor(Path(options["secrets_root"]))
    try:
        logs = project_logs(Engine(), options["project"], options["services"], options["lines"], redactor)
    except (HttpError, KeyError) as error:
        module.fail_json(msg=str(error.args[0]))
    module.exit_json(changed=False, logs=logs)


if __name__ == "__main__":
    main()
