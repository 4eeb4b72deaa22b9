"""Drives a real deployment through ansible-runner and looks at it from outside."""

from __future__ import annotations

import json
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any

import ansible_runner
import docker
from ansible.module_utils.n8n_platform.engine import Engine
from docker.models.containers import Container

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass
class Run:
    """What one ansible-playbook run did: its return code, its recap and its events."""

    status: str
    rc: int
    stats: dict[str, dict[str, int]]
    events: list[dict[str, Any]]
    stdout: str

    @property
    def changed(self) -> int:
        return sum(self.stats.get("changed", {}).values())

    @property
    def executed_tasks(self) -> int:
        """runner_on_ok events without include_* and import_*: what the project's task budget counts."""
        return sum(
            1
            for event in self.events
            if event["event"] == "runner_on_ok"
            and not event["event_data"]
            .get("task_action", "")
            .rpartition(".")[2]
            .startswith(("include", "import"))
        )

    def changed_tasks(self) -> list[str]:
        return [
            event["event_data"]["task"]
            for event in self.events
            if event["event"] == "runner_on_ok" and event["event_data"].get("res", {}).get("changed")
        ]

    @property
    def report(self) -> str:
        """What the role platform_report said at the end; empty where the run did not get there."""
        said = [
            event["event_data"]["res"]["msg"]
            for event in self.events
            if event["event"] == "runner_on_ok" and event["event_data"].get("role") == "platform_report"
        ]
        return str(said[-1]) if said else ""

    def failures(self) -> list[str]:
        """`task: message` of every failed task."""
        return [
            f"{event['event_data']['task']}: {event['event_data'].get('res', {}).get('msg', '')}"
            for event in self.events
            if event["event"] in ("runner_on_failed", "runner_on_unreachable")
            and not event["event_data"].get("ignore_errors")
        ]


