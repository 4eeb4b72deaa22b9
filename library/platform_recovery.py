#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Choose, judge and fetch the backup that an environment is brought up from."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_recovery
short_description: Choose, judge and fetch the backup that an environment is brought up from
description:
  - Reads the source by its definition and its keys. Refuses a backup without a whole manifest, of another key, of
    another major version of Postgres or of a newer n8n, and a host without room, before anything is written.
  - What is fetched is compared with the manifest. A killed run goes on from where it was.
options:
  state:
    description:
      - C(chosen) chooses and judges, and writes nothing.
      - C(fetched) also restores the run's snapshot into O(directory).
      - C(placed) puts the fetched directories where this environment has them; what was there is kept beside them.
      - C(reverted) puts back what C(placed) has replaced, C(discarded) removes it.
      - C(returning) says in C(<directory>.returning) that it is being taken back; C(chosen) and C(fetched) refuse then.
      - C(settled) says that what was before will be removed; then C(returning) refuses.
      - C(finished) writes how long it took to O(reports), and removes O(directory) with the keys in it.
    type: str
    choices: [chosen, fetched, placed, reverted, discarded, returning, settled, finished]
    default: fetched
  definition:
    description: The source's C(backup.json) on the target. Not there, the one in O(directory)/keys is used.
    type: path
    required: true
  directory:
    description: Recovery directory, for root only.
    type: path
    required: true
  source_environment:
    description: Name of the environment whose backup it is.
    type: str
    required: true
  repository:
    description: Which copy is read.
    type: str
    choices: [local, s3]
    default: local
  run:
    description: Id of the run; empty for the one begun in O(directory), else the newest that is whole.
    type: str
    default: ""
  time:
    description:
      - Point in time that Postgres is restored to, ISO 8601 with a zone; empty for the newest state.
      - Another one than that of the restore begun in O(directory) is refused.
    type: str
    default: ""
  parts:
    description:
      - What is restored into an environment that has data, C(databases) or names of the run's items; empty for all.
      - A name that the run does not hold is refused.
    type: list
    elements: str
    default: []
  backup_image:
    description: Image of the tools. C(fetched) only.
    type: str
    default: ""
  n8n_version:
    description: Version that will run here; a backup of a newer one is refused.
    type: str
    default: ""
  postgres_major:
    description: Major version that will run here; a backup of another one is refused.
    type: str
    default: ""
  volumes_root:
    description: Folder of this environment's volumes.
    type: path
    required: true
  data_root:
    description: Folder of this environment.
    type: path
    required: true
  reports:
    description: Folder of the reports. C(finished) only.
    type: path
attributes:
  check_mode:
    support: full
    description: Chooses and judges, says what would be fetched.
  diff_mode:
    support: full
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: fetch | Fetch the backup
  platform_recovery:
    definition: /var/lib/n8n-platform/production/state/backup.json
    directory: /var/lib/n8n-platform/production-scratch/state/recovery
    source_environment: production
    time: "2026-11-22T10:00:00Z"
    backup_image: n8n-platform/backup:0123456789ab
    n8n_version: 2.41.1
    postgres_major: "17"
    volumes_root: /var/lib/n8n-platform/production-scratch/volumes
    data_root: /var/lib/n8n-platform/production-scratch
"""

RETURN = r"""
run:
  description: Id of the run that was chosen.
  returned: success
  type: str
finished:
  description: When that run ended, ISO 8601.
  returned: success
  type: str
manifest:
  description: The run's manifest.
  returned: success
  type: dict
seconds:
  description: From the first key to now.
  returned: when finished
  type: float
passed_over:
  description: Newer runs that are damaged or incomplete, and why.
  returned: success
  type: list
  elements: str
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform import recovery_fetch
from ansible.module_utils.n8n_platform.backup import BackupError
from ansible.module_utils.n8n_platform.backup_manifest import Set, local_sets
from ansible.module_utils.n8n_platform.backup_offsite import Offsite
from ansible.module_utils.n8n_platform.engine import NETWORK_LABEL, Engine
from ansible.module_utils.n8n_platform.engine_run import OneShots
from ansible.module_utils.n8n_platform.files import memory_directory, write_file
from ansible.module_utils.n8n_platform.postgres_generations import refuse_removed
from ansible.module_utils.n8n_platform.recovery import (
    ENCRYPTION_KEY,
    RecoveryError,
    SourceDefinition,
    Wanted,
    choose,
    parse_time,
    problems,
)
from ansible.module_utils.n8n_platform.restic import Restic

