#!/usr/bin/python
"""The data of a Postgres instance from a pgBackRest repository, beside what is there and then in its place."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_restore
short_description: Restore a Postgres instance from a pgBackRest repository
description:
  - A restore writes the next generation of the data beside the one in use, recovers it there to the newest or to
    a given moment, and looks at it, in containers that nobody reaches and that archive nothing. Then one file,
    C(current), is changed. A failure or kill before that leaves the old data as they were; the old generation stays
    until V(discarded).
  - Refused are, before anything is written, a wrong passphrase, another major version, too little room. Damaged files
    and missing WAL end the restore.
  - Does nothing a second time for the same recovery directory.
options:
  name:
    description: Name of the instance, and of the stanza.
    type: str
    required: true
  directory:
    description: >-
      Recovery directory, made by M(platform_recovery); C(keys/pgbackrest_<name>) in it is pgBackRest's configuration,
      C(keys/s3-ca.pem) may be the store's authority.
    type: path
    required: true
  volume:
    description: The instance's volume on the host.
    type: path
    required: true
  project:
    description: Compose project of the container that must not run while the data are switched.
    type: str
    required: true
  environment:
    description: Name of the environment, for the labels of the containers.
    type: str
    required: true
  image:
    description: Image of the server.
    type: str
    required: true
  major:
    description: Its major version.
    type: str
    required: true
  state:
    description:
      - V(restored) is V(prepared) and V(switched).
      - V(prepared) restores beside; the server may run meanwhile.
      - V(switched) makes the server's next start use it.
      - V(reverted) goes back to the former generation, on a timeline of its own, and removes what was restored beside.
        Of a volume that held no data before, the restored ones stay in use, with a warning. Where the former generation
        was removed, it is refused.
      - V(discarded) removes all generations but the one in use, and those that were not O(archived).
    type: str
    choices: [restored, prepared, switched, reverted, discarded]
    default: restored
  definition:
    description: Definition of the source's backups; without it C(keys/backup.json) in the recovery directory.
    type: str
    default: ""
  repository:
    description: Which one.
    type: str
    choices: [local, s3]
    default: local
  time:
    description: Moment, ISO 8601 with a zone; empty for the newest.
    type: str
    default: ""
  run:
    description:
      - Backup run whose set is taken, as it was at its end. With O(time) it says nothing.
      - Empty for the newest set that fits, and the log from there to the newest moment.
    type: str
    default: ""
  timeline:
    description:
      - Which timeline is followed, as Postgres takes it. V(latest) follows the last restore in place; a moment that
        only the history before it has is refused then, and only sets are taken that it can be reached from.
      - Another one than that of the restore begun in O(directory) is refused.
    type: str
    default: latest
  archives:
    description: Whether the restored server will archive into this repository.
    type: bool
    default: true
  archived:
    description: >-
      Whether all that the data in use hold is in the archive. V(switched) writes it down beside them: what is not is
      nowhere else, and stays, whatever is asked later, until the next good set removes it.
    type: bool
    default: true
  processes:
    description: Processes that copy and decompress.
    type: int
    default: 2
  timeout:
    description: Seconds that each of restore and recovery may take.
    type: int
    default: 7200
attributes:
  check_mode:
    support: full
    description: Reads the repository and refuses what could not be restored; without a recovery directory it cannot.
  diff_mode:
    support: full
    description: The generation in use.
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: restore | Restore the data
  postgres_restore:
    name: n8n
    directory: /var/lib/n8n-platform/local/state/recovery
    volume: /var/lib/n8n-platform/local/volumes/postgres-n8n
    project: n8n-local
    environment: local
    image: n8n-platform/postgres:0123456789ab
    major: "17"
    time: 2026-11-22T09:59:59Z
"""

RETURN = r"""
recovered:
  description: >-
    C(label), C(generation), C(previous), C(last_transaction), C(last_lsn), C(timeline), C(restore_seconds),
    C(recovery_seconds), ...; empty when nothing was restored.
  returned: success
  type: dict
"""

import json
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform import postgres_generations, recovery
from ansible.module_utils.n8n_platform.backup import BackupError
from ansible.module_utils.n8n_platform.engine import NETWORK_LABEL, Engine, EngineError
from ansible.module_utils.n8n_platform.engine_run import OneShots
from ansible.module_utils.n8n_platform.files import write_file
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.postgres_choice import Request
from ansible.module_utils.n8n_platform.postgres_recovery import Recovery, undo_branch
from ansible.module_utils.n8n_platform.recovery_fetch import Directory


