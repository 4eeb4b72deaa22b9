#!/usr/bin/python
"""Ansible module: one verdict on whether n8n works."""

from __future__ import annotations

DOCUMENTATION = r"""
module: n8n_health
short_description: One structured verdict on n8n
description:
  - Looks at containers, endpoints, database, Redis, queue and disk and says what is wrong. Reads only.
  - A green HTTP check does not mean that work is done, so a queue in which jobs wait is watched until one of
    them is finished.
author: n8n platform maintainers
options:
  project:
    description: Compose project of the environment.
    type: str
    required: true
  data_stores:
    description: Services that n8n cannot do without. Of the project's others only those that exist are looked at.
    type: list
    elements: str
    default: [postgres-n8n, redis-queue]
  workers_minimum:
    description: So many slots must have worker and runner healthy.
    type: int
    default: 1
  webhooks_minimum:
    description: So many webhook processors must be healthy.
    type: int
    default: 1
  disk_path:
    description: A path on the disk that holds the data.
    type: path
    required: true
  disk_free_percent_minimum:
    description: Less free space than this is a problem.
    type: int
    default: 10
  patience:
    description: Seconds in which a queue with waiting jobs must finish one.
    type: int
    default: 60
  fail_on_problems:
    description: Whether a problem fails the task.
    type: bool
    default: true
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Look at n8n
  n8n_health:
    project: n8n-local
    disk_path: /var/lib/n8n-platform/local
    workers_minimum: 5
"""

RETURN = r"""
healthy:
  description: Whether there is no problem.
  returned: always
  type: bool
problems:
  description: What is wrong, one sentence each.
  returned: always
  type: list
  elements: str
checks:
  description: Every check with C(name), C(ok) and C(detail).
  returned: always
  type: list
  elements: dict
"""

import os
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.engine import ONEOFF_LABEL, SERVICE_LABEL, Engine, EngineError, health
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.n8n import MAIN_SERVICE, NETWORK, PORT, N8n

SLOT_LABEL = "io.n8n-platform.slot"
QUEUE = "n8n_scaling_mode_queue_jobs_"
POLL_SECONDS = 5.0


def build_spec() -> dict[str, Any]:
    return {
        "project": {"type": "str", "required": True},
        "data_stores": {"type": "list", "elements": "str", "default": ["postgres-n8n", "redis-queue"]},
        "workers_minimum": {"type": "int", "default": 1},
        "webhooks_minimum": {"type": "int", "default": 1},
        "disk_path": {"type": "path", "required": True},
        "disk_free_percent_minimum": {"type": "int", "default": 10},
        "patience": {"type": "int", "default": 60},
        "fail_on_problems": {"type": "bool", "default": True},
    }


