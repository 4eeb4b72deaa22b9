#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Make a running Traefik take its configuration, or put the former one back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: traefik_reload
short_description: Make a running Traefik take its configuration, or put the former one back
description:
  - The configuration holds a router of Traefik's internal entry point that answers at C(/config/<config_id>), so
    Traefik itself says whether this very configuration is in force. Where it is not, SIGHUP is sent.
  - A file that cannot be read never comes into force; a router, middleware or certificate that cannot be built does,
    without it. Both are written to Traefik's log as errors, and both are a refusal.
  - After a refusal the link C(current) goes back to the directory that was accepted last (link C(accepted)), Traefik is
    told so, and the module fails with Traefik's own words.
options:
  project:
    description: Compose project.
    type: str
    required: true
  service:
    description: Compose service.
    type: str
    default: traefik
  network:
    description: Full name of the network on which Traefik's internal entry point is reached from the host.
    type: str
    required: true
  port:
    description: Port of the internal entry point.
    type: int
    required: true
  directory:
    description: Directory with the link C(current), as written by M(platform_config).
    type: path
    required: true
  config_id:
    description: What the configuration calls itself.
    type: str
    required: true
  timeout:
    description: Seconds in which Traefik must answer, and in which it must have taken the configuration.
    type: int
    default: 20
attributes:
  check_mode:
    support: full
    description: Says whether a reload is due; without a running container nothing is.
  diff_mode:
    support: full
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: configure | Make the running Traefik take the configuration
  traefik_reload:
    project: n8n-local
    network: n8n-local_edge
    port: 8082
    directory: /var/lib/n8n-platform/local/config/traefik
    config_id: 899236f67f2d
"""

RETURN = r"""
accepted:
  description: Directory of the configuration in force, relative to O(directory).
  returned: success
  type: str
"""

import json
import os
import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform import config
from ansible.module_utils.n8n_platform.engine import Engine, EngineError
from ansible.module_utils.n8n_platform.http import HttpError, JsonClient

ACCEPTED = "accepted"
POLL_SECONDS = 0.1
LOG_LINES = 5000
UNREADABLE = "Error while building configuration"
_ID = re.compile(r"Path\(`/config/([0-9a-f]+)`\)")
# Errors of serving requests and of ACME carry other keys, or none of these.
_SUBJECTS = ("routerName", "middlewareName", "serviceName", "entryPointName")


class ReloadError(Exception):
    """Says what Traefik refused, in its own words, and what is in force now."""


class Refused(Exception):
    """Traefik's log names errors of the configuration."""


def build_spec() -> dict[str, Any]:
    return {
        "project": {"type": "str", "required": True},
        "service": {"type": "str", "default": "traefik"},
        "network": {"type": "str", "required": True},
        "port": {"type": "int", "required": True},
        "directory": {"type": "path", "required": True},
        "config_id": {"type": "str", "required": True},
        "timeout": {"type": "int", "default": 20},
    }


def config_errors(log: str, since: datetime) -> list[str]:
    """What Traefik says against its configuration from `since` on (whole seconds), as `subject: words`."""
    found = []
    for line in log.splitlines():
        try:
            entry = json.loads(line)
            written = datetime.fromisoformat(entry["time"])
        except (ValueError, KeyError, TypeError):
            continue
        if (
            entry.get("level") == "error"
            and written >= since.replace(microsecond=0)
            and _is_about_config(entry)
        ):
            subject = entry.get("routerName") or entry.get("serviceName") or entry.get("middlewareName") or ""
            found.append(": ".join(filter(None, (subject, entry.get("message", ""), entry.get("error", "")))))
    return list(dict.fromkeys(found))


def _is_about_config(entry: dict[str, Any]) -> bool:
    if any(key in entry for key in _SUBJECTS) or entry.get("providerName") == "file":
        return True
    return "providerName" not in entry and "certificate" in entry.get("message", "")