def build_spec() -> dict[str, Any]:
    texts = ("name", "project", "environment", "image", "major")
    optional = ("definition", "time", "run")
    return {
        **{name: {"type": "str", "required": True} for name in texts},
        **{name: {"type": "path", "required": True} for name in ("directory", "volume")},
        **{name: {"type": "str", "default": ""} for name in optional},
        "state": {
            "type": "str",
            "choices": ["restored", "prepared", "switched", "reverted", "discarded"],
            "default": "restored",
        },
        "repository": {"type": "str", "choices": ["local", "s3"], "default": "local"},
        "timeline": {"type": "str", "default": "latest"},
        **{name: {"type": "bool", "default": True} for name in ("archives", "archived")},
        "processes": {"type": "int", "default": 2},
        "timeout": {"type": "int", "default": 7200},
    }


class Manager:
    """Steps are `prepare`, `switch`, `revert`, `abandon`, `discard`; what is done stands in
    `<directory>/postgres-<name>.json`.

    Raises BackupError.
    """

    def __init__(self, params: dict[str, Any], engine: Engine) -> None:
        self.params = params
        self.engine = engine
        self.directory = Directory(Path(params["directory"]))
        self.volume = Path(params["volume"])
        self.file = self.directory.path / f"postgres-{params['name']}.json"
        self.warnings: list[str] = []
        self.record: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}

    def plan(self) -> list[str]:
        state, switched = self.params["state"], self._switched()
        if state == "discarded":
            return ["discard"] if self._discarded() else []
        if state == "reverted":
            beside = postgres_generations.staged(self.volume, self.params["major"]).exists()
            return ["revert"] * (switched or bool(self.record.get("reverting"))) + ["abandon"] * beside
        prepare = [] if self.record else ["prepare"]
        switch = [] if switched else ["switch"]
        return {"prepared": prepare, "switched": switch, "restored": prepare + switch}[state]

    def _switched(self) -> bool:
        # What the next start uses, not what was written down about it: a kill falls between the two.
        generation = self.record.get("generation")
        return bool(generation) and postgres_generations.current_generation(self.volume) == generation

    def check(self, steps: list[str]) -> None:
        """Refuses what could not be done; reads only."""
        service = f"postgres-{self.params['name']}"
        if "revert" in steps:
            postgres_generations.refuse_removed(self.volume, self.record.get("previous", ""))
        running = self.engine.service(self.params["project"], service)
        if running and running["State"]["Running"] and {"switch", "revert"} & {*steps}:
            raise BackupError(
                f"{service} runs on {self.volume}: stop it first; restored beside it is with state=prepared"
            )
        if "switch" in steps and "prepare" not in steps and not self.record:
            raise BackupError(f"{service}: nothing is prepared in {self.file}")
        followed = self.record.get("followed", self.params["timeline"])
        if (
            self.params["state"] in ("restored", "prepared", "switched")
            and followed != self.params["timeline"]
        ):
            raise BackupError(
                f"restore_timeline: {self.file} holds a restore along {followed} that was begun; continue it, or "
                "take it away first (restore_target=remove, in place restore_target=back)"
            )
        if "prepare" in steps and self.directory.keys.is_dir():
            self._recovery().choose()

    def apply(self, steps: list[str]) -> None:
        if {*steps} & {"prepare", "revert", "abandon"}:
            # The container of a killed run goes on, and would write what these steps change.
            self._oneshots().remove_left_over()
        for step in steps:
            {
                "prepare": self._prepare,
                "switch": self._switch,
                "revert": self._revert,
                "abandon": self._abandon,
                "discard": self._discard,
            }[step]()

    def _prepare(self) -> None:
        self._write({**asdict(self._recovery().prepare()), "followed": self.params["timeline"]})

    def _switch(self) -> None:
        worker = self._recovery()
        if "generation" not in self.record:
            # Decided before the first change, so that a killed switch goes on instead of beginning again.
            self._write({**self.record, **worker.plan_switch()})
        # Of what is in use until here; who asks later is told of the restored data.
        postgres_generations.set_archived(self.volume, self.record["previous"], self.params["archived"])
        worker.switch(self.record["generation"])

    def _revert(self) -> None:
        previous = self.record["previous"]
        if not previous:
            # Of a volume that was lost. Files and queue have a way back, which must not end here.
            self.warnings.append(
                f"{self.volume} held no data before: the restored ones, {self.record['generation']}, stay in use"
            )
            return
        self._write({**self.record, "reverting": True})
        undo_branch(self.volume, previous)
        postgres_generations.write_current(self.volume, previous)
        postgres_generations.set_archived(self.volume, previous, True)
        if self.params["archives"]:
            self._branch_off(previous)
        self._write({name: value for name, value in self.record.items() if name != "reverting"})

    def _branch_off(self, previous: str) -> None:
        try:
            timeline = self._recovery().branch_off(previous)
        except (BackupError, EngineError, HttpError, OSError, ValueError) as error:
            # Going back must not depend on a repository: these data start as they are.
            number = postgres_generations.timeline(self.volume / previous) or "<its number>"
            self.warnings.append(
                f"{previous} is in use again, but on its former timeline ({error}): until another restore in place, "
                f"restore with restore_timeline={number}"
            )
            return
        self._write({**self.record, "timeline_after_revert": timeline})

    def _abandon(self) -> None:
        postgres_generations.discard_staged(self.volume, self.params["major"])

    def _discard(self) -> None:
        for path in self._discarded():
            postgres_generations.remove(path)

    def _discarded(self) -> list[Path]:
        found = postgres_generations.former_generations(self.volume)
        gone = [path for path in found if postgres_generations.is_archived(path)]
        self.warnings = [
            f"{path} is not all in the archive, and stays until the next good daily or weekly backup"
            for path in found
            if path not in gone
        ]
        return [*postgres_generations.half_removed(self.volume), *gone]

    def _write(self, record: dict[str, Any]) -> None:
        write_file(self.file, json.dumps(record), mode=0o600)
        self.record = record

    def _recovery(self) -> Recovery:
        return Recovery(self._oneshots(), self._request())

    def _oneshots(self) -> OneShots:
        return OneShots(self.engine, self.params["environment"], "restore")

    def _request(self) -> Request:
        params, keys = self.params, self.directory.keys
        path = Path(params["definition"] or keys / "backup.json")
        try:
            source = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BackupError(f"definition: {path} cannot be read: {error}") from None
        authority = keys / "s3-ca.pem"
        return Request(
            stanza=params["name"],
            major=params["major"],
            repository=params["repository"],
            volume=self.volume,
            configuration=keys / f"pgbackrest_{params['name']}",
            repository_path=Path(source["backup_root"]) / "pgbackrest",
            image=params["image"],
            ca_file=authority if authority.exists() else None,
            network=self._network((source.get("s3") or {}).get("network", "")),
            time=recovery.parse_time(params["time"], datetime.now(timezone.utc)),
            label=self._label(),
            at_set=bool(self._label()),
            timeline=params["timeline"],
            archives=params["archives"],
            processes=params["processes"],
            seconds=params["timeout"],
        )

    def _label(self) -> str:
        if self.params["time"] or not self.params["run"]:
            return ""
        sets = self.directory.manifest().get("pgbackrest", {}).get(self.params["name"]) or {}
        label = sets.get(self.params["repository"])
        if not label:
            raise BackupError(
                f"run {self.params['run']}: has no set of {self.params['name']} in {self.params['repository']}"
            )
        return str(label)

    def _network(self, wanted: str) -> str:
        """The source's, where the engine has it; on an empty host any that leads out."""
        found = self.engine.networks({NETWORK_LABEL: None})
        return wanted if any(network["Name"] == wanted for network in found) else "bridge"


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    volume = Path(module.params["volume"])
    try:
        before = postgres_generations.current_generation(volume)
        manager = Manager(module.params, Engine())
        steps = manager.plan()
        manager.check(steps)
        if not module.check_mode:
            manager.apply(steps)
        after = postgres_generations.current_generation(volume)
    except (BackupError, EngineError, HttpError, OSError) as error:
        module.fail_json(msg=f"postgres-{module.params['name']}: {error}")
    for text in manager.warnings:
        module.warn(f"postgres-{module.params['name']}: {text}")
    diff = {"before": f"{before}\n", "after": f"{after}\n"}
    module.exit_json(changed=bool(steps), recovered=manager.record, diff=diff)


if __name__ == "__main__":
    main()
