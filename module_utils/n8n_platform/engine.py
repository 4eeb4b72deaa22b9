"""The Docker Engine API over its unix socket: what the platform asks of containers, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from socket import AF_UNIX, socket
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from ansible.module_utils.n8n_platform.http import JsonClient

T = TypeVar("T")
SOCKET = "/var/run/docker.sock"
_LOST_EXEC = "OCI runtime exec failed"
_ATTEMPTS = 3
_CONNECT_SECONDS = 5.0
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
NETWORK_LABEL = "com.docker.compose.network"
ONEOFF_LABEL = "com.docker.compose.oneoff"
CONFIG_HASH_LABEL = "com.docker.compose.config-hash"
ENVIRONMENT_LABEL = "io.n8n-platform.environment"


class EngineError(Exception):
    """Names the container and what is missing; what the engine itself refuses is an HttpError."""


def output_in(engine: Engine, project: str, service: str, argv: list[str], problem: type[Exception]) -> str:
    """What a command says in the container of a Compose service, without blanks around it. Raises `problem` where the
    service does not run or the command fails."""
    container = engine.service(project, service)
    if container is None:
        raise problem(f"{service}: does not run in {project}")
    code, output = engine.execute(container["Id"], argv)
    if code:
        raise problem(f"{service}: {words(output)}")
    return output.strip()


def words(output: str) -> str:
    """The end of what a command said, on one line of 500 characters at most."""
    return " ".join(output.split())[-500:]


def listens(path: str = SOCKET) -> bool:
    """Whether an engine is there; one that was killed leaves its socket, which refuses. One that hangs is there."""
    with socket(AF_UNIX) as client:
        client.settimeout(_CONNECT_SECONDS)
        try:
            client.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except (TimeoutError, BlockingIOError):
            return True
    return True


class Engine:
    """`container` is a name or an id everywhere; times are seconds. Raises HttpError (status 404: no such
    container)."""

    def __init__(self, socket: str = SOCKET, timeout: float = 60.0) -> None:
        self.socket = socket
        self._client = JsonClient(f"unix://{socket}", timeout=timeout)
        self._timeout = timeout

    def containers(
        self, labels: dict[str, str | None] | None = None, running_only: bool = False
    ) -> list[dict[str, Any]]:
        """The engine's short form (Id, Names, State, Labels, ...), by name; a label of value None need only
        exist."""
        wanted = [name if value is None else f"{name}={value}" for name, value in (labels or {}).items()]
        query = urlencode(
            {"all": "false" if running_only else "true", "filters": json.dumps({"label": wanted})}
        )
        found: list[dict[str, Any]] = self._client.request("GET", f"/containers/json?{query}").json
        return sorted(found, key=lambda container: container["Names"])

    def project(self, project: str) -> list[dict[str, Any]]:
        """The containers of a Compose project, stopped ones too."""
        return self.containers({PROJECT_LABEL: project})

    def service(self, project: str, service: str) -> dict[str, Any] | None:
        """The inspected container of a Compose service, None when it has none."""
        found = self.containers({PROJECT_LABEL: project, SERVICE_LABEL: service})
        return self.inspect(found[0]["Id"]) if found else None

    def inspect(self, container: str) -> dict[str, Any]:
        result: dict[str, Any] = self._client.request("GET", f"{_path(container)}/json").json
        return result

    def address(self, container: str, network: str) -> str:
        """IPv4 address on `network` (full name, `<project>_<network>`); EngineError when it has none
        there."""
        networks = self.inspect(container)["NetworkSettings"]["Networks"]
        address: str = networks.get(network, {}).get("IPAddress", "")
        if not address:
            raise EngineError(f"container {container}: no address on network {network}")
        return address

    def start(self, container: str) -> None:
        self._client.request("POST", f"{_path(container)}/start")

    def stop(self, container: str, timeout: int | None = None) -> None:
        """Stop signal, then SIGKILL after `timeout`; None: the container's own stop time
        (stop_grace_period)."""
        patience = self.stop_timeout(container) if timeout is None else timeout
        self._client.request(
            "POST", f"{_path(container)}/stop?t={patience}", timeout=self._timeout + patience
        )

    def restart(self, container: str, timeout: int | None = None) -> None:
        patience = self.stop_timeout(container) if timeout is None else timeout
        self._client.request(
            "POST", f"{_path(container)}/restart?t={patience}", timeout=self._timeout + patience
        )

    def stop_timeout(self, container: str) -> int:
        timeout = self.inspect(container)["Config"].get("StopTimeout")
        return 10 if timeout is None else int(timeout)

    def kill(self, container: str, signal: str = "SIGKILL") -> None:
        self._client.request("POST", f"{_path(container)}/kill?signal={quote(signal)}")

    def wait(self, container: str, timeout: float) -> int:
        """Waits until the container has stopped; its exit code. HttpError of status 0 when `timeout` runs
        out."""
        answer = self._client.request("POST", f"{_path(container)}/wait", timeout=timeout)
        return int(answer.json["StatusCode"])

    def remove(self, container: str) -> None:
        """Removes a stopped container, not its volumes."""
        self._client.request("DELETE", _path(container))

    def logs(self, container: str, tail: int = 50) -> str:
        """The last lines of both streams."""
        query = urlencode({"stdout": "true", "stderr": "true", "tail": tail})
        return _demultiplex(self._client.request("GET", f"{_path(container)}/logs?{query}").body)

    def execute(self, container: str, argv: list[str], user: str = "") -> tuple[int, str]:
        """Runs a command inside; exit code and output of both streams. Never with a secret in argv."""
        return again(lambda: self._execute(container, argv, user), lambda answer: lost(*answer))

    def _execute(self, container: str, argv: list[str], user: str) -> tuple[int, str]:
        spec = {"AttachStdout": True, "AttachStderr": True, "Cmd": argv, "User": user}
        execution = self._client.request("POST", f"{_path(container)}/exec", spec).json["Id"]
        output = self._client.request(
            "POST", f"/exec/{execution}/start", {"Detach": False, "Tty": False}
        ).body
        state = self._client.request("GET", f"/exec/{execution}/json").json
        return int(state["ExitCode"]), _demultiplex(output)

    def image_id(self, reference: str) -> str:
        """Empty when the engine has no image of that name."""
        path = f"/images/{quote(reference, safe='')}/json"
        answer = self._client.request("GET", path, allowed=(404,))
        return str(answer.json["Id"]) if answer.status == 200 else ""

    def networks(self, labels: dict[str, str | None]) -> list[dict[str, Any]]:
        wanted = [name if value is None else f"{name}={value}" for name, value in labels.items()]
        query = urlencode({"filters": json.dumps({"label": wanted})})
        found: list[dict[str, Any]] = self._client.request("GET", f"/networks?{query}").json
        return sorted(found, key=lambda network: network["Name"])

    def remove_network(self, network: str) -> None:
        self._client.request("DELETE", f"/networks/{quote(network)}")


def again(run: Callable[[], T], was_lost: Callable[[T], bool]) -> T:
    """What `run` answers. Where a busy host lost the first process before the program ran, the same once more is free
    of harm: up to three times in all."""
    for _ in range(_ATTEMPTS - 1):
        if not was_lost(answer := run()):
            return answer
    return run()


def lost(code: int, *said: str) -> bool:
    """Whether an exec's exit code and output are those of a program that never ran."""
    return code != 0 and any(_LOST_EXEC in text for text in said)


def health(inspected: dict[str, Any]) -> str:
    """`healthy`, `starting`, `unhealthy`; without a health check, or when not running, the state's own
    name."""
    state = inspected["State"]
    if state["Status"] == "running" and "Health" in state:
        return str(state["Health"]["Status"])
    return str(state["Status"])


def _path(container: str) -> str:
    return f"/containers/{quote(container, safe='')}"


def _demultiplex(raw: bytes) -> str:
    """Removes the 8-byte frame headers of a stream without a terminal."""
    parts, offset = [], 0
    while offset + 8 <= len(raw):
        if raw[offset] > 2 or raw[offset + 1 : offset + 4] != b"\0\0\0":
            return raw.decode("utf-8", "replace")
        size = int.from_bytes(raw[offset + 4 : offset + 8], "big")
        parts.append(raw[offset + 8 : offset + 8 + size])
        offset += 8 + size
    return b"".join(parts).decode("utf-8", "replace")
