#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Unpublish all workflows of an n8n that does not run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: n8n_unpublish
short_description: Unpublish all workflows of an n8n that does not run
description:
  - A copy of an environment must not fire the triggers of its source. n8n's own command does it, in a container of the
    release's C(n8n-main), while the databases run and n8n does not.
  - That command reports its errors in words only, so the database is asked afterwards.
options:
  project:
    description: Compose project.
    type: str
    required: true
  releases_root:
    description: Folder of the releases.
    type: path
    required: true
  service:
    description: Service that the command runs as.
    type: str
    default: n8n-main
  postgres_service:
    description: Service of n8n's database.
    type: str
    default: postgres-n8n
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: restore | Unpublish all workflows
  n8n_unpublish:
    project: n8n-production-scratch
    releases_root: /var/lib/n8n-platform/production-scratch/releases
"""

RETURN = r"""
published:
  description: How many workflows were published.
  returned: success
  type: int
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.compose_cli import ComposeCli
from ansible.module_utils.n8n_platform.compose_policy import ComposeError
from ansible.module_utils.n8n_platform.engine import SOCKET, Engine, output_in, words
from ansible.module_utils.n8n_platform.http import HttpError

_COUNT = "SELECT count(*) FROM workflow_entity WHERE active"


class UnpublishError(Exception):
    """The database does not answer, or workflows are still published."""


def build_spec() -> dict[str, Any]:
    return {
        "project": {"type": "str", "required": True},
        "releases_root": {"type": "path", "required": True},
        "service": {"type": "str", "default": "n8n-main"},
        "postgres_service": {"type": "str", "default": "postgres-n8n"},
    }


class Manager:
    """Raises UnpublishError, ComposeError, HttpError."""

    def __init__(self, params: dict[str, Any], engine: Engine, docker: str) -> None:
        self.params = params
        self.engine = engine
        self.docker = docker

    def plan(self) -> int:
        """How many workflows are published."""
        service = self.params["postgres_service"]
        argv = ["psql", "-XqAt", "-U", "postgres", "-d", "n8n", "-c", _COUNT]
        return int(output_in(self.engine, self.params["project"], service, argv, UnpublishError))

    def apply(self) -> None:
        file = Path(self.params["releases_root"]) / "current/compose.yaml"
        compose = ComposeCli(self.docker, self.params["project"], file, SOCKET)
        output = compose.run_once(self.params["service"], ["unpublish:workflow", "--all"])
        if left := self.plan():
            raise UnpublishError(f"{left} workflows are still published: {words(output)}")


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    published = 0
    try:
        manager = Manager(module.params, Engine(), module.get_bin_path("docker", required=True))
        published = manager.plan() if not module.check_mode else 0
        if published:
            manager.apply()
    except (UnpublishError, ComposeError, HttpError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=published > 0, published=published)


if __name__ == "__main__":
    main()