@dataclass
class Deployment:
    """An environment of the tests: its inventory, its Compose project, its edge."""

    name: str
    inventory: Path
    port_base: int
    domain: str = "localhost"
    project: str = field(init=False)

    def __post_init__(self) -> None:
        self.project = f"n8n-{self.name}"

    @property
    def data_root(self) -> Path:
        return Path("/var/lib/n8n-platform") / self.name

    @property
    def backup_root(self) -> Path:
        """Its local backups."""
        return Path("/var/backups/n8n-platform") / self.name

    @property
    def address(self) -> str:
        """Where the edge listens."""
        return "127.0.0.1"

    @property
    def https_port(self) -> int:
        return self.port_base + 3

    @property
    def ca_file(self) -> Path:
        return self.data_root / "ca.crt"

    def run(
        self,
        playbook: str,
        *,
        check: bool = False,
        options: str = "",
        on_event: Callable[[dict[str, Any]], None] | None = None,
        look: Callable[[Path], None] | None = None,
        **extra: Any,
    ) -> Run:
        """Runs playbooks/<playbook>.yml as an operator would; `extra` are `-e` variables.

        options: more of ansible-playbook's own; on_event: sees each of ansible-runner's events as it happens; look:
        sees the directory that ansible-runner has worked in, before it goes.
        """

        def handle(event: dict[str, Any]) -> bool:
            if on_event:
                on_event(event)
            return True  # keep it

        with tempfile.TemporaryDirectory(prefix="n8n-platform-runner-") as private:
            runner = ansible_runner.run(
                private_data_dir=private,
                project_dir=str(ROOT),
                playbook=f"playbooks/{playbook}.yml",
                inventory=str(self.inventory),
                extravars=extra or None,
                cmdline=" ".join(filter(None, ["--check" if check else "", options])) or None,
                event_handler=handle,
                envvars={
                    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                    # ansible-runner replaces the configured directory by its own unless it is named here.
                    "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "plugins/callback"),
                    "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
                },
                quiet=True,
            )
            if look:
                look(Path(private))
            return Run(
                status=runner.status,
                rc=runner.rc,
                stats=runner.stats or {},
                events=list(runner.events),
                stdout=runner.stdout.read(),
            )

    def converge(self, **extra: Any) -> Run:
        """Runs site.yml and insists that it succeeds."""
        run = self.run("site", **extra)
        assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])
        return run

    def destroy(self) -> Run:
        """Takes everything away, backups included: an environment that is made again refuses those of a former one."""
        run = self.run(
            "destroy",
            platform_destroy_data=True,
            platform_destroy_backups=True,
            platform_confirm=self.name,
            # An interrupted run of the tests was another controller.
            platform_lock_takeover=True,
        )
        assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])
        return run

    def destroy_left_over(self) -> None:
        """What an interrupted run of the tests has left of this environment goes, so that a first start is one."""
        if self.containers(stopped=True) or self.data_root.exists() or self.backup_root.exists():
            self.destroy()

    @cached_property
    def engine(self) -> docker.DockerClient:
        return docker.DockerClient(base_url="unix:///var/run/docker.sock", timeout=300)

    def containers(self, *, stopped: bool = False) -> dict[str, Container]:
        """Service name -> container, of every service that runs; `stopped`: of everything that exists.

        What runs a command once bears a service's name, too: it is no service, but must not be left behind.
        """
        labels = [f"com.docker.compose.project={self.project}"]
        labels += [] if stopped else ["com.docker.compose.oneoff=False"]
        found = self.engine.containers.list(all=stopped, filters={"label": labels})
        return {container.labels["com.docker.compose.service"]: container for container in found}

    def healthy(self, service: str) -> bool:
        container = self.containers().get(service)
        return container is not None and container.attrs["State"].get("Health", {}).get("Status") == "healthy"

    def environment(self, service: str) -> dict[str, str]:
        """The variables that its container was made with."""
        return dict(entry.split("=", 1) for entry in self.containers()[service].attrs["Config"]["Env"])

    def killed_for_memory(self) -> set[str]:
        """Services whose present container has ever been; a restart does not clear the mark."""
        return {service for service, c in self.containers().items() if c.attrs["State"]["OOMKilled"]}

    def fingerprint(self) -> dict[str, tuple[str, str]]:
        """Service -> (container id, start time): what an unchanged run must leave alone."""
        return {
            service: (str(container.id), container.attrs["State"]["StartedAt"])
            for service, container in self.containers().items()
        }

    def secret(self, service: str, name: str) -> str:
        return (self.data_root / "secrets" / service / name).read_text(encoding="utf-8")

    def sql(self, query: str) -> list[list[str]]:
        """Rows of a query on n8n's database, as the superuser inside the container."""
        psql = ["psql", "-h", "/var/run/postgresql", "-U", "postgres", "-d", "n8n", "-AtF", "\x1f", "-c"]
        return [line.split("\x1f") for line in self.execute("postgres-n8n", [*psql, query]).splitlines()]

    def redis(self, *command: str) -> str:
        """The queue's answer to one command of the administrator."""
        login = (
            'REDISCLI_AUTH=$(cat /run/secrets/redis_queue_admin_password) exec redis-cli --user admin "$@"'
        )
        return self.execute("redis-queue", ["sh", "-c", login, "sh", *command]).strip()

    def execute(self, service: str, argv: list[str]) -> str:
        """What a command inside a service's container says; it has to succeed."""
        code, output = Engine(timeout=300).execute(str(self.containers()[service].id), argv)
        assert code == 0, output
        return output

    def smoke(self) -> tuple[int, dict[str, str]]:
        """Status and headers that the edge answers the platform's smoke workflow with. Tries twice, as n8n_smoke: a
        webhook processor that has just started may miss the end of its first job (docs/decisions/0010)."""
        body = json.dumps({"numbers": [1, 2, 3]}).encode()
        headers = {"Content-Type": "application/json"}

        def call() -> tuple[int, dict[str, str]]:
            return self.request("POST", "/webhook/platform-smoke", body=body, headers=headers)[:2]

        try:
            return call()
        except TimeoutError:
            return call()

    def request(
        self,
        method: str,
        path: str,
        *,
        host: str = "n8n",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 30,
    ) -> tuple[int, dict[str, str], bytes]:
        """One HTTPS request to the edge by address, with the name as SNI and Host."""
        name = f"{host}.{self.domain}"
        connection = _Connection(self.address, self.https_port, name, self.ca_file, timeout)
        try:
            connection.request(
                method, path, body=body, headers={"Host": f"{name}:{self.https_port}", **(headers or {})}
            )
            response: HTTPResponse = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()


class _Connection(HTTPSConnection):
    """HTTPS to an address under a name that need not resolve."""

    def __init__(self, address: str, port: int, name: str, ca_file: Path, timeout: float) -> None:
        super().__init__(
            address, port, timeout=timeout, context=ssl.create_default_context(cafile=str(ca_file))
        )
        self._name = name

    def connect(self) -> None:
        raw = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self._context.wrap_socket(raw, server_hostname=self._name)  # type: ignore[attr-defined]


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60, every: float = 0.5) -> Any:
    """Polls until `condition` is truthy and returns its value; fails naming what it waited for."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(every)
