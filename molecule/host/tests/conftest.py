"""A nested host: a container with systemd, sshd and an engine of its own, set up over SSH by an ordinary user."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

import tests.conftest  # noqa: F401  # isort: skip  (the path of the module_utils that follow)
from ansible.module_utils.n8n_platform.apt_sources import configured_entries, own_entries
from docker.models.containers import Container

from tests.support.deployment import Deployment, Run

HERE = Path(__file__).parent.parent
SUITE = "trixie"
LABEL = {"io.n8n-platform.test": "host"}


def package_sources() -> str:
    """This machine's own Debian mirrors, for the suite of the nested host."""
    release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
        if "=" in line
    )
    codename = release["VERSION_CODENAME"].strip('"')
    entries = own_entries(configured_entries(Path("/etc/apt")), {"id": "debian", "codename": codename})
    assert entries, "this machine has no Debian sources to share"
    return "".join(
        f"deb {uri} {suite.replace(codename, SUITE)} main\n"
        for entry in entries
        for uri in entry["uris"]
        for suite in entry["suites"]
    )


def base_image(engine: docker.DockerClient) -> str:
    """The platform's own Debian base where it is built already, else one of its own."""
    images = engine.images.list(name="n8n-platform/base") or engine.images.list(
        name="n8n-platform/test-host-base"
    )
    if not images:
        with subprocess.Popen(
            ["mmdebstrap", "--variant=minbase", SUITE, "-", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as bootstrap:
            assert bootstrap.stdin and bootstrap.stdout
            bootstrap.stdin.write(package_sources().encode())
            bootstrap.stdin.close()
            engine.api.import_image(
                bootstrap.stdout.read(), repository="n8n-platform/test-host-base", tag=SUITE
            )
        images = engine.images.list(name="n8n-platform/test-host-base")
    return str(images[0].tags[0])


def host_image(engine: docker.DockerClient, directory: Path) -> str:
    base = base_image(engine)
    inputs = [path.read_bytes() for path in sorted((HERE / "image").iterdir())]
    digest = hashlib.sha256(b"\0".join([engine.images.get(base).id.encode(), *inputs])).hexdigest()[:12]
    tag = f"n8n-platform/test-host:{digest}"
    if not engine.images.list(name=tag):
        sources = directory / "host.sources"
        sources.write_text(package_sources(), encoding="utf-8")
        subprocess.run(
            [
                *("docker", "buildx", "build", "--quiet", "--load", f"--secret=id=sources,src={sources}"),
                *(f"--build-arg=BASE={base}", f"--tag={tag}", "--label=io.n8n-platform.test=host"),
                str(HERE / "image"),
            ],
            check=True,
        )
    return tag


class NestedHost(Deployment):
    """`address`, an operator's SSH access and root's view of the inside; ports are tried from a container beside it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(name="test-host", inventory=HERE / "inventory", port_base=28540)
        self.directory = directory
        self.container_name = "n8n-platform-test-host"

    def create(self) -> None:
        self.remove()
        self.image = host_image(self.engine, self.directory)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.directory / "id_ed25519")],
            check=True,
        )
        self.machine: Container = self.engine.containers.run(
            self.image,
            name=self.container_name,
            hostname="nested",
            labels=LABEL,
            detach=True,
            privileged=True,
            cgroupns="host",
            tmpfs={"/run": "", "/tmp": "exec"},
            volumes={
                "/sys/fs/cgroup": {"bind": "/sys/fs/cgroup", "mode": "rw"},
                self.container_name: {"bind": "/var/lib/docker", "mode": "rw"},
            },
        )
        password = secrets.token_urlsafe(18)
        (self.directory / "password").write_text(password, encoding="utf-8")
        (self.directory / "password").chmod(0o600)
        subprocess.run(
            ["docker", "exec", "--interactive", self.container_name, "chpasswd"],
            input=f"deploy:{password}".encode(),
            check=True,
        )
        key = (self.directory / "id_ed25519.pub").read_bytes()
        self.put("/home/deploy/.ssh/authorized_keys", key, owner=1000)
        self.put("/etc/apt/sources.list", package_sources().encode())
        self.wait_for_ssh()

    def put(self, path: str, content: bytes, owner: int = 0) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo(Path(path).name)
            entry.size, entry.uid, entry.gid, entry.mode = len(content), owner, owner, 0o644
            tar.addfile(entry, io.BytesIO(content))
        assert self.machine.put_archive(str(Path(path).parent), archive.getvalue())

    @property
    def address(self) -> str:
        self.machine.reload()
        return str(self.machine.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])

    def wait_for_ssh(self, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while self.open_ports([22]) != {22}:
            assert time.monotonic() < deadline, f"no sshd in {self.container_name} after {timeout:.0f} s"

    def wait_for(self, command: str, timeout: float = 60) -> str:
        """Runs a command inside until it succeeds."""
        deadline = time.monotonic() + timeout
        while True:
            code, output = self.inside(command)
            if code == 0:
                return output
            assert time.monotonic() < deadline, f"{command}: still {code} after {timeout:.0f} s: {output}"
            time.sleep(0.5)

    def inside(self, command: str) -> tuple[int, str]:
        code, output = self.machine.exec_run(["sh", "-c", command])
        return code, output.decode()

    def run(self, playbook: str, *, check: bool = False, **extra: Any) -> Run:
        os.environ["TEST_HOST_ADDRESS"] = self.address
        os.environ["TEST_HOST_DIRECTORY"] = str(self.directory)
        return super().run(playbook, check=check, **extra)

    def open_ports(self, ports: list[int]) -> set[int]:
        """Which of the ports answer another container on the network of the nested host."""
        script = (
            "import socket, sys\n"
            "for port in map(int, sys.argv[2:]):\n"
            "    try: socket.create_connection((sys.argv[1], port), 1.5).close()\n"
            "    except OSError: continue\n"
            "    print(port)\n"
        )
        output = self.engine.containers.run(
            self.image,
            ["python3", "-c", script, self.address, *map(str, ports)],
            labels=LABEL,
            remove=True,
        )
        return {int(port) for port in output.split()}

    def remove(self) -> None:
        for container in self.engine.containers.list(all=True, filters={"name": f"^{self.container_name}$"}):
            container.remove(force=True, v=True)
        for volume in self.engine.volumes.list(filters={"name": self.container_name}):
            volume.remove()


@pytest.fixture(scope="session")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NestedHost]:
    assert shutil.which("ssh"), "the host deployment needs an SSH client"
    host = NestedHost(tmp_path_factory.mktemp("nested"))
    host.create()
    yield host
    if not os.environ.get("TEST_HOST_KEEP"):
        host.remove()