_STATES = ("chosen", "fetched", "placed", "reverted", "discarded", "returning", "settled", "finished")
# Kinds of items that can be restored by their name, and the word for all databases.
_PARTS = ("directory", "redis_rdb", "openbao_snapshot")
_DATABASES = "databases"
# Step after which there is no way back.
_SETTLED = "settled"
# A network that every engine has, for a bucket elsewhere.
_ANY_NETWORK = "bridge"


def build_spec() -> dict[str, Any]:
    texts = ("run", "time", "backup_image", "n8n_version", "postgres_major")
    paths = ("definition", "directory", "volumes_root", "data_root")
    return {
        "state": {"type": "str", "choices": list(_STATES), "default": "fetched"},
        **{name: {"type": "path", "required": True} for name in paths},
        "source_environment": {"type": "str", "required": True},
        "repository": {"type": "str", "choices": ["local", "s3"], "default": "local"},
        **{name: {"type": "str", "default": ""} for name in texts},
        "parts": {"type": "list", "elements": "str", "default": []},
        "reports": {"type": "path"},
    }


class Manager:
    """Raises BackupError."""

    def __init__(self, params: dict[str, Any], engine: Engine, now: datetime) -> None:
        self.params = params
        self.now = now
        self.engine = engine
        self.directory = recovery_fetch.Directory(Path(params["directory"]))
        self.values = self._read_definition()
        self.passed_over: list[str] = []
        self.result: dict[str, Any] = {}
        self.moment = ""
        self.manifest: dict[str, Any] = {}

    def plan(self) -> list[str]:
        """What there is to do. Raises RecoveryError for what must not be restored."""
        if self.params["state"] in ("placed", "reverted", "discarded"):
            if not self.directory.run():
                return []
            self.manifest = self.directory.manifest()
            return [f"{self.params['state']} {target}" for _, target in self._open()]
        if self.params["state"] in ("returning", "settled"):
            return self._say()
        if self.params["state"] == "finished":
            self.manifest = self.directory.manifest()
            return [f"finish the restore of run {self.manifest['run']}"]
        self.manifest = self._choose()
        if self.params["state"] == "chosen" or self._is_fetched():
            return []
        recovery_fetch.check_room(self.manifest, self.directory.path, Path(self.params["volumes_root"]))
        return [f"fetch run {self.manifest['run']} from the {self.params['repository']} repository"]

    def apply(self, steps: list[str]) -> None:
        if self.params["state"] in ("placed", "reverted", "discarded"):
            for name, target in self._open():
                self._move(name, target)
        elif self.params["state"] == "returning":
            write_file(self.directory.returning, "", mode=0o600)
        elif self.params["state"] == "settled":
            self.directory.mark(_SETTLED)
        elif self.params["state"] == "finished":
            self.result = recovery_fetch.finish(self.directory, Path(self.params["reports"]), self.now)
        elif steps:
            self.directory.take_keys(self.values)
            self.directory.begin(self.manifest, self.moment)
            definition = self._definition(self.directory.keys)
            oneshots = OneShots(self.engine, definition.environment, "restore")
            restic = Restic(definition, oneshots, self.params["repository"], read_only=True)
            recovery_fetch.fetch(self.directory, restic, self.manifest, definition.limit("restore"))

    def _say(self) -> list[str]:
        if not self.directory.run():
            return []
        if self.params["state"] == "settled":
            return [] if self.directory.done(_SETTLED) else ["close the way back"]
        if self.directory.done(_SETTLED):
            raise RecoveryError(
                f"{self.directory.path}: what was before is being removed; repeat the restore"
            )
        for path in sorted(self.directory.path.glob("postgres-*.json")):
            volume = Path(self.params["volumes_root"]) / path.stem
            refuse_removed(volume, json.loads(path.read_text()).get("previous", ""))
        return [] if self.directory.returning.exists() else ["begin the way back"]

    def _open(self) -> list[tuple[str, Path]]:
        """The directories that are still to be moved, those around others first."""
        source = self._definition(self.directory.keys)
        roots = (Path(self.params[name]) for name in ("volumes_root", "data_root"))
        parts, done = self.params["parts"], self.directory.done
        found = recovery_fetch.places(self.directory, source, *roots).items()
        if self.params["state"] == "placed":
            wanted = [pair for pair in found if pair[0] in (parts or [pair[0]])]
            return sorted(pair for pair in wanted if not done(f"placed-{pair[0]}"))
        return sorted(
            pair for pair in found if done(f"kept-{pair[0]}") and recovery_fetch.former(pair[1]).exists()
        )

    def _move(self, name: str, target: Path) -> None:
        if self.params["state"] == "placed":
            recovery_fetch.place(self.directory, name, target)
        elif self.params["state"] == "reverted":
            recovery_fetch.put_back(self.directory, name, target)
        else:
            recovery_fetch.discard_former(target)

    def _is_fetched(self) -> bool:
        return self.directory.done("fetched") and self.directory.run() == self.manifest["run"]

    def _choose(self) -> dict[str, Any]:
        moment = parse_time(self.params["time"], self.now)
        self.moment = moment.isoformat() if moment else ""
        self.directory.refuse_other(self.params["run"], self.moment)
        wanted = Wanted(
            environment=self.params["source_environment"],
            run=self.params["run"] or self.directory.run(),
            time=moment,
            n8n=self.params["n8n_version"],
            postgres=self.params["postgres_major"],
        )
        manifest, self.passed_over = choose(self._sets(), wanted)
        if found := problems(manifest, wanted, self._key_file()):
            raise RecoveryError(f"run {manifest['run']} cannot be restored here: {'; '.join(found)}")
        held = [_DATABASES, *(item["name"] for item in manifest["items"] if item["kind"] in _PARTS)]
        if unknown := [part for part in self.params["parts"] if part not in held]:
            raise RecoveryError(
                f"restore_parts: run {manifest['run']} holds no {', '.join(unknown)}, only {', '.join(held)}"
            )
        return manifest

    def _key_file(self) -> Path:
        taken = self.directory.keys / ENCRYPTION_KEY
        root, below = recovery_fetch.SOURCE_KEYS[ENCRYPTION_KEY]
        path = taken if self.directory.holds_keys() and taken.exists() else Path(self.values[root]) / below
        if not path.is_file():
            raise RecoveryError(
                f"{ENCRYPTION_KEY}: neither {taken} nor {path} is there: a backup needs its key"
            )
        return path

    def _sets(self) -> list[Set]:
        if self.params["repository"] == "local":
            return local_sets(self._definition(self.directory.keys).runs)
        with self._keys() as keys:
            source = self._definition(keys)
            oneshots = OneShots(self.engine, source.environment, "restore")
            return Offsite(source, oneshots).sets()

    @contextmanager
    def _keys(self) -> Iterator[Path]:
        """Where they are read from before it is known whether anything is restored: nothing of them may stay."""
        if self.directory.holds_keys():
            yield self.directory.keys
            return
        with tempfile.TemporaryDirectory(dir=memory_directory(), prefix="n8n-platform-keys-") as folder:
            recovery_fetch.copy_keys(self.values, Path(folder))
            yield Path(folder)

    def _definition(self, keys: Path) -> SourceDefinition:
        values = dict(self.values)
        if values.get("s3"):
            values["s3"] = self._reachable(dict(values["s3"]), keys)
        return SourceDefinition(values, keys, self.params["backup_image"])

    def _reachable(self, s3: dict[str, Any], keys: Path) -> dict[str, Any]:
        """The bucket as it is reached from here: on an empty host the source's network and folders are not there."""
        names = {network["Name"] for network in self.engine.networks({NETWORK_LABEL: None})}
        authority = keys / "s3-ca.pem"
        if s3.get("network") not in names:
            s3["network"] = _ANY_NETWORK
        if s3.get("ca_file") and authority.exists():
            s3["ca_file"] = str(authority)
        return s3

    def _read_definition(self) -> dict[str, Any]:
        for path in (self.directory.keys / recovery_fetch.DEFINITION, Path(self.params["definition"])):
            if path.is_file():
                found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                return found
        raise RecoveryError(
            f"{self.params['definition']} is not there: this host has no backups of "
            f"{self.params['source_environment']}. On an empty host use recover.yml with a bundle of keys"
        )


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        manager = Manager(module.params, Engine(), datetime.now(timezone.utc))
        steps = manager.plan()
        if not module.check_mode:
            manager.apply(steps)
    except BackupError as error:
        module.fail_json(msg=str(error), code=int(error.code))
    for text in manager.passed_over:
        module.warn(f"passed over: {text}")
    module.exit_json(
        changed=bool(steps),
        run=manager.manifest.get("run", ""),
        finished=manager.manifest.get("finished", ""),
        manifest=manager.manifest,
        passed_over=manager.passed_over,
        **manager.result,
        diff={"before": "", "after": "".join(f"{step}\n" for step in steps)},
    )


if __name__ == "__main__":
    main()
