"""Programs that run once, each in a container of its own that is gone afterwards.

Through the Docker client, since a stream into a container needs more than the Engine API's plain requests.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ansible.module_utils.n8n_platform.engine import ENVIRONMENT_LABEL, Engine, EngineError, again
from ansible.module_utils.n8n_platform.http import HttpError

ONESHOT_LABEL = "io.n8n-platform.oneshot"
_CLIENT_FAILED = 125
_LOST = "OCI runtime create failed"
_REMOVAL_SECONDS = 30


class RunTimeout(EngineError):
    """The program took longer than it was given; its container is gone."""


@dataclass(frozen=True)
class Mount:
    """A file or directory of the host; the source has to exist."""

    source: str | Path
    target: str
    read_only: bool = True

    def argument(self) -> str:
        return f"type=bind,source={self.source},target={self.target}{',readonly' if self.read_only else ''}"


@dataclass(frozen=True)
class Result:
    """`code` is the program's own exit code; output as text, undecodable bytes replaced."""

    code: int
    stdout: str = field(repr=False)
    stderr: str = field(repr=False)

    def words(self, length: int = 1000) -> str:
        """The end of what it said, in one line: for error messages."""
        return " ".join((self.stderr.strip() or self.stdout.strip()).split())[-length:]


@dataclass(frozen=True)
class OneShots:
    """Starts programs of one environment. `purpose` (`backup`, `restore`, ...) tells whose containers they are.

    cpu_shares: weight against other containers, 1024 is a service's; pids and memory (bytes, 0: no limit) are limits.
    """

    engine: Engine
    environment: str
    purpose: str
    docker: str = "docker"
    cpu_shares: int = 256
    pids: int = 256
    memory: int = 0

    def run(
        self,
        image: str,
        argv: Sequence[str],
        *,
        mounts: Sequence[Mount] = (),
        user: str = "0:0",
        network: str = "none",
        environment: dict[str, str] | None = None,
        timeout: float = 3600.0,
        stdin: str | bytes | None = None,
        stdout_file: Path | None = None,
        capabilities: Sequence[str] = (),
    ) -> Result:
        """The image's entry point is replaced by `argv`. Secrets go in by mounted files or `stdin`, never by
        `environment` or `argv`, which anybody on the host can read.

        Raises RunTimeout after `timeout` seconds, EngineError when the container could not be made (no such image,
        no such network; what the runtime itself failed at is tried three times); what the program returns is no
        error here. With `stdout_file` output goes there.
        """
        command = self._settings(user, network, capabilities)
        command += [part for mount in mounts for part in ("--mount", mount.argument())]
        command += [
            part for key, value in (environment or {}).items() for part in ("--env", f"{key}={value}")
        ]
        command += ["--interactive"] if stdin is not None else []
        command += ["--entrypoint", argv[0], image, *argv[1:]]
        payload = stdin.encode() if isinstance(stdin, str) else stdin
        result = again(
            lambda: self._once(argv[0], command, payload, stdout_file, timeout),
            lambda answer: answer.code == _CLIENT_FAILED and _LOST in answer.stderr,
        )
        if result.code == _CLIENT_FAILED and "docker:" in result.stderr:
            raise EngineError(f"no container could be made: {result.words()}")
        return result

    def _once(
        self,
        program: str,
        arguments: list[str],
        payload: bytes | None,
        stdout_file: Path | None,
        timeout: float,
    ) -> Result:
        name = f"{self.purpose}-{self.environment}-{secrets.token_hex(4)}"
        command = [self.docker, "--host", f"unix://{self.engine.socket}", "run", "--name", name]
        command += arguments
        try:
            if stdout_file is None:
                return self._execute(command, payload, subprocess.PIPE, timeout)
            with stdout_file.open("wb") as stream:
                return self._execute(command, payload, stream, timeout)
        except subprocess.TimeoutExpired:
            raise RunTimeout(f"{program}: not done within its time limit of {timeout:g} s") from None
        finally:
            self._remove(name)

    def remove_left_over(self) -> list[str]:
        """Removes what a killed process of the same purpose has left running; only while its lock is held. Names."""
        labels: dict[str, str | None] = {ENVIRONMENT_LABEL: self.environment, ONESHOT_LABEL: self.purpose}
        found = [container["Names"][0].lstrip("/") for container in self.engine.containers(labels)]
        for name in found:
            self._remove(name)
        return found

    def _settings(self, user: str, network: str, capabilities: Sequence[str]) -> list[str]:
        settings = ["--rm", "--init", "--pull", "never", "--log-driver", "none", "--read-only"]
        settings += ["--tmpfs", "/tmp:size=256m,mode=1777", "--cap-drop", "ALL"]  # noqa: S108 (of the container)
        settings += [part for capability in capabilities for part in ("--cap-add", capability)]
        settings += ["--security-opt", "no-new-privileges", "--user", user, "--network", network]
        settings += ["--label", f"{ENVIRONMENT_LABEL}={self.environment}"]
        settings += ["--label", f"{ONESHOT_LABEL}={self.purpose}"]
        settings += ["--cpu-shares", str(self.cpu_shares), "--pids-limit", str(self.pids)]
        return settings + (["--memory", str(self.memory)] if self.memory else [])

    def _execute(
        self, command: list[str], payload: bytes | None, stdout: int | IO[bytes], timeout: float
    ) -> Result:
        # `input` and `stdin` exclude each other.
        source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if payload is None else {"input": payload}
        done = subprocess.run(
            command,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=timeout,
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": os.environ.get("HOME", "/root")},
            check=False,
            **source,
        )
        return Result(
            done.returncode,
            (done.stdout or b"").decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
        )

    def _remove(self, name: str) -> None:
        """Killed and gone when this returns, whatever state it was in."""
        try:
            self.engine.kill(name)
        except HttpError as error:
            if error.status not in (404, 409):
                raise
        try:
            self.engine.wait(name, _REMOVAL_SECONDS)
            self.engine.remove(name)
        except HttpError as error:
            # 404: gone by itself; 409: the engine is removing it.
            if error.status not in (404, 409):
                raise
