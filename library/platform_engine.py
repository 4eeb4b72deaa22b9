"""Inspects the Docker engine of a host and starts it where there is no systemd."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: platform_engine
short_description: Inspect the Docker engine, start it where there is no systemd
description:
  - Says what is installed, in which versions, whether the engine answers, and where packages come from.
  - Where PID 1 is not systemd an installed engine that does not answer is started in the background, in a
    session of its own. With systemd that is the service manager's business.
  - An answering engine is never restarted.
  - C(daemon.json) is written where it is ours (it carries the label C(io.n8n-platform.managed)), or absent
    while no engine answers; before the packages are there too, since their service starts at once.
options:
  required:
    description: Fail when engine or Compose are missing or do not answer at the end.
    type: bool
    default: false
  minimum_engine:
    description: Lowest engine version; an older one is refused, since replacing it restarts its containers.
    type: str
    default: "24.0"
  minimum_compose:
    description: Lowest version of the Compose plugin.
    type: str
    default: "2.18"
  daemon_config:
    description: Content of C(daemon.json); empty leaves the file alone.
    type: dict
    default: {}
  daemon_config_file:
    description: Where the engine reads its configuration.
    type: path
    default: /etc/docker/daemon.json
  socket:
    description: The engine's socket.
    type: path
    default: /var/run/docker.sock
  pid_file:
    description: The engine's pid file; a stale one is removed before a start.
    type: path
    default: /var/run/docker.pid
  log_file:
    description: Where an engine that we start writes its log.
    type: path
    default: /var/log/docker.log
  timeout_seconds:
    description: How long to wait for the socket after a start.
    type: int
    default: 60
attributes:
  check_mode: {support: full, description: Says what would be written and started.}
  diff_mode: {support: full, description: Shows the daemon configuration and the start.}
author:
  - n8n platform maintainers
"""

EXAMPLES = r"""
- name: Start the engine
  platform_engine:
    daemon_config:
      log-driver: json-file
      log-opts: {max-size: 10m, max-file: "3"}
  register: __engine
"""

RETURN = r"""
engine:
  description: C(installed), C(answering), C(version) (empty when unknown).
  returned: always
  type: dict
compose:
  description: Version of the Compose plugin, empty when there is none.
  returned: always
  type: str
buildx:
  description: Version of the Buildx plugin, empty when there is none.
  returned: always
  type: str
sufficient:
  description: Engine, Compose and Buildx are there, in the versions asked for.
  returned: always
  type: bool
ready:
  description: Sufficient, answering, and started at boot where there is systemd.
  returned: always
  type: bool
settled:
  description: Ready, and configured as asked for.
  returned: always
  type: bool
systemd:
  description: Whether PID 1 is systemd.
  returned: always
  type: bool
distribution:
  description: C(id), C(version_id), C(codename) from os-release.
  returned: always
  type: dict
apt:
  description: >-
    C(sources), the distribution's own entries (C(uris), C(suites), C(components), C(signed_by)); C(suites),
    all that are configured; C(docker_repository), whether Docker's own packages are installed.
  returned: always
  type: dict
"""

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.apt_sources import configured_entries, own_entries
from ansible.module_utils.n8n_platform.files import write_file
from ansible.module_utils.n8n_platform.http import HttpError, JsonClient

OS_RELEASE = Path("/etc/os-release")
SYSTEMD = Path("/run/systemd/system")
APT = Path("/etc/apt")
CONTAINERD_PID = Path("/run/docker/containerd/containerd.pid")
MARK = "io.n8n-platform.managed=docker_engine"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# All that a daemon inherits of the run that starts it; anything else could be a secret of a shell.
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
INHERITED = ("PATH", "HOME", "LANG", *PROXIES)
LOG_LINES = 15


class EngineProblem(Exception):
    """What keeps the engine from working, said so that an operator can act on it."""


