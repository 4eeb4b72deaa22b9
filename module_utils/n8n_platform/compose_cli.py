"""Docker Compose's command line: always a given project, a given file and an explicit list of services."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.compose_policy import ComposeError

INDEX = "index.json"


class ComposeCli:
    """`docker` is the client's path; `file` the compose.yaml, None for what works on labels alone (down).

    Raises ComposeError with Compose's own words.
    """

    def __init__(self, docker: str, project: str, file: Path | None, socket: str) -> None:
        self._docker = docker
        self._project = project
        self._file = file
        # Nothing of the caller's COMPOSE_* or of an .env file may change what is done.
        home = os.environ.get("HOME", "/root")
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": home,
            "DOCKER_HOST": f"unix://{socket}",
        }

    def config_hashes(self) -> dict[str, str]:
        """{service: the hash that a container made from this file carries}; fails when the file is not
        valid."""
        lines = self._run(["config", "--hash", "*"]).splitlines()
        return dict(line.split(maxsplit=1) for line in lines if line.strip())

    def model(self) -> dict[str, Any]:
        """The file as Compose reads it: long forms, memory in bytes, networks by their full names."""
        found: dict[str, Any] = json.loads(self._run(["config", "--format", "json"]))
        return found

    def up(self, services: Sequence[str]) -> None:
        """Creates or recreates and starts these services only; a container that is as it should be is left
        alone."""
        self._run(["up", "--detach", "--no-deps", "--no-build", "--pull", "never", "--quiet-pull", *services])

    def make_networks(self) -> None:
        """All of the file's. `up` by itself makes all (2.26) or only those of its services (2.40): seen, both."""
        model = self.model()
        member = {"networks": list(model["networks"]), "scale": 0}
        member["image"] = next(iter(model["services"].values()))["image"]
        # A service of no containers; that those of the project are orphans to this file is said and nothing else.
        given = {"services": {"networks": member}, "networks": model["networks"]}
        self._run(["up", "--detach", "--no-build", "--pull", "never"], json.dumps(given))

    def stop(self, services: Sequence[str], patience: int | None = None) -> None:
        """Stops side by side, each with its own stop_grace_period or with `patience` seconds."""
        self._run(["stop", *(["--timeout", str(patience)] if patience is not None else []), *services])

    def run_once(self, service: str, command: Sequence[str]) -> str:
        """Runs a command in a new container of a service, which is removed afterwards; its output."""
        return self._run(["run", "--rm", "--no-deps", "--no-TTY", "--quiet-pull", service, *command])

    def down(self) -> None:
        """Removes the project's containers and networks; volumes are directories and stay."""
        self._run(["down", "--remove-orphans"])

    def _run(self, arguments: list[str], given: str = "") -> str:
        """`given`: a file's text instead of the file."""
        file = ["--file", "-" if given else str(self._file)] if self._file else []
        command = [
            self._docker,
            "compose",
            "--ansi",
            "never",
            "--project-name",
            self._project,
            *file,
            *arguments,
        ]
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            input=given,
            env=self._environment,
            check=False,
        )
        if result.returncode:
            words = result.stderr.strip() or result.stdout.strip()
            raise ComposeError(f"docker compose {arguments[0]}: {words[-2000:]}")
        return result.stdout


def read_index(release: Path) -> dict[str, Any]:
    """What a written release holds, see releases.index(). Raises ComposeError."""
    try:
        found: dict[str, Any] = json.loads((release / INDEX).read_text("utf-8"))
    except FileNotFoundError:
        raise ComposeError(f"{release}: there is no such release; playbooks/site.yml writes one") from None
    return found
