#!/usr/bin/python
"""Packs what a report about an environment needs, without secrets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_support_bundle
short_description: Packs what a report about an environment needs
description:
  - Writes one compressed archive with the Compose file, the rendered configuration, the state and the last log lines of
    every container, the host's memory and disk, and the verdict handed to it. No secret is in it, values of secret
    files are replaced wherever they stand.
options:
  project:
    description: Name of the Compose project.
    type: str
    required: true
  config_root:
    description: Folder of the rendered configuration (platform_config_root).
    type: path
    required: true
  releases_root:
    description: Folder of the releases (platform_releases_root).
    type: path
    required: true
  secrets_root:
    description: Folder of the secret files (platform_secrets_root); without it no running project is packed.
    type: path
    required: true
  destination:
    description: The archive to write; its folder is made.
    type: path
    required: true
  health:
    description: Verdict of M(n8n_health), packed as it is.
    type: dict
    default: {}
  lines:
    description: Log lines of each service.
    type: int
    default: 2000
attributes:
  check_mode:
    support: full
    description: Reads everything, writes nothing.
  diff_mode:
    support: none
    description: An archive has no useful difference.
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: Pack a support bundle
  platform_support_bundle:
    project: n8n-local
    config_root: /var/lib/n8n-platform/local/config
    releases_root: /var/lib/n8n-platform/local/releases
    secrets_root: /var/lib/n8n-platform/local/secrets
    destination: /var/lib/n8n-platform/local/support/bundle.tar.gz
"""

RETURN = r"""
path:
  description: The archive.
  returned: success
  type: str
files:
  description: Names in the archive.
  returned: success
  type: list
  elements: str
"""

import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.files import replacing
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.support import Redactor, project_logs, project_state


def build_spec() -> dict[str, Any]:
    return {
        "project": {"type": "str", "required": True},
        "config_root": {"type": "path", "required": True},
        "releases_root": {"type": "path", "required": True},
        "secrets_root": {"type": "path", "required": True},
        "destination": {"type": "path", "required": True},
        "health": {"type": "dict", "default": {}},
        "lines": {"type": "int", "default": 2000},
    }


class Manager:
    """Collects `{name: text}` and packs it."""

    def __init__(self, params: dict[str, Any], engine: Engine) -> None:
        self.params = params
        self.engine = engine
        self.config = Path(params["config_root"])
        self.releases = Path(params["releases_root"])
        self.secrets = Path(params["secrets_root"])
        self.redactor = Redactor(self.secrets)

    def plan(self) -> dict[str, str]:
        """Raises FileNotFoundError, HttpError."""
        project = self.params["project"]
        containers = self.engine.project(project)
        if containers and not self.secrets.is_dir():
            raise FileNotFoundError(f"{self.secrets} (secrets_root) is no folder: no value could be redacted")
        files = {
            "health.json": _json(self.redactor.data(self.params["health"])),
            "containers.json": _json(project_state(self.engine, project)),
            "host.json": _json(_host(self.releases)),
            **self._texts("releases", self.releases, [self.releases / "current"]),
            **self._texts("config", self.config, self._mounted_configuration(containers)),
        }
        for service, lines in project_logs(
            self.engine, project, [], self.params["lines"], self.redactor
        ).items():
            files[f"logs/{service}.log"] = "\n".join(lines) + "\n"
        return files

    def apply(self, files: dict[str, str]) -> None:
        destination = Path(self.params["destination"])
        destination.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (
            replacing(destination, mode=0o600) as stream,
            tarfile.open(fileobj=stream, mode="w:gz") as archive,
        ):
            for name, text in files.items():
                content = text.encode()
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o600
                archive.addfile(entry, io.BytesIO(content))

    def _texts(self, name: str, root: Path, folders: Iterable[Path]) -> dict[str, str]:
        """Redacted text of every file of the folders, which lie below `root`."""
        return {
            f"configuration/{name}/{path.relative_to(root)}": self.redactor.text(
                path.read_text(encoding="utf-8", errors="replace")
            )
            for folder in folders
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def _mounted_configuration(self, containers: list[dict[str, Any]]) -> set[Path]:
        """Folders of the rendered configuration that a container of the project really mounts."""
        mounts = {Path(mount["Source"]) for container in containers for mount in container.get("Mounts", [])}
        return {mount for mount in mounts if self.config in mount.parents}


def _host(root: Path) -> dict[str, Any]:
    disk = os.statvfs(root)
    return {
        "uname": " ".join(os.uname()),
        "load": os.getloadavg(),
        "memory": Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()[:3],
        "disk_free_mb": disk.f_bavail * disk.f_frsize // 2**20,
    }


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, sort_keys=True, default=str) + "\n"


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    manager = Manager(module.params, Engine())
    try:
        files = manager.plan()
        if not module.check_mode:
            manager.apply(files)
    except (HttpError, OSError) as error:
        module.fail_json(msg=f"support bundle: {error}")
    module.exit_json(changed=True, path=module.params["destination"], files=sorted(files))


if __name__ == "__main__":
    main()