class Manager:
    """Plans and carries out one reload. Raises ReloadError, EngineError, HttpError, OSError."""

    def __init__(self, params: dict[str, Any], engine: Engine) -> None:
        self.params = params
        self.directory = Path(params["directory"])
        self._engine = engine
        self._container = engine.service(params["project"], params["service"])

    @property
    def running(self) -> bool:
        return self._container is not None and self._container["State"]["Status"] == "running"

    def plan(self) -> list[str]:
        """`reload`: not in force; `accept`: in force (a new container has read it), its errors not yet looked for."""
        if not self.running:
            return []
        self._wait(lambda: self._answers("/ping"), "it does not answer on its internal entry point")
        if not self._answers(f"/config/{self.params['config_id']}"):
            return ["reload"]
        return [] if self._link(ACCEPTED) == self._link(config.CURRENT) else ["accept"]

    def apply(self, steps: list[str]) -> None:
        if not self.running:
            raise ReloadError(
                f"service {self.params['service']} of project {self.params['project']} is not running"
            )
        try:
            if "reload" in steps:
                self._reload(self.params["config_id"])
            elif "accept" in steps:
                self._refuse_errors(self._started_at(), "")
        except Refused as refusal:
            raise ReloadError(f"Traefik refuses the configuration: {refusal}; {self._put_back()}") from None
        if steps:
            config.switch(self.directory / ACCEPTED, self._link(config.CURRENT))

    def diff(self) -> dict[str, str]:
        before, after = (self._link(name) for name in (ACCEPTED, config.CURRENT))
        return {"before": f"in force: {before}\n", "after": f"in force: {after}\n"}

    @property
    def accepted(self) -> str:
        return self._link(ACCEPTED)

    def _reload(self, config_id: str) -> None:
        before, begin = self._log(), datetime.now(timezone.utc)
        # From inside: the engine takes any signal through its API for a manual stop, and then starts the container
        # neither after a crash nor after a reboot.
        code, output = self._engine.execute(self._id, ["sh", "-c", "kill -HUP 1"])
        if code:
            raise ReloadError(f"Traefik cannot be told to reload: {output.strip()}")

        def taken() -> bool:
            if self._answers(f"/config/{config_id}"):
                return True
            # Other errors are written while the configuration is still on its way into force.
            self._refuse_errors(begin, before, UNREADABLE)
            return False

        self._wait(taken, "the configuration is not in force and the log does not say why")
        # The engine's copy of the log may lag behind the answer by a moment.
        time.sleep(2 * POLL_SECONDS)
        self._refuse_errors(begin, before)

    def _refuse_errors(self, since: datetime, before: str, about: str = "") -> None:
        known = set(before.splitlines())
        new = "\n".join(line for line in self._log().splitlines() if line not in known)
        if errors := [error for error in config_errors(new, since) if about in error]:
            raise Refused("; ".join(errors))

    def _put_back(self) -> str:
        former = self._link(ACCEPTED)
        if not former or former == self._link(config.CURRENT):
            return "there is no former configuration to return to"
        config.switch(self.directory / config.CURRENT, former)
        found = _ID.search("".join(config.read_tree(self.directory / former).values()))
        if found:
            self._reload(found[1])
        return "the former one is in force again"

    def _wait(self, condition: Callable[[], bool], complaint: str) -> None:
        end = time.monotonic() + self.params["timeout"]
        while not condition():
            if time.monotonic() > end:
                raise Refused(f"after {self.params['timeout']} s {complaint}")
            time.sleep(POLL_SECONDS)

    def _answers(self, path: str) -> bool:
        try:
            address = self._engine.address(self._id, self.params["network"])
            client = JsonClient(f"http://{address}:{self.params['port']}", timeout=3)
            return client.request("GET", path, allowed=(404,)).status == 200
        except HttpError:
            return False

    @property
    def _id(self) -> str:
        assert self._container is not None
        return str(self._container["Id"])

    def _started_at(self) -> datetime:
        assert self._container is not None
        return datetime.fromisoformat(self._container["State"]["StartedAt"][:19] + "+00:00")

    def _log(self) -> str:
        return self._engine.logs(self._id, tail=LOG_LINES)

    def _link(self, name: str) -> str:
        link = self.directory / name
        return os.readlink(link) if link.is_symlink() else ""


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        manager = Manager(module.params, Engine())
        steps = manager.plan()
        diff = manager.diff() if "reload" in steps else {}
        if not module.check_mode:
            manager.apply(steps)
    except (ReloadError, Refused, EngineError, HttpError, config.ConfigError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed="reload" in steps, accepted=manager.accepted, diff=diff)


if __name__ == "__main__":
    main()