def version_tuple(text: str) -> tuple[int, ...]:
    """The first dotted number: `Docker version 26.1.5+dfsg1` -> (26, 1, 5); () when there is none."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def version_text(text: str) -> str:
    return ".".join(str(part) for part in version_tuple(text))


class Host:
    """What can be seen of the host; asks, never changes."""

    def __init__(self, params: dict[str, Any]) -> None:
        self._client = JsonClient(f"unix://{params['socket']}", timeout=5)
        self.environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self.environment["PATH"] = f"{os.environ.get('PATH', '')}:{SEARCH_PATH}"
        self.environment.setdefault("HOME", "/root")

    def answer(self) -> str:
        """The answering engine's version, empty when nothing answers."""
        try:
            return str(self._client.request("GET", "/version").json["Version"])
        except (HttpError, ValueError, KeyError, TypeError):
            return ""

    def output(self, *argv: str) -> str:
        """Standard output of a command, empty when it does not exist or fails."""
        try:
            done = subprocess.run(
                argv, env=self.environment, capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    @property
    def systemd(self) -> bool:
        return SYSTEMD.is_dir()

    def distribution(self) -> dict[str, str]:
        text = OS_RELEASE.read_text(encoding="utf-8") if OS_RELEASE.exists() else ""
        fields = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', text, re.MULTILINE))
        names = {"id": "ID", "version_id": "VERSION_ID", "codename": "VERSION_CODENAME"}
        return {name: fields.get(field, "") for name, field in names.items()}

    def observe(self) -> dict[str, Any]:
        answering = self.answer()
        distribution = self.distribution()
        entries = configured_entries(APT)
        return {
            "engine": {
                "answering": bool(answering),
                "version": version_text(answering or self.output("dockerd", "--version")),
                "installed": bool(answering or self.output("dockerd", "--version")),
            },
            "compose": version_text(self.output("docker", "compose", "version", "--short")),
            "buildx": version_text(self.output("docker", "buildx", "version")),
            "systemd": self.systemd,
            "distribution": distribution,
            "apt": {
                "sources": own_entries(entries, distribution),
                "suites": sorted({suite for entry in entries for suite in entry["suites"]}),
                "docker_repository": Path("/var/lib/dpkg/info/docker-ce.list").exists(),
            },
        }


class Manager:
    """plan() lists what differs, apply() carries it out; both raise EngineProblem."""

    def __init__(self, params: dict[str, Any], host: Host) -> None:
        self.params = params
        self.host = host
        self.seen: dict[str, Any] = {}
        self.differences: list[dict[str, str]] = []

    def plan(self) -> list[dict[str, str]]:
        self.seen = self.host.observe()
        engine = self.seen["engine"]
        self._refuse_old(engine["version"])
        self.seen["sufficient"] = self._sufficient()
        self.differences = []
        self._plan_configuration(engine["answering"])
        if self.seen["sufficient"] and not engine["answering"] and not self.seen["systemd"]:
            self.differences.append({"name": "engine", "before": "not answering", "after": "started"})
        return self.differences

    def _refuse_old(self, version: str) -> None:
        minimum = self.params["minimum_engine"]
        if version and version_tuple(version) < version_tuple(minimum):
            raise EngineProblem(
                f"the Docker engine on this host is {version}, at least {minimum} is needed. Replacing it "
                "would restart its containers, so it is left to you: upgrade it, or remove it and run again"
            )

    def _sufficient(self) -> bool:
        compose = version_tuple(self.seen["compose"])
        enough = compose >= version_tuple(self.params["minimum_compose"])
        return bool(self.seen["engine"]["installed"] and enough and self.seen["buildx"])

    def _plan_configuration(self, answering: bool) -> None:
        path = Path(self.params["daemon_config_file"])
        if not self.params["daemon_config"]:
            return
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        ours = MARK in before
        # Others' file, or others' engine without one: both stay as they are.
        if ours or (not before and not answering):
            config = self.params["daemon_config"]
            wanted = {**config, "labels": [MARK, *config.get("labels", [])]}
            after = json.dumps(wanted, indent=2, sort_keys=True) + "\n"
            if before != after:
                self.differences.append({"name": str(path), "before": before, "after": after})

    def apply(self) -> None:
        for difference in self.differences:
            if difference["name"] == "engine":
                self._start()
            else:
                self._write(Path(difference["name"]), difference["after"])

    def finish(self) -> dict[str, Any]:
        """The state at the end; raises where `required` and something is missing."""
        if self.differences:
            self.seen = {**self.seen, **self.host.observe()}
        unit = self.host.output("systemctl", "is-enabled", "docker.service") if self.seen["systemd"] else ""
        boots = not self.seen["systemd"] or unit == "enabled"
        self.seen["ready"] = bool(self.seen["sufficient"] and self.seen["engine"]["answering"] and boots)
        self.seen["settled"] = self.seen["ready"] and not self.differences
        missing = self.missing()
        if self.params["required"] and missing:
            raise EngineProblem(f"the Docker engine is not usable: {'; '.join(missing)}")
        return self.seen

    def missing(self) -> list[str]:
        engine = self.seen["engine"]
        minimum = self.params["minimum_compose"]
        compose = self.seen["compose"]
        socket = self.params["socket"]
        recent = version_tuple(compose) >= version_tuple(minimum)
        return [
            *([] if engine["installed"] else ["dockerd is not installed"]),
            *([] if engine["answering"] else [f"nothing answers on {socket}"]),
            *([] if recent else [f"Compose is {compose or 'missing'}, at least {minimum} is needed"]),
            *([] if self.seen["buildx"] else ["the Buildx plugin is missing"]),
        ]

    @staticmethod
    def _write(path: Path, content: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content, mode=0o644)

    def _start(self) -> None:
        """Starts dockerd and waits for its socket; one that is on its way up already is only waited for."""
        pid_file = Path(self.params["pid_file"])
        daemon = None
        if not self._alive(pid_file, "dockerd"):
            self._alive(CONTAINERD_PID, "containerd")
            # Not `service docker start`: its init script wants limits and mounts that a container refuses.
            with open(self.params["log_file"], "ab") as log:
                daemon = subprocess.Popen(
                    ["dockerd"],
                    env=self.host.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    start_new_session=True,
                )
        deadline = time.monotonic() + self.params["timeout_seconds"]
        while time.monotonic() < deadline:
            if self.host.answer():
                return
            if daemon and daemon.poll() is not None and not self._alive(pid_file, "dockerd"):
                raise EngineProblem(f"dockerd ended with exit code {daemon.returncode}; {self._log_tail()}")
            time.sleep(0.2)
        socket, limit = self.params["socket"], self.params["timeout_seconds"]
        raise EngineProblem(f"dockerd did not answer on {socket} within {limit} s; {self._log_tail()}")

    @staticmethod
    def _alive(pid_file: Path, name: str) -> bool:
        """Whether the pid file names a running process of that name; a stale file is removed.

        After a crash the number may be somebody else's by now, and the daemons only look whether it is taken.
        """
        try:
            pid = int(pid_file.read_text(encoding="utf-8"))
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            command = b""
        if name.encode() in command:
            return True
        pid_file.unlink(missing_ok=True)
        return False

    def _log_tail(self) -> str:
        path = Path(self.params["log_file"])
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return "\n".join([f"the end of {path}:", *text.splitlines()[-LOG_LINES:]])


def build_spec() -> dict[str, Any]:
    return {
        "required": {"type": "bool", "default": False},
        "minimum_engine": {"type": "str", "default": "24.0"},
        "minimum_compose": {"type": "str", "default": "2.18"},
        "daemon_config": {"type": "dict", "default": {}},
        "daemon_config_file": {"type": "path", "default": "/etc/docker/daemon.json"},
        "socket": {"type": "path", "default": "/var/run/docker.sock"},
        "pid_file": {"type": "path", "default": "/var/run/docker.pid"},
        "log_file": {"type": "path", "default": "/var/log/docker.log"},
        "timeout_seconds": {"type": "int", "default": 60},
    }


def main() -> None:
    module = AnsibleModule(argument_spec=build_spec(), supports_check_mode=True)
    manager = Manager(module.params, Host(module.params))
    try:
        differences = manager.plan()
        if module.check_mode:
            manager.params = {**manager.params, "required": False}
        else:
            manager.apply()
        result = manager.finish()
    except (EngineProblem, OSError) as error:
        module.fail_json(msg=str(error))
    diff = [{"before_header": d["name"], "after_header": d["name"], **d} for d in differences]
    module.exit_json(changed=bool(differences), diff=diff, **result)


if __name__ == "__main__":
    main()
