"""What is asked of the container engine about images, and running the commands that make them."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from ansible.module_utils.n8n_platform.http import HttpError, JsonClient, Response
from ansible.module_utils.n8n_platform.images import ImagesError

SOCKET = "unix:///var/run/docker.sock"


class ImageEngine:
    """Images of the engine, by reference. Raises ImagesError.

    may_be_absent: an engine that is not installed or started yet has no images, instead of being an error.
    """

    def __init__(self, socket: str = SOCKET, may_be_absent: bool = False) -> None:
        self._client = JsonClient(socket, timeout=60)
        self.there = True
        try:
            self._client.request("GET", "/_ping")
        except HttpError as error:
            self.there = False
            if not may_be_absent:
                raise ImagesError(f"the container engine: {error}") from None

    def has(self, ref: str) -> bool:
        return self.there and self._request("GET", f"/images/{quote(ref, safe='')}/json").status == 200

    def missing(self, refs: dict[str, str]) -> list[str]:
        """Names of those of the references that the engine lacks."""
        return [name for name, ref in refs.items() if not self.has(ref)]

    def tag(self, ref: str, new: str) -> None:
        repository, _, tag = new.rpartition(":")
        self._request(
            "POST", f"/images/{quote(ref, safe='')}/tag?repo={quote(repository, safe='')}&tag={tag}"
        )

    def untag(self, ref: str) -> None:
        """Take one name from an image; the image goes with its last name."""
        self._request("DELETE", f"/images/{quote(ref, safe='')}")

    def registry_problem(self, ref: str, timeout: float = 15) -> str:
        """Why a registry does not give `ref`, empty when it does. The engine asks, with its own mirrors and proxies."""
        if not self.there:
            return "the container engine is not there yet to ask a registry"
        try:
            self._client.request("GET", f"/distribution/{quote(ref, safe='/:@')}/json", timeout=timeout)
        except HttpError as error:
            return error.message if error.status else f"no answer within {timeout:.0f} s"
        return ""

    def registry_digest(self, ref: str, timeout: float = 15) -> str:
        """The digest that a registry has `ref` under, empty when it does not have it or shows it to nobody."""
        try:
            answer = self._client.request(
                "GET",
                f"/distribution/{quote(ref, safe='/:@')}/json",
                allowed=(401, 403, 404),
                timeout=timeout,
            )
        except HttpError as error:
            problem = error.message if error.status else f"no answer within {timeout:.0f} s"
            raise ImagesError(f"container_images_registry: {ref}: {problem}") from None
        return str(answer.json["Descriptor"]["digest"]) if answer.status == 200 else ""

    def free_gb(self) -> int:
        """Free space where the engine keeps its images, or will."""
        root = self._request("GET", "/info").json["DockerRootDir"] if self.there else "/var/lib"
        return shutil.disk_usage(root).free // 10**9

    def _request(self, method: str, path: str) -> Response:
        try:
            return self._client.request(method, path, allowed=(404,))
        except HttpError as error:
            raise ImagesError(f"the container engine: {error}") from None


class _Watchdog:
    """Kills a process that stays silent for longer than `seconds`; None: never."""

    def __init__(self, process: subprocess.Popen[str], seconds: float | None) -> None:
        self._process = process
        self._seconds = seconds
        self._timer: threading.Timer | None = None
        self.bitten = False

    def __enter__(self) -> _Watchdog:
        self.alive()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()

    def alive(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._seconds is not None:
            self._timer = threading.Timer(self._seconds, self._bite)
            self._timer.daemon = True
            self._timer.start()

    def _bite(self) -> None:
        self.bitten = True
        self._process.kill()


class Runner:
    """Runs commands one after the other; everything they say goes to `log`, short lines for a person to `progress`."""

    def __init__(self, log: Path, progress: Path) -> None:
        self.log = log
        self._progress = progress

    def say(self, text: str) -> None:
        with self._progress.open("a") as file:
            file.write(f"{text}\n")

    def run(
        self,
        command: list[str],
        stdin: str = "",
        shorten: Callable[[str], str] | None = None,
        silence_seconds: float | None = None,
    ) -> None:
        """Raises ImagesError with the last lines.

        shorten: makes a progress line of an output line, or nothing; silence_seconds: ended when silent for longer.
        """
        lines: list[str] = []
        # Newer Buildx asks before it reads a file outside the working folder.
        environment = {**os.environ, "BUILDX_BAKE_ENTITLEMENTS_FS": "0", "LC_ALL": "C.UTF-8"}
        with (
            self.log.open("a") as log,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
            ) as process,
            _Watchdog(process, silence_seconds) as watchdog,
        ):
            assert process.stdin and process.stdout
            process.stdin.write(stdin)
            process.stdin.close()
            for line in process.stdout:
                watchdog.alive()
                lines.append(line)
                log.write(line)
                log.flush()
                short = shorten(line) if shorten else ""
                if short:
                    self.say(short)
        if watchdog.bitten:
            raise ImagesError(f"{' '.join(command)}: no sign of life for {silence_seconds} s")
        if process.returncode:
            end = "".join(lines[-25:])
            raise ImagesError(f"{' '.join(command[:3])} failed, all of it in {self.log}:\n{end}")

    def output(self, command: list[str]) -> str:
        """What a command prints. Raises ImagesError."""
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ImagesError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-500:]}")
        return done.stdout
