#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Rehearse a restore: mark a moment of the source, compare the copy with it, write down what came of it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_drill
short_description: Rehearse a restore and write down what came of it
description:
  - C(marked) counts and hashes the workflows and the finished executions of the source, names the moment at which that
    was so, and waits until the write-ahead log of this moment is archived. Nothing of the source is changed.
  - C(archived) only waits until the log of what has happened until now is archived. What hinders that is a warning,
    since a restore is needed most where something is broken. A server of which the repositories hold nothing, such as
    an empty one in the place of lost data, has nothing to archive.
  - C(compared) does the same in the copy, which was restored to that moment, before n8n starts there.
  - C(decrypted) lets n8n decrypt every credential of the copy. No credential is returned.
  - C(recorded) writes the outcome where metrics and C(verify) read it.
options:
  state:
    description: What is done, see above.
    type: str
    choices: [marked, archived, compared, decrypted, recorded]
    required: true
  project:
    description: Compose project; of the source for C(marked), else of the copy.
    type: str
  reference:
    description: Result C(reference) of C(marked).
    type: dict
  state_root:
    description: The source's folder of state. C(recorded) only.
    type: path
  environment:
    description: The source's name. C(recorded) only.
    type: str
  problem:
    description: What went wrong; empty for a drill that succeeded. C(recorded) only.
    type: str
    default: ""
  service:
    description: Service of n8n's database.
    type: str
    default: postgres-n8n
  timeout:
    description: Seconds for the log to be archived.
    type: int
    default: 180
attributes:
  check_mode:
    support: full
    description: Nothing is done.
  diff_mode:
    support: none
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: Mark a moment
  platform_drill: {state: marked, project: n8n-production}
  register: marked

- name: Compare the copy with it
  platform_drill: {state: compared, project: n8n-production-scratch, reference: "{{ marked.reference }}"}
"""

RETURN = r"""
reference:
  description:
    - "{started, time, until, loss_seconds, tables: {name: {rows, hash}}}; times in ISO 8601."
    - C(loss_seconds) is how much work was not archived yet at most, had the host been lost just then.
  returned: when marked
  type: dict
archived:
  description: Whether nothing of the source is left that is not archived.
  returned: when archived
  type: bool
credentials:
  description: How many were decrypted.
  returned: when decrypted
  type: int
seconds:
  description: From the mark to now.
  returned: when recorded
  type: float
