"""A registry of images for tests, from Debian's package docker-registry."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import docker
import yaml

from tests.support.deployment import wait_until
from tests.support.packages import program

PORT = 28500
LIMIT_BYTES = 12 * 10**9


class Registry:
    """Serves `storage` on all addresses of this machine while the block lasts. What was pushed stays there.

    `address` is the one that this machine's engine may use without TLS.
    """

    address = f"127.0.0.1:{PORT}"

    def __init__(self, storage: Path, directory: Path) -> None:
        self._storage = storage
        self._directory = directory

    def __enter__(self) -> Registry:
        server = program("docker-registry", "docker-registry")
        assert not self._listens(), f"somebody else listens on port {PORT}"
        self._forget_old_images()
        configuration = self._directory / "registry.yml"
        settings = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._storage)}},
            "http": {"addr": f"0.0.0.0:{PORT}"},
        }
        configuration.write_text(yaml.safe_dump(settings), encoding="utf-8")
        with (self._directory / "registry.log").open("w") as log:
            self._process = subprocess.Popen(
                [server, "serve", str(configuration)], stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(self._answers, "the registry", 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def address_in(self, network: str) -> str:
        """As the members of one of this machine's engine's networks reach it."""
        settings = docker.from_env().networks.get(network).attrs["IPAM"]["Config"][0]
        return f"{settings['Gateway']}:{PORT}"

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self._directory / "registry.log").read_text(encoding="utf-8")
        return self._listens()

    @staticmethod
    def _listens() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", PORT)) == 0

    def _forget_old_images(self) -> None:
        """Start afresh when the images of many days have come together."""
        files = [path for path in self._storage.rglob("*") if path.is_file()]
        if sum(path.stat().st_size for path in files) > LIMIT_BYTES:
            shutil.rmtree(self._storage)
