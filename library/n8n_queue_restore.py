#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Bring n8n's queue in line with a restored database, and list what was lost."""

from __future__ import annotations

DOCUMENTATION = r"""
module: n8n_queue_restore
short_description: Bring n8n's queue in line with a restored database, and list what was lost
description:
  - Queue and database are never of the same moment. A job whose execution has ended since would run a second time,
    one whose execution the database does not know can only fail. Both are taken out of the queue, and so is what a
    worker was at, since n8n does not resume it.
  - Executions that the database takes for queued or running, but for which no job is left, will be marked as crashed
    by n8n. They and the jobs taken out are written to O(reports)/<run>/lost-jobs.json, for somebody to run again what
    has to be.
  - Runs while nothing of n8n runs.
options:
  project:
    description: Compose project.
    type: str
    required: true
  empty:
    description: Take out every job, as after a restore of Postgres to an earlier moment.
    type: bool
    default: false
  directory:
    description: Recovery directory. Done once per recovery.
    type: path
    required: true
  reports:
    description: Folder of the reports.
    type: path
    required: true
  postgres_service:
    description: Service of n8n's database.
    type: str
    default: postgres-n8n
  redis_service:
    description: Service of the queue.
    type: str
    default: redis-queue
  prefix:
    description: Prefix of the queue's keys.
    type: str
    default: bull:jobs
attributes:
  check_mode:
    support: full
    description: Nothing is asked or changed.
  diff_mode:
    support: none
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: restore | Settle the queue
  n8n_queue_restore:
    project: n8n-local
    empty: true
    directory: /var/lib/n8n-platform/local/state/recovery
    reports: /var/backups/n8n-platform/local/restores
"""

RETURN = r"""
lost:
  description: Executions that will not be finished, and jobs taken out of the queue.
  returned: when something was done
  type: dict
  sample: {executions: 0, jobs: 0}
"""

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.backup_redis import LOGIN
from ansible.module_utils.n8n_platform.engine import Engine, EngineError, output_in
from ansible.module_utils.n8n_platform.files import write_file
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.recovery_fetch import Directory

_STEP = "queue"
# Every job of the queue as [state, id, data]; the caller's user reads all keys.
_READ = """
local jobs = {}
local function add(state, ids)
  for _, id in ipairs(ids) do
    table.insert(jobs, {state, id, redis.call('hget', KEYS[1] .. ':' .. id, 'data') or '{}'})
  end
end
for _, state in ipairs({'wait', 'paused', 'active'}) do
  add(state, redis.call('lrange', KEYS[1] .. ':' .. state, 0, -1))
end
add('delayed', redis.call('zrange', KEYS[1] .. ':delayed', 0, -1))
return cjson.encode(jobs)
"""
_REMOVE = """
for i = 1, #ARGV do
  for _, state in ipairs({'wait', 'paused', 'active'}) do
    redis.call('lrem', KEYS[1] .. ':' .. state, 0, ARGV[i])
  end
  -- Bull places a new job by how many `priority` holds: for each that is gone it would overtake one that waits.
  for _, state in ipairs({'delayed', 'priority'}) do
    redis.call('zrem', KEYS[1] .. ':' .. state, ARGV[i])
  end
  redis.call('del', KEYS[1] .. ':' .. ARGV[i], KEYS[1] .. ':' .. ARGV[i] .. ':lock')
end
return #ARGV
"""
_UNFINISHED = """
SELECT coalesce(json_agg(json_build_object('execution', id::text, 'workflow', "workflowId", 'status', status,
  'created', "createdAt") ORDER BY id), '[]') FROM execution_entity WHERE status IN ('new', 'running')
"""
_BATCH = 500


class QueueError(Exception):
    """Postgres or Redis did not do what was asked."""


def build_spec() -> dict[str, Any]:
    return {
        "project": {"type": "str", "required": True},
        "empty": {"type": "bool", "default": False},
        "directory": {"type": "path", "required": True},
        "reports": {"type": "path", "required": True},
        "postgres_service": {"type": "str", "default": "postgres-n8n"},
        "redis_service": {"type": "str", "default": "redis-queue"},
        "prefix": {"type": "str", "default": "bull:jobs"},
    }


def outdated(
    jobs: list[list[str]], unfinished: list[dict[str, Any]], empty: bool
) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """(jobs to take out as {job, state, execution, workflow}, executions without a job), see the module's description.

    jobs: [state, id, data as JSON] each; unfinished: executions that are new or running.
    """
    new = {entry["execution"] for entry in unfinished if entry["status"] == "new"}
    taken, kept = [], set()
    for state, job, data in jobs:
        content = json.loads(data)
        execution = str(content.get("executionId", ""))
        if not empty and state != "active" and execution in new and execution not in kept:
            kept.add(execution)
            continue
        workflow = str(content.get("workflowId", ""))
        taken.append({"job": job, "state": state, "execution": execution, "workflow": workflow})
    return taken, [entry for entry in unfinished if entry["execution"] not in kept]


class Manager:
    """Raises QueueError, EngineError, HttpError, OSError."""

    def __init__(self, params: dict[str, Any], engine: Engine) -> None:
        self.params = params
        self.engine = engine
        self.directory = Directory(Path(params["directory"]))

    @property
    def report(self) -> Path:
        return Path(self.params["reports"]) / self.directory.run() / "lost-jobs.json"

    def plan(self) -> list[str]:
        return [] if self.directory.done(_STEP) else ["settle the queue"]

    def apply(self) -> dict[str, int]:
        jobs = json.loads(self._redis("EVAL", _READ, "1", self.params["prefix"]))
        taken, lost = outdated(list(jobs), self._unfinished(), self.params["empty"])
        self._write(taken, lost)
        numbers = [entry["job"] for entry in taken]
        for start in range(0, len(numbers), _BATCH):
            self._redis("EVAL", _REMOVE, "1", self.params["prefix"], *numbers[start : start + _BATCH])
        self.directory.mark(_STEP)
        return {"executions": len(lost), "jobs": len(taken)}

    def _write(self, taken: list[dict[str, str]], lost: list[dict[str, Any]]) -> None:
        """Before anything is taken out. A run that was killed in between finds less, and must not shorten the list."""
        path = self.report
        if path.exists():
            former = json.loads(path.read_text(encoding="utf-8"))
            known = {entry["job"] for entry in taken}
            taken = taken + [entry for entry in former["jobs"] if entry["job"] not in known]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = {
            "version": 1,
            "created": datetime.now(timezone.utc).isoformat(),
            "executions": lost,
            "jobs": taken,
        }
        write_file(path, json.dumps(made, indent=1) + "\n", mode=0o600)

    def _unfinished(self) -> list[dict[str, Any]]:
        argv = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "n8n", "-c", _UNFINISHED]
        found: list[dict[str, Any]] = json.loads(self._execute(self.params["postgres_service"], argv))
        return found

    def _redis(self, *command: str) -> str:
        service = self.params["redis_service"]
        instance = service.removeprefix("redis-")
        password = f"/run/secrets/redis_{instance}_admin_password"
        return self._execute(service, ["sh", "-c", LOGIN, "sh", password, "admin", *command])

    def _execute(self, service: str, argv: list[str]) -> str:
        return output_in(self.engine, self.params["project"], service, argv, QueueError)


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    manager = Manager(module.params, Engine())
    steps = manager.plan()
    lost = {}
    try:
        if steps and not module.check_mode:
            lost = manager.apply()
    except (QueueError, EngineError, HttpError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(steps), lost=lost)


if __name__ == "__main__":
    main()