"""

import json
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.backup_state import Log, State
from ansible.module_utils.n8n_platform.engine import Engine, output_in
from ansible.module_utils.n8n_platform.http import HttpError

_STATES = ("marked", "archived", "compared", "decrypted", "recorded")
_ATTEMPTS = 10
# A repository that refuses connections is asked again and again.
_IN_TIME = ("timeout", "60")
_POLL_SECONDS = 0.5
_NOT_ARCHIVED = (
    "of the last moments only what is archived can be restored. In place the rest stays in the data from before until "
    "the next good daily or weekly backup, with restore_discard_previous, too"
)
# Sums of hashes do not depend on the order of rows. What is still running would change under our hands.
_TABLES = {
    "workflow_entity": "SELECT w::text AS row FROM workflow_entity w",
    "credentials_entity": "SELECT c::text AS row FROM credentials_entity c",
    "execution_entity": """SELECT e::text || md5(coalesce(d.data::text, '')) AS row FROM execution_entity e
        LEFT JOIN execution_data d ON d."executionId" = e.id WHERE e."stoppedAt" < '{until}'""",
}
_COUNT = """SELECT json_build_object('rows', count(*), 'hash', coalesce(sum(hashtextextended(row, 0)), 0)::text)
    FROM ({}) t"""
_UNARCHIVED = """SELECT json_build_object(
    'age', extract(epoch FROM clock_timestamp() - coalesce(last_archived_time, pg_postmaster_start_time())),
    'waits', coalesce((SELECT extract(epoch FROM clock_timestamp() - min(modification)) FROM pg_ls_archive_statusdir()
        WHERE name LIKE '%.ready'), 0),
    'timeout', (SELECT setting::int FROM pg_settings WHERE name = 'archive_timeout')) FROM pg_stat_archiver"""
# A restore to a time ends at the first commit after it, so there has to be one.
_COMMIT = "BEGIN; SELECT pg_current_xact_id(); COMMIT; SELECT pg_walfile_name(pg_switch_wal())"
_ARCHIVED = "SELECT coalesce(last_archived_wal, '') >= '{segment}' FROM pg_stat_archiver"
_DECRYPT = r"""
set -eu
umask 077
file=$(mktemp -p /tmp)
trap 'rm -f "$file"' EXIT
n8n export:credentials --all --decrypted --output="$file" >/dev/null 2>&1 || true
node -e '
const found = JSON.parse(require("fs").readFileSync(process.argv[1], "utf8") || "[]");
console.log(found.filter((one) => one.data && typeof one.data === "object").length);
' "$file"
"""


class DrillError(Exception):
    """The copy is not what the source was, or one of them cannot be asked."""


def build_spec() -> dict[str, Any]:
    return {
        "state": {
            "type": "str",
            "choices": list(_STATES),
            "required": True,
        },
        "project": {"type": "str"},
        "reference": {"type": "dict"},
        "state_root": {"type": "path"},
        "environment": {"type": "str"},
        "problem": {"type": "str", "default": ""},
        "service": {"type": "str", "default": "postgres-n8n"},
        "timeout": {"type": "int", "default": 180},
    }


class Manager:
    """Raises DrillError, HttpError."""

    def __init__(self, params: dict[str, Any], engine: Engine) -> None:
        self.params = params
        self.engine = engine
        self.warnings: list[str] = []

    def plan(self) -> str:
        return str(self.params["state"])

    def apply(self, state: str) -> dict[str, Any]:
        return {
            "marked": self._mark,
            "archived": self._archive_running,
            "compared": self._compare,
            "decrypted": self._decrypt,
            "recorded": self._record,
        }[state]()

    def _mark(self) -> dict[str, Any]:
        loss = self._loss()
        started = datetime.now(timezone.utc).isoformat()
        for _ in range(_ATTEMPTS):
            until = self._sql("SELECT clock_timestamp() - interval '1 second'")
            before = self._tables(until)
            if not before["credentials_entity"]["rows"]:
                raise DrillError(
                    "there is no credential that a copy could decrypt: site.yml leaves one in n8n"
                )
            moment = self._sql(
                "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
            )
            if self._tables(until) == before:
                self._archive()
                reference = {"started": started, "time": moment, "until": until, "loss_seconds": loss}
                return {"reference": {**reference, "tables": before}}
        raise DrillError(f"workflows or finished executions changed during each of {_ATTEMPTS} looks at them")

    def _loss(self) -> float:
        """Seconds of work that the archive lacks at most. A server that writes ends its segment within the timeout, so
        one that has ended none for longer had nothing to archive."""
        found = json.loads(self._sql(_UNARCHIVED))
        age, waits, timeout = (float(found[key]) for key in ("age", "waits", "timeout"))
        return min(age, waits + timeout) if timeout else age

    def _archive_running(self) -> dict[str, Any]:
        try:
            container = self.engine.service(self.params["project"], self.params["service"])
            state = container["State"] if container else {}
            if state.get("Health", {}).get("Status") != "healthy":
                raise DrillError(f"{self.params['service']} does not serve")
            if self._is_archived():
                self._archive()
        except (DrillError, HttpError, ValueError) as error:
            self.warnings.append(f"{error}: {_NOT_ARCHIVED}")
        return {"archived": not self.warnings}

    def _is_archived(self) -> bool:
        """Whether the repositories are of this server, by the number that initdb gave it."""
        found = json.loads(
            self._execute(self.params["service"], [*_IN_TIME, "pgbackrest", "info", "--output=json"])
        )
        known = {str(database["system-id"]) for stanza in found for database in stanza["db"]}
        return self._sql("SELECT system_identifier FROM pg_control_system()", "postgres") in known

    def _archive(self) -> None:
        # The log is of all databases, and n8n's may be what was lost.
        segment = self._sql(_COMMIT, "postgres").splitlines()[-1]
        deadline = time.monotonic() + self.params["timeout"]
        while self._sql(_ARCHIVED.format(segment=segment), "postgres") != "t":
            if time.monotonic() > deadline:
                raise DrillError(
                    f"the write-ahead log {segment} was not archived within {self.params['timeout']} s"
                )
            time.sleep(_POLL_SECONDS)

    def _compare(self) -> dict[str, Any]:
        reference = self.params["reference"]
        found = self._tables(reference["until"])
        wrong = [
            f"{name} has {found[name]['rows']} rows, the source had {wanted['rows']}"
            if found[name]["rows"] != wanted["rows"]
            else f"{name} has as many rows as the source, {wanted['rows']}, but other content"
            for name, wanted in reference["tables"].items()
            if found[name] != wanted
        ]
        if wrong:
            raise DrillError(f"the copy differs from the source at {reference['time']}: {'; '.join(wrong)}")
        return {}

    def _decrypt(self) -> dict[str, Any]:
        wanted = int(self._sql("SELECT count(*) FROM credentials_entity"))
        found = int(self._execute("n8n-main", ["sh", "-c", _DECRYPT])) if wanted else 0
        if found != wanted:
            raise DrillError(f"{found} of {wanted} credentials could be decrypted in the copy")
        return {"credentials": found}

    def _record(self) -> dict[str, Any]:
        root, now = Path(self.params["state_root"]), datetime.now(timezone.utc)
        reference = self.params["reference"] or {"started": now.isoformat(), "loss_seconds": None}
        seconds = round((now - datetime.fromisoformat(reference["started"])).total_seconds(), 1)
        problem = self.params["problem"]
        drill = {"finished": now.isoformat(), "ok": not problem, "problem": problem, "seconds": seconds}
        drill["loss_seconds"] = reference["loss_seconds"]
        state = State(root)
        state.update(drill=drill)
        state.write_metrics(self.params["environment"])
        Log(root).write("drill", level="error" if problem else "info", **drill)
        return {"seconds": seconds}

    def _tables(self, until: str) -> dict[str, Any]:
        return {
            name: json.loads(self._sql(_COUNT.format(query.format(until=until))))
            for name, query in _TABLES.items()
        }

    def _sql(self, query: str, database: str = "n8n") -> str:
        argv = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database]
        return self._execute(self.params["service"], [*argv, "-c", "SET statement_timeout = 0", "-c", query])

    def _execute(self, service: str, argv: list[str]) -> str:
        return output_in(self.engine, self.params["project"], service, argv, DrillError)


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    manager = Manager(module.params, Engine(timeout=3600.0))
    try:
        found = {} if module.check_mode else manager.apply(manager.plan())
    except (DrillError, HttpError) as error:
        module.fail_json(msg=f"drill: {error}")
    for text in manager.warnings:
        module.warn(text)
    module.exit_json(changed=module.params["state"] == "recorded", **found)


if __name__ == "__main__":
    main()
