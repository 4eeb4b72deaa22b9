#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Assemble the roles' contributions into a release: one checked Compose file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_compose_assemble
short_description: Assemble the roles' contributions into a release
description:
  - Makes the strict union of all C(service) contributions, applies the policy (pinned images, health checks,
    limits,
    no capabilities, secrets as files) and writes C(compose.yaml), and the same for Swarm as C(stack.yaml),
    into
    C(<releases_root>/<id>/). The id is a hash of the content, so the same input changes nothing.
  - The link C(current) is switched, in one step, after C(docker compose config) has accepted the file.
    Containers are
    not touched; that is M(platform_compose_apply).
  - Removes releases beyond the last O(keep) different ones and configuration that none of those names.
options:
  contributions:
    description: What the roles bring along (docs/role-contract.md). Only C(role) and C(service) are read;
      leave
      out C(secrets), whose entries may carry values.
    type: list
    elements: dict
    required: true
  project:
    description: Name of the Compose project.
    type: str
    required: true
  environment_name:
    description: Name of the environment, for labels.
    type: str
    required: true
  releases_root:
    description: Directory of the releases.
    type: path
    required: true
  secrets_root:
    description: Directory of the secret files, C(<secrets_root>/<service>/<name>).
    type: path
    required: true
  config_root:
    description: Directory of the rendered configuration, for removing what no release names. Nothing there
      is removed
      when this is not given.
    type: path
  bind_roots:
    description: Directories below which bind mounts may lie.
    type: list
    elements: str
    required: true
  secret_versions_file:
    description: JSON file with the version in the store by name of the secret; they are written as labels,
      so that
      a new version recreates its consumers. A file that is not there yet counts as empty.
    type: path
  keep:
    description: How many different releases are kept, the current one included.
    type: int
    default: 5
  check:
    description: Whether Compose itself is asked in check mode, too. Before the engine is installed there may be none,
      or an old one.
    type: bool
    default: true
  engine_socket:
    description: Socket of the Docker engine.
    type: path
    default: /var/run/docker.sock
attributes:
  check_mode:
    support: full
    description: Checks and compares, writes nothing but a temporary file. Without a Docker client Compose's
      own
      check is left out.
  diff_mode:
    support: full
    description: The compose file against that of the current release; for the first one only the services' names.
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: config | Assemble the release
  platform_compose_assemble:
    contributions: "{{ platform_contributions }}"
    project: "{{ platform_project }}"
    environment_name: "{{ platform_environment }}"
    releases_root: "{{ platform_releases_root }}"
    secrets_root: "{{ platform_secrets_root }}"
    bind_roots: ["{{ platform_data_root }}"]
"""

RETURN = r"""
path:
  description: Directory of the release.
  returned: always
  type: str
release:
  description: Id of the release.
  returned: always
  type: str
tiers:
  description: Services by tier, in the order of starting; members of slots are not among them.
  returned: always
  type: dict
slots:
  description: Services by slot.
  returned: always
  type: dict
removed:
  description: Directories of releases and configuration that are no longer needed.
  returned: always
  type: list
  elements: str
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform import compose, config, releases
from ansible.module_utils.n8n_platform.compose_cli import ComposeCli
from ansible.module_utils.n8n_platform.compose_policy import ComposeError


def build_spec() -> dict[str, Any]:
    return {
        "contributions": {"type": "list", "elements": "dict", "required": True},
        "project": {"type": "str", "required": True},
        "environment_name": {"type": "str", "required": True},
        "releases_root": {"type": "path", "required": True},
        "secrets_root": {"type": "path", "required": True},
        "config_root": {"type": "path"},
        "bind_roots": {"type": "list", "elements": "str", "required": True},
        "secret_versions_file": {"type": "path", "no_log": False},
        "keep": {"type": "int", "default": 5},
        "check": {"type": "bool", "default": True},
        "engine_socket": {"type": "path", "default": "/var/run/docker.sock"},
    }


class Manager:
    """Plans and writes one release. `docker` is the client's path, None where there is none. Raises
    ComposeError."""

    def __init__(self, params: dict[str, Any], docker: str | None) -> None:
        settings = compose.Settings(
            project=params["project"],
            environment=params["environment_name"],
            secrets_root=params["secrets_root"],
            bind_roots=params["bind_roots"],
            secret_versions=_read_versions(params["secret_versions_file"]),
        )
        self.params = params
        self.docker = docker
        self.keep = params["keep"]
        self.model = compose.assemble(params["contributions"], settings)
        self.files = releases.render(self.model)
        self.release = releases.release_id(self.files)
        self.releases = releases.Releases(Path(params["releases_root"]), self.keep)
        self.path = self.releases.path(self.release)

    def plan(self) -> list[str]:
        steps = [] if self.path.is_dir() else ["write"]
        if self.releases.current() != self.release:
            steps.append("switch")
        if self.stale():
            steps.append("prune")
        return steps

    def stale(self) -> list[Path]:
        found = self.releases.stale(self.release)
        if self.params["config_root"]:
            texts = [*self.releases.kept_texts(self.release), self.files[releases.COMPOSE]]
            found = found + config.stale(Path(self.params["config_root"]), texts, self.keep)
        return found

    def diff(self) -> dict[str, str]:
        former = self.releases.current()
        if not former:
            return {"before": "", "after": "".join(f"{name}\n" for name in self.model["services"])}
        return {
            "before_header": f"{former or 'no release'}/{releases.COMPOSE}",
            "after_header": f"{self.release}/{releases.COMPOSE}",
            "before": self.releases.compose_text(former),
            "after": self.files[releases.COMPOSE],
        }

    def check(self) -> None:
        """Compose's own check on a temporary copy."""
        with tempfile.TemporaryDirectory(prefix="release-") as directory:
            self._write(Path(directory) / self.release)

    def apply(self, steps: list[str]) -> None:
        stale = self.stale()
        if "write" in steps:
            self._write(self.releases.temporary(self.release))
            self.releases.keep(self.release)
        if "switch" in steps:
            self.releases.switch(self.release)
        self.releases.remove(stale)

    def _write(self, directory: Path) -> None:
        config.write_tree(directory, self.files, mode=0o644, owner=0, group=0)
        try:
            if self.docker:
                file = directory / releases.COMPOSE
                ComposeCli(
                    self.docker, self.params["project"], file, self.params["engine_socket"]
                ).config_hashes()
        except ComposeError:
            shutil.rmtree(directory)
            raise


def _read_versions(file: str | None) -> dict[str, Any]:
    if not file or not Path(file).exists():
        return {}
    versions: dict[str, Any] = json.loads(Path(file).read_text("utf-8"))
    return versions


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    docker = module.get_bin_path("docker", required=not module.check_mode)
    try:
        manager = Manager(module.params, docker)
        steps, removed = manager.plan(), [str(path) for path in manager.stale()]
        diff = manager.diff() if "write" in steps or "switch" in steps else {}
        if not module.check_mode:
            manager.apply(steps)
        elif "write" in steps and module.params["check"]:
            manager.check()
    except (ComposeError, config.ConfigError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(steps),
        path=str(manager.path),
        release=manager.release,
        tiers=compose.tiers(manager.model),
        slots=compose.slots(manager.model),
        removed=removed,
        diff=diff,
    )


if __name__ == "__main__":
    main()
