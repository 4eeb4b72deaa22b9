"""A nested host: a container with systemd, sshd and an engine of its own, set up over SSH by an ordinary user."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker

import tests.conftest  # noqa: F401  # isort: skip  (the path of the module_utils that follow)
from ansible.module_utils.n8n_platform.apt_sources import configured_entries
from ansible.module_utils.n8n_platform.images_clients import debian_mirrors
from docker.models.containers import Container

from tests.support.deployment import ROOT, Deployment, Run
from tests.support.disk import Disk
from tests.support.packages import program

HERE = ROOT / "molecule/host"
SUITE = "trixie"
CACHE = Path(os.environ.get("PLATFORM_CACHE", "/var/cache/n8n-platform"))
LABEL = {"io.n8n-platform.test": "host"}


def package_sources() -> str:
    """This machine's own Debian mirrors, for the suite of the nested host."""
    archive, security = debian_mirrors(configured_entries(Path("/etc/apt")))
    assert archive, "this machine has no Debian sources to share"
    lines = [f"deb {archive} {suite} main\n" for suite in (SUITE, f"{SUITE}-updates")]
    return "".join([*lines, *([f"deb {security} {SUITE}-security main\n"] if security else [])])


def base_image(engine: docker.DockerClient) -> str:
    """The platform's own Debian base where it is built already, else one of its own."""
    images = engine.images.list(name="n8n-platform/base") or engine.images.list(
        name="n8n-platform/test-host-base"
    )
    if not images:
        with subprocess.Popen(
            [program("mmdebstrap", "mmdebstrap"), "--variant=minbase", SUITE, "-", "-"],
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


def host_image(engine: docker.DockerClient, directory: Path, target: str) -> str:
    base = base_image(engine)
    inputs = [path.read_bytes() for path in sorted((HERE / "image").iterdir())]
    digest = hashlib.sha256(b"\0".join([engine.images.get(base).id.encode(), *inputs])).hexdigest()[:12]
    tag = f"n8n-platform/test-host:{target}-{digest}"
    if not engine.images.list(name=tag):
        sources = directory / "host.sources"
        sources.write_text(package_sources(), encoding="utf-8")
        subprocess.run(
            [
                *("docker", "buildx", "build", "--quiet", "--load", f"--secret=id=sources,src={sources}"),
                *(f"--build-arg=BASE={base}", f"--tag={tag}", "--label=io.n8n-platform.test=host"),
                f"--target={target}",
                str(HERE / "image"),
            ],
            check=True,
        )
    return tag


class NestedHost(Deployment):
    """`address`, an operator's SSH access and root's view of the inside; ports are tried from a container beside it.

    target: stage of the image; network: the engine's network that the host is in; mounts: folders of this machine;
    disk_gb: of the disk with its images; extra: variables of every run.
    """

    def __init__(
        self,
        directory: Path,
        target: str = "bare",
        network: str = "bridge",
        mounts: dict[str, Any] | None = None,
        disk_gb: int = 20,
        **extra: Any,
    ) -> None:
        super().__init__(name="test-core", inventory=HERE / "inventory", port_base=28540)
        self.directory = directory
        self.container_name = f"n8n-platform-test-{target}"
        self.disk = Disk(CACHE / "test-host" / target, disk_gb)
        self.target, self.network, self.mounts, self.extra = target, network, mounts or {}, extra

    def create(self) -> None:
        self.remove()
        self.image = host_image(self.engine, self.directory, self.target)
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
            network=self.network,
            tmpfs={"/run": "", "/tmp": "exec"},
            volumes={
                "/sys/fs/cgroup": {"bind": "/sys/fs/cgroup", "mode": "rw"},
                str(self.disk.make()): {"bind": "/var/lib/docker", "mode": "rw"},
                **self.mounts,
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
        return str(self.machine.attrs["NetworkSettings"]["Networks"][self.network]["IPAddress"])

    @property
    def ca_file(self) -> Path:
        """A copy of the environment's CA on this machine; as an archive, since a busy engine cuts off what
        a command says.
        """
        stream, _ = self.machine.get_archive(f"{self.data_root}/ca.crt")
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
            certificate = tar.extractfile("ca.crt")
            assert certificate is not None
            copy = self.directory / "ca.crt"
            copy.write_bytes(certificate.read())
        return copy

    def fingerprint(self) -> dict[str, tuple[str, str]]:
        form = '{{index .Config.Labels "com.docker.compose.service"}} {{.Id}} {{.State.StartedAt}}'
        code, output = self.inside(f"docker ps -q | xargs docker inspect --format '{form}'")
        assert code == 0, output
        return {service: (ident, started) for service, ident, started in map(str.split, output.splitlines())}

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

    def execute(self, service: str, argv: list[str]) -> str:
        code, output = self.machine.exec_run(["docker", "exec", f"{self.project}-{service}-1", *argv])
        assert code == 0, output.decode()
        return str(output.decode())

    def secret(self, service: str, name: str) -> str:
        code, value = self.inside(f"cat {self.data_root}/secrets/{service}/{name}")
        assert code == 0, value
        return value

    def run(self, playbook: str, *, check: bool = False, **extra: Any) -> Run:
        os.environ |= self.access
        return super().run(playbook, check=check, **{**self.extra, **extra})

    def make(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs a documented `make ... ENV=production ARGS='...'` for this host."""
        variables = self.directory / "variables.json"
        variables.write_text(json.dumps(self.extra), encoding="utf-8")
        command = command.replace(
            "ENV=production", f"ENV={os.path.relpath(self.inventory, ROOT / 'inventories')}"
        )
        command = command.replace("ARGS='", f"ARGS='-e @{variables} ")
        return subprocess.run(
            ["bash", "-euc", command],
            cwd=ROOT,
            env=os.environ | self.access,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def access(self) -> dict[str, str]:
        """What the inventory reads of the environment."""
        return {"TEST_HOST_ADDRESS": self.address, "TEST_HOST_DIRECTORY": str(self.directory)}

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
            network=self.network,
            remove=True,
        )
        return {int(port) for port in output.split()}

    def answers_through(self, address: str, port: int) -> bool:
        """Whether an address behind the host answers a neighbour that routes to it through the host."""
        script = (
            f"ip route add {address}/32 via {self.address} && exec python3 -c "
            f"'import socket; socket.create_connection((\"{address}\", {port}), 1.5)' 2>/dev/null"
        )
        probe = self.engine.containers.run(
            self.image,
            ["sh", "-c", script],
            labels=LABEL,
            network=self.network,
            cap_add=["NET_ADMIN"],
            detach=True,
        )
        try:
            return bool(probe.wait()["StatusCode"] == 0)
        finally:
            probe.remove(force=True)

    def remove(self) -> None:
        for container in self.engine.containers.list(all=True, filters={"name": f"^{self.container_name}$"}):
            container.remove(force=True, v=True)
        self.disk.remove()


@contextmanager
def created(host: NestedHost) -> Iterator[NestedHost]:
    program("ssh", "openssh-client")
    try:
        host.create()
        yield host
    finally:
        if not os.environ.get("TEST_HOST_KEEP"):
            host.remove()