class Inspection:
    """The checks in order; a later one is left out where it could only repeat an earlier one's problem."""

    def __init__(self, params: dict[str, Any], engine: Engine) -> None:
        self.params, self.engine = params, engine
        self.project = params["project"]
        self.checks: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        try:
            containers = [self.engine.inspect(c["Id"]) for c in self.engine.project(self.project)]
        except HttpError as error:
            self._note("engine", False, str(error))
            return self.checks
        states = self._states(containers)
        self._services(states)
        self._slots(containers)
        self._endpoints(containers)
        if states.get(MAIN_SERVICE) == "healthy":
            self._queue(N8n(self._url(containers, MAIN_SERVICE)))
        self._disk()
        return self.checks

    def _note(self, name: str, ok: bool, detail: str) -> None:
        self.checks.append({"name": name, "ok": ok, "detail": detail})

    def _states(self, containers: list[dict[str, Any]]) -> dict[str, str]:
        """Service -> health, of all that runs for good and is no member of a slot."""
        return {
            labels.get(SERVICE_LABEL, container["Name"]): health(container)
            for container in containers
            if SLOT_LABEL not in (labels := container["Config"]["Labels"])
            and labels.get(ONEOFF_LABEL) != "True"
        }

    def _services(self, states: dict[str, str]) -> None:
        for service in sorted({*states, *self.params["data_stores"], MAIN_SERVICE}):
            state = states.get(service, "missing")
            self._note(f"container {service}", state == "healthy", state)

    def _slots(self, containers: list[dict[str, Any]]) -> None:
        """Stopped slots are the operator's choice; half a slot or too few whole ones are not."""
        slots: dict[str, dict[str, str]] = {}
        for container in containers:
            labels = container["Config"]["Labels"]
            if slot := labels.get(SLOT_LABEL):
                slots.setdefault(slot, {})[labels[SERVICE_LABEL]] = health(container)
        for slot, members in sorted(slots.items()):
            if set(members.values()) - {"exited", "created"}:
                detail = ", ".join(f"{service} {state}" for service, state in sorted(members.items()))
                self._note(f"slot {slot}", set(members.values()) == {"healthy"}, detail)
        for kind, option in (("worker", "workers_minimum"), ("webhook", "webhooks_minimum")):
            whole = [s for s, m in slots.items() if s.startswith(kind) and set(m.values()) == {"healthy"}]
            minimum = self.params[option]
            self._note(f"{kind} slots", len(whole) >= minimum, f"{len(whole)} healthy, {minimum} wanted")

    def _endpoints(self, containers: list[dict[str, Any]]) -> None:
        """From the host, as the edge sees it: readiness is database connected, migrated, routes mounted."""
        for container in containers:
            labels = container["Config"]["Labels"]
            service = labels.get(SERVICE_LABEL, "")
            if container["State"]["Status"] == "running" and (
                service == MAIN_SERVICE or labels.get(SLOT_LABEL, "").startswith("webhook")
            ):
                url = self._url([container], service)
                ready = bool(url) and N8n(url).ready()
                self._note(
                    f"endpoint {service}",
                    ready,
                    f"{url}/healthz/readiness {'200' if ready else 'is not 200'}",
                )

    def _url(self, containers: list[dict[str, Any]], service: str) -> str:
        for container in containers:
            if container["Config"]["Labels"].get(SERVICE_LABEL) == service:
                try:
                    return (
                        f"http://{self.engine.address(container['Id'], f'{self.project}_{NETWORK}')}:{PORT}"
                    )
                except EngineError:
                    return ""
        return ""

    def _queue(self, n8n: N8n) -> None:
        """Redis and the queue as main sees them. Counters are refreshed by n8n every 20 s."""
        deadline = time.monotonic() + self.params["patience"]
        first = self._counters(n8n)
        if first is None:
            self._note(
                "queue",
                False,
                "main's /metrics has no queue counters: it does not reach Redis, or metrics are off",
            )
            return
        waiting, done = first
        now = first
        while now and now[0] > 0 and now[1] == done and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            now = self._counters(n8n) or now
        moving = now[0] == 0 or now[1] > done
        detail = f"{waiting:g} waiting" + (
            "" if moving else f" and none finished within {self.params['patience']} s"
        )
        self._note("queue", moving, detail)

    def _counters(self, n8n: N8n) -> tuple[float, float] | None:
        try:
            metrics = n8n.metrics()
        except HttpError:
            return None
        if f"{QUEUE}waiting" not in metrics:
            return None
        finished = metrics.get(f"{QUEUE}completed", 0.0) + metrics.get(f"{QUEUE}failed", 0.0)
        return metrics[f"{QUEUE}waiting"], finished

    def _disk(self) -> None:
        path = self.params["disk_path"]
        try:
            disk = os.statvfs(path)
        except OSError as error:
            self._note("disk", False, f"{path}: {error.strerror}")
            return
        free = 100 * disk.f_bavail // max(disk.f_blocks, 1)
        minimum = self.params["disk_free_percent_minimum"]
        self._note("disk", free >= minimum, f"{path}: {free} % free, {minimum} wanted")


def verdict(checks: list[dict[str, Any]]) -> dict[str, Any]:
    problems = [f"{check['name']}: {check['detail']}" for check in checks if not check["ok"]]
    return {"healthy": not problems, "problems": problems, "checks": checks}


def main() -> None:
    module = AnsibleModule(argument_spec=build_spec(), supports_check_mode=True)
    result = verdict(Inspection(module.params, Engine()).run())
    if result["problems"] and module.params["fail_on_problems"]:
        module.fail_json(msg="n8n is not healthy: " + "; ".join(result["problems"]), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
