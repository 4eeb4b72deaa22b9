#!/usr/bin/python
"""A database of a running Postgres instance from a dump of a backup."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_dump_restore
short_description: Restore a database from a dump
description:
  - Restores C(staging/dump-<name>.dump) of a recovery directory into a new database beside the one in use, looks at it,
    and gives it the name of the one in use in one transaction. A failure or kill before that leaves the database in use
    as it was; the former one stays as C(<database>_before_restore) until V(discarded).
  - Refuses a dump whose checksum is not the one in the manifest.
  - Does nothing a second time for the same recovery directory.
options:
  name:
    description: Name of the instance.
    type: str
    required: true
  directory:
    description: Recovery directory, made by M(platform_recovery).
    type: path
    required: true
  volume:
    description: The instance's volume on the host, where the dump lies while it is restored.
    type: path
    required: true
  project:
    description: Compose project of the container.
    type: str
    required: true
  database:
    description: Name of the database.
    type: str
    required: true
  owner:
    description: Role that owns it.
    type: str
    required: true
  state:
    description:
      - V(restored) is V(prepared) and V(switched).
      - V(reverted) gives the former database its name again and drops the restored one, also a half restored one; it
        does nothing without a restore that was begun in O(directory).
      - V(discarded) drops the former database.
    type: str
    choices: [restored, prepared, switched, reverted, discarded]
    default: restored
  jobs:
    description: Connections that restore side by side.
    type: int
    default: 2
  timeout:
    description: Seconds that each program may take.
    type: int
    default: 7200
attributes:
  check_mode:
    support: full
    description: Reports what would be done.
  diff_mode:
    support: none
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: restore_dump | Restore the database
  postgres_dump_restore:
    name: n8n
    directory: /var/lib/n8n-platform/local/state/recovery
    volume: /var/lib/n8n-platform/local/volumes/postgres-n8n
    project: n8n-local
    database: n8n
    owner: n8n_owner
"""

RETURN = r"""
recovered:
  description: C(tables), C(bytes) and C(former), the name of the database from before; empty when nothing was done.
  returned: success
  type: dict
"""

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.backup import BackupError
from ansible.module_utils.n8n_platform.engine import Engine, EngineError
from ansible.module_utils.n8n_platform.engine_exec import Inside
from ansible.module_utils.n8n_platform.files import write_file
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.postgres_dump_restore import DumpRestore, Target
from ansible.module_utils.n8n_platform.recovery_fetch import Directory


def build_spec() -> dict[str, Any]:
    states = ["restored", "prepared", "switched", "reverted", "discarded"]
    return {
        **{name: {"type": "str", "required": True} for name in ("name", "project", "database", "owner")},
        **{name: {"type": "path", "required": True} for name in ("directory", "volume")},
        "state": {"type": "str", "choices": states, "default": "restored"},
        "jobs": {"type": "int", "default": 2},
        "timeout": {"type": "int", "default": 7200},
    }


class Manager:
    """Steps are `prepare`, `switch`, `revert`, `abandon`, `discard`; what is done stands in
    `<directory>/dump-<name>.json`: {begun}, then {tables, bytes[, former]}.

    Raises BackupError.
    """

    def __init__(self, params: dict[str, Any], engine: Engine, docker: str) -> None:
        self.params = params
        self.directory = Directory(Path(params["directory"]))
        self.file = self.directory.path / f"dump-{params['name']}.json"
        self.record: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self._engine = engine
        self._docker = docker

    def plan(self) -> list[str]:
        if self.params["state"] == "discarded":
            return ["discard"] if self.record.get("former") else []
        prepared = "tables" in self.record
        if self.params["state"] == "reverted":
            # Unless all of it was there, what bears the name of a former database is of an earlier restore.
            return ["revert" if prepared else "abandon"] if self.record else []
        prepare = [] if prepared else ["prepare"]
        switch = [] if "former" in self.record else ["switch"]
        return {"prepared": prepare, "switched": switch, "restored": prepare + switch}[self.params["state"]]

    def apply(self, steps: list[str]) -> None:
        if not steps:
            return
        worker = self._worker()
        if "prepare" in steps:
            dump = self._dump()
            self._write({"begun": True})
            self._write(worker.prepare(*dump))
        if "switch" in steps:
            self._write({**self.record, "former": worker.switch()})
        if "revert" in steps:
            worker.back()
        if "abandon" in steps:
            worker.discard_new()
        if "revert" in steps or "abandon" in steps:
            self.file.unlink()
            self.record = {}
        if "discard" in steps:
            worker.discard_former()
            self._write({**self.record, "former": ""})

    def _dump(self) -> tuple[Path, str]:
        """Its path, and the checksum that it should have."""
        item = f"dump-{self.params['name']}"
        for artefact in self.directory.manifest().get("items", []):
            if artefact["name"] == item and artefact["kind"] == "pg_dump":
                return self.directory.staging / artefact["file"], artefact["sha256"]
        raise BackupError(f"{item}: the backup has no such dump (runs of type incr have none)")

    def _worker(self) -> DumpRestore:
        service = f"postgres-{self.params['name']}"
        container = self._engine.service(self.params["project"], service)
        if not container or not container["State"]["Running"]:
            raise BackupError(f"{service}: no running container in project {self.params['project']}")
        target = Target(
            inside=Inside(container["Id"], self._engine.socket, self._docker),
            volume=Path(self.params["volume"]),
            database=self.params["database"],
            owner=self.params["owner"],
            jobs=self.params["jobs"],
            seconds=self.params["timeout"],
        )
        return DumpRestore(target)

    def _write(self, record: dict[str, Any]) -> None:
        write_file(self.file, json.dumps(record), mode=0o600)
        self.record = record


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        manager = Manager(module.params, Engine(), module.get_bin_path("docker", required=True))
        steps = manager.plan()
        if not module.check_mode:
            manager.apply(steps)
    except (BackupError, EngineError, HttpError, OSError) as error:
        module.fail_json(msg=f"postgres-{module.params['name']}: {error}")
    module.exit_json(changed=bool(steps), recovered=manager.record)


if __name__ == "__main__":
    main()
