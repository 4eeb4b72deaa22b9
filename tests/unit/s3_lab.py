"""A real SeaweedFS on the loopback with the role's rights, and the program of the tools image, in this process."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import urlopen

from support.s3 import S3Store
from support.s3_faults import FaultProxy

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "roles/container_images/files/backup/backup_s3"
OPTIONS = ROOT / "roles/container_images/files/object-storage/server.options"
WEED = Path(sys.executable).with_name("weed")


def program() -> ModuleType:
    """backup-s3 of the image as a module."""
    if str(PROGRAM) not in sys.path:
        sys.path.insert(0, str(PROGRAM))
    spec = importlib.util.spec_from_file_location("backup_s3_program", PROGRAM / "__main__.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class S3Process(S3Store):
    """The store as a process of this machine, with the image's own options where they name no path."""

    @property
    def host(self) -> str:
        return "127.0.0.1"

    def start(self, *, create_bucket: bool = True, **bucket: Any) -> S3Process:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._load_or_make_keys()
        self._make_certificates()
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        files = self.directory / "secrets"
        self.port = self.port or free_port()
        self.ports = {name: free_port() for name in ("master.port", "volume.port", "filer.port")}
        self.ports |= {f"{name}.grpc": free_port() for name in (*self.ports, "s3.port")}
        given = {
            **{name: str(port) for name, port in self.ports.items()},
            "dir": str(data),
            "s3.port": str(self.port),
            "s3.cert.file": str(files / "object_storage_tls.crt"),
            "s3.key.file": str(files / "object_storage_tls.key"),
            "s3.config": str(files / "object_storage_identities"),
            "s3.localSocket": str(self.directory / "s3.sock"),
            "filer.localSocket": str(self.directory / "filer.sock"),
            "master.volumeSizeLimitMB": "64",
            "volume.max": "40",
        }
        command = [str(WEED), "-logtostderr", "server", f"-options={OPTIONS}"]
        self.log = (self.directory / "weed.log").open("w")
        self._process = subprocess.Popen(
            [*command, *(f"-{name}={value}" for name, value in given.items())],
            cwd=self.directory,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory)},
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self.directory / "weed.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "SeaweedFS does not answer"
            time.sleep(0.2)
        if create_bucket:
            self.ensure_bucket(**bucket)
        return self

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(20)
        self.log.close()

    def shell(self, command: str) -> str:
        """An administrator's command inside the store."""
        master = f"-master=127.0.0.1:{self.ports['master.port']}.{self.ports['master.port.grpc']}"
        filer = f"-filer=127.0.0.1:{self.ports['filer.port']}.{self.ports['filer.port.grpc']}"
        done = subprocess.run(
            [str(WEED), "-logtostderr", "shell", master, filer],
            input=f"{command}\nexit\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd=self.directory,
        )
        return done.stdout + done.stderr

    def proxy(self) -> FaultProxy:
        files = self.directory / "secrets"
        certificate, key = files / "object_storage_tls.crt", files / "object_storage_tls.key"
        return FaultProxy(self.endpoint, self.ca_file, certificate, key)

    def ask(self, module: ModuleType, operation: str, **more: Any) -> dict[str, Any]:
        """The program's answer; short limits, since a test has no reason to be patient."""
        request = {
            "operation": operation,
            "endpoint": self.endpoint,
            "bucket": self.bucket,
            "region": self.region,
            "uri_style": "path",
            "ca_file": str(self.ca_file),
            "connect_timeout": 1,
            "read_timeout": 1,
            "attempts": 2,
            "timeout": 20,
            **more,
        }
        answer: dict[str, Any] = module.answer_to(json.dumps(request))
        return answer

    def _answers(self) -> bool:
        """As the image's health check sees it."""
        try:
            self.client().list_buckets()
            with urlopen(f"http://127.0.0.1:{self.ports['master.port']}/dir/status", timeout=5) as answer:
                return bool(json.load(answer)["Topology"]["Max"])
        except Exception:
            return False
