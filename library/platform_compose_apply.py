#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Make the running containers those of a release, tier by tier."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_compose_apply
short_description: Make the running containers those of a release
description:
  - Compares the project's containers with the release and hands to C(docker compose up) only those services
    that are
    missing, stopped or made from another configuration. Where nothing differs Compose is not asked to act at
    all.
  - Tiers are started in the order secrets, data, app, edge; each one has to be healthy before the next.
  - Members of slots are left alone, M(platform_slots) starts and stops them.
options:
  project:
    description: Name of the Compose project.
    type: str
    required: true
  releases_root:
    description: Directory of the releases.
    type: path
    required: true
  release:
    description: Id of the release, or C(current).
    type: str
    default: current
  state:
    description:
      - C(present) runs the release; services that it no longer has are stopped and removed.
      - C(stopped) stops the services of O(tiers), the last tier first, each with its own stop time.
      - C(absent) removes all containers of the project, slots too, and its networks. Data is never removed.
    type: str
    choices: [present, stopped, absent]
    default: present
  tiers:
    description: Tiers to act on.
    type: list
    elements: str
    choices: [secrets, data, app, edge]
    default: [secrets, data, app, edge]
  app_patience:
    description:
      - Seconds that a stopped service of tier C(app) gets instead of its own stop time.
      - Once the workers are drained, nothing that it waits for can finish.
    type: int
  inspect:
    description:
      - O(state=present). Looks at each running container, too, those of slots included, and gives RV(drift).
      - What it finds is only told; it counts as no difference.
    type: bool
    default: false
  wait_timeout:
    description: Seconds for each tier to become healthy.
    type: int
    default: 300
  engine_socket:
    description: Socket of the Docker engine.
    type: path
    default: /var/run/docker.sock
attributes:
  check_mode:
    support: full
    description: Says what differs. A release that is not written yet, or an engine that is not installed
      yet, counts
      as a difference.
  diff_mode:
    support: full
    description: State of each service that differs.
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: apply | Start the release
  platform_compose_apply:
    project: "{{ platform_project }}"
    releases_root: "{{ platform_releases_root }}"
"""

RETURN = r"""
msg:
  description: The same in one line.
  returned: always
  type: str
differences:
  description: What differs or differed, as C(service) and C(reason).
  returned: always
  type: list
  elements: dict
drift:
  description: >-
    O(inspect=true). What of running containers is not as the release says, one sentence for each field: image, user,
    capabilities, read-only root, security options, limits, networks, published ports.
  returned: always
  type: list
  elements: str
tiers:
  description: >-
    O(state=present). The first of O(tiers) that has something to do, or is not healthy, and those after it.
  returned: state is present
  type: list
  elements: str
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.compose_apply import Difference, Project
from ansible.module_utils.n8n_platform.compose_cli import ComposeCli
from ansible.module_utils.n8n_platform.compose_policy import TIERS, ComposeError
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.file_lock import file_lock
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.releases import COMPOSE


def build_spec() -> dict[str, Any]:
    return {
        "project": {"type": "str", "required": True},
        "releases_root": {"type": "path", "required": True},
        "release": {"type": "str", "default": "current"},
        "state": {"type": "str", "choices": ["present", "stopped", "absent"], "default": "present"},
        "tiers": {"type": "list", "elements": "str", "choices": list(TIERS), "default": list(TIERS)},
        "app_patience": {"type": "int"},
        "inspect": {"type": "bool", "default": False},
        "wait_timeout": {"type": "int", "default": 300},
        "engine_socket": {"type": "path", "default": "/var/run/docker.sock"},
    }


class Manager:
    """Plans and applies one state. Raises ComposeError and HttpError."""

    def __init__(self, params: dict[str, Any], docker: str | None) -> None:
        self.state: str = params["state"]
        self.tiers = [tier for tier in TIERS if tier in params["tiers"]]
        self.release = Path(params["releases_root"]) / params["release"]
        self.wait_timeout: int = params["wait_timeout"]
        self.app_patience: int | None = params["app_patience"]
        self.inspect: bool = params["inspect"]
        written = (self.release / COMPOSE).exists()
        self.missing_parts = [] if docker else ["the Docker client"]
        if self.state != "absent" and not written:
            self.missing_parts.append(f"release {params['release']}")
        file = self.release / COMPOSE if written else None
        socket = params["engine_socket"]
        self.project = Project(
            params["project"], Engine(socket), ComposeCli(docker or "", params["project"], file, socket)
        )

    def plan(self, check_mode: bool) -> list[Difference]:
        if self.missing_parts and check_mode:
            return [Difference(part, "missing", "") for part in self.missing_parts]
        if self.missing_parts:
            raise ComposeError(
                f"{' and '.join(self.missing_parts)}: not on this host; playbooks/site.yml brings it"
            )
        if self.state == "present":
            return self.project.differences(self.release, self.tiers)
        if self.state == "stopped":
            return self.project.running(self.release, self.tiers)
        return self.project.remains()

    def apply(self, differences: list[Difference]) -> None:
        if self.state == "present":
            self.project.start(self.release, self.tiers, differences, self.wait_timeout)
        elif self.state == "stopped":
            self.project.stop(self.tiers, differences, self.app_patience)
        elif differences:
            self.project.remove(self.app_patience)

    def converge(self) -> list[Difference]:
        """Plans and applies; waits for what a killed run has left working on this host."""
        root = self.release.parent
        with file_lock(root / ".apply.lock", self.wait_timeout) if root.is_dir() else nullcontext():
            differences = self.plan(check_mode=False)
            self.apply(differences)
        return differences

    def drift(self) -> list[str]:
        """Nothing where it was not asked for, or where there is nothing yet to look at."""
        asked = self.inspect and self.state == "present" and not self.missing_parts
        return self.project.drift() if asked else []

    def busy(self, differences: list[Difference]) -> list[str]:
        """What a service does to those that need it is seen in their tiers, so these belong to it."""
        if self.missing_parts or any(not item.tier for item in differences):
            return self.tiers
        waiting = {item.tier for item in differences} | set(self.project.waiting(self.release, self.tiers))
        first = next((number for number, tier in enumerate(self.tiers) if tier in waiting), len(self.tiers))
        return self.tiers[first:]


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        manager = Manager(module.params, module.get_bin_path("docker"))
        differences = manager.plan(check_mode=True) if module.check_mode else manager.converge()
        drift = manager.drift()
        tiers = {"tiers": manager.busy(differences)} if manager.state == "present" else {}
    except (ComposeError, HttpError, TimeoutError) as error:
        module.fail_json(msg=str(error))
    found = [f"{item.service}: {item.reason}" for item in differences] + drift
    module.exit_json(
        changed=bool(differences),
        msg="; ".join(found) or "as the release says",
        differences=[{"service": item.service, "reason": item.reason} for item in differences],
        drift=drift,
        diff={"before": "".join(f"{item.service}: {item.reason}\n" for item in differences), "after": ""},
        **tiers,
    )


if __name__ == "__main__":
    main()
