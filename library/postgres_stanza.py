#!/usr/bin/python
"""The pgBackRest stanza of a Postgres instance: that it exists in each repository, and that WAL arrives there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_stanza
short_description: The pgBackRest stanza of a Postgres instance in a container
description:
  - Makes the stanza in each configured repository that does not hold it; one that belongs to another cluster is
    refused, never replaced.
  - A repository that does not answer is a warning as long as another one holds the stanza, so that a change of
    settings does not depend on the off-site store.
  - V(verified) asks pgBackRest's C(check), which finishes a WAL segment and waits until each repository has it.
options:
  project:
    description: Compose project of the container.
    type: str
    required: true
  service:
    description: Compose service of the container.
    type: str
    required: true
  stanza:
    description: Name of the stanza.
    type: str
    required: true
  repositories:
    description: Those that are configured, V(local) or V(s3).
    type: list
    elements: str
    default: [local]
  state:
    description: V(present) makes it so. V(verified) fails on what is missing and changes nothing of the instance.
    type: str
    choices: [present, verified]
    default: present
  wait_seconds:
    description: How long the server, or a lock of pgBackRest's own, is waited for.
    type: int
    default: 60
attributes:
  check_mode:
    description: Reports what would be made; an instance that does not run counts as one without a stanza.
    support: full
  diff_mode:
    description: The repositories that hold the stanza.
    support: full
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: The stanza is in both repositories
  postgres_stanza:
    project: n8n-local
    service: postgres-n8n
    stanza: n8n
    repositories: [local, s3]
"""

RETURN = r"""
repositories:
  description: Of each repository C(problem) (empty when it is sound), C(sets), C(wal_min) and C(wal_max).
  returned: always
  type: dict
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform import pgbackrest
from ansible.module_utils.n8n_platform.backup import BackupError
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.engine_exec import Inside
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.pgbackrest import PgBackRest, PgBackRestError, Repository

_POLL_SECONDS = 1.0


class Manager:
    """`client` is None when the instance does not run yet (check mode)."""

    def __init__(self, params: dict[str, Any], client: PgBackRest | None) -> None:
        self._params = params
        self._client = client
        self.found: dict[str, Repository] = (
            client.repositories(params["repositories"])
            if client
            else {name: Repository(name, "", created=False) for name in params["repositories"]}
        )

    def plan(self) -> list[str]:
        """Repositories in which the stanza is to be made."""
        return [name for name, repository in self.found.items() if not repository.created]

    def problems(self) -> list[str]:
        return [f"{name}: {found.problem}" for name, found in self.found.items() if found.problem]

    def apply(self) -> None:
        """Raises PgBackRestError; waits while the archiver holds pgBackRest's lock."""
        assert self._client is not None
        deadline = time.monotonic() + self._params["wait_seconds"]
        while True:
            try:
                self._client.call("stanza-create")
                break
            except PgBackRestError as error:
                if error.status != pgbackrest.LOCK_HELD or time.monotonic() >= deadline:
                    raise
                time.sleep(_POLL_SECONDS)
        self.found = self._client.repositories(self._params["repositories"])

    def check(self) -> None:
        """Raises PgBackRestError when WAL does not arrive."""
        assert self._client is not None
        self._client.call("check", seconds=300)


def build_spec() -> dict[str, Any]:
    return {
        "project": {"type": "str", "required": True},
        "service": {"type": "str", "required": True},
        "stanza": {"type": "str", "required": True},
        "repositories": {"type": "list", "elements": "str", "default": ["local"]},
        "state": {"type": "str", "choices": ["present", "verified"], "default": "present"},
        "wait_seconds": {"type": "int", "default": 60},
    }


def connect(module: AnsibleModule) -> PgBackRest | None:
    """None in check mode when nothing runs. Raises BackupError."""
    engine = Engine()
    container = engine.service(module.params["project"], module.params["service"])
    if container and container["State"]["Status"] == "running":
        docker = module.get_bin_path("docker", required=True)
        return PgBackRest(module.params["stanza"], Inside(container["Id"], engine.socket, docker).run)
    if module.check_mode:
        return None
    raise BackupError("no running container")


def carry_out(module: AnsibleModule, manager: Manager, missing: list[str]) -> None:
    """Warnings and changes. Raises BackupError."""
    if module.params["state"] == "verified":
        if manager.problems() and not module.check_mode:
            raise BackupError("; ".join(manager.problems()))
        if not module.check_mode:
            manager.check()
        return
    if missing and not module.check_mode:
        try:
            manager.apply()
        except PgBackRestError as error:
            if len(missing) == len(manager.found):
                raise
            module.warn(f"{module.params['service']}: {error}")


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        manager = Manager(module.params, connect(module))
        before, missing = manager.found, manager.plan()
        carry_out(module, manager, missing)
    except (BackupError, HttpError) as error:
        module.fail_json(msg=f"{module.params['service']}: {error}")
    made = missing if module.check_mode else [name for name in missing if manager.found[name].created]
    shown = {"before": _shown(before, []), "after": _shown(before, made)}
    changed = bool(made) and module.params["state"] == "present"
    module.exit_json(changed=changed, repositories=_summary(manager.found), diff=shown)


def _shown(found: dict[str, Repository], made: list[str]) -> str:
    return "".join(f"{name}\n" for name, repository in found.items() if repository.created or name in made)


def _summary(found: dict[str, Repository]) -> dict[str, Any]:
    return {
        name: {
            "problem": repository.problem,
            "sets": [backup.label for backup in repository.backups],
            "wal_min": repository.wal_min,
            "wal_max": repository.wal_max,
        }
        for name, repository in found.items()
    }


if __name__ == "__main__":
    main()
