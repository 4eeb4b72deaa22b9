"""An S3 store for tests, outside of any environment: SeaweedFS from the platform's image, with TLS and least rights."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import docker
import yaml
from botocore.config import Config
from docker.models.containers import Container

from tests.support.certificates import Authority
from tests.support.deployment import ROOT, wait_until

ROLE_VARIABLES = ROOT / "roles/object_storage/vars/main.yml"
USER = 2005
# Role of each profile in the credentials file, and the names of its keys in the template.
PROFILES = {"default": "backup_s3", "prune": "backup_s3_prune", "admin": "object_storage_admin"}


@dataclass
class S3Store:
    """`with S3Store(directory, image) as store:`, or start() and stop().

    directory: what the store needs and keeps; data_mb: size of a file system of its own for the data, in memory
    (0: below `directory`); address: of this machine, that of the engine's default network if empty. The endpoint is the
    same for this machine and for containers with a way out; those of an internal network reach it by `name`, port 8333,
    after join(network).
    """

    directory: Path
    image: str
    name: str = "n8n-test-s3"
    bucket: str = "n8n-test-backup"
    port: int = 0
    address: str = ""
    data_mb: int = 0
    memory_mb: int = 512
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)

    region = "us-east-1"

    @property
    def bundles(self) -> str:
        """The bucket for bundles of keys, which somebody has to make."""
        return f"{self.bucket}-keys"

    @property
    def ca_file(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def credentials_file(self) -> Path:
        """AWS shared credentials: [default] may write, [prune] delete, [admin] everything."""
        return self.directory / "credentials"

    @property
    def host(self) -> str:
        """Of this machine, as every container with a way out sees it."""
        if self.address:
            return self.address
        gateway: str = self._client.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
        return gateway

    @property
    def endpoint(self) -> str:
        return f"https://{self.host}:{self.port}"

    def variables(self) -> dict[str, Any]:
        """For an inventory that keeps its backups here."""
        return {
            "platform_object_storage": "external",
            "platform_s3_endpoint": self.endpoint,
            "platform_s3_bucket": self.bucket,
            "platform_s3_region": self.region,
            "platform_s3_ca_file": str(self.ca_file),
            "object_storage_access_key_id": self.keys["default"][0],
            "object_storage_secret_access_key": self.keys["default"][1],
            "object_storage_prune_access_key_id": self.keys["prune"][0],
            "object_storage_prune_secret_access_key": self.keys["prune"][1],
        }

    def client(self, profile: str = "admin", endpoint: str = "") -> Any:
        """boto3's, from this machine; one attempt for each request."""
        key, secret = self.keys[profile]
        return boto3.client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name=self.region,
            verify=str(self.ca_file),
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def start(self, *, create_bucket: bool = True, **bucket: Any) -> S3Store:
        """Starts it anew, with the data and the keys that are there; `bucket` goes to create_bucket of boto3."""
        self._client = docker.from_env()
        self.stop()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._load_or_make_keys()
        self._make_certificates()
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        files = self.directory / "secrets"
        mounts = {str(files): {"bind": "/run/secrets", "mode": "ro"}}
        temporary = {"/tmp": "size=256m,mode=1777"}
        if self.data_mb:
            temporary["/var/lib/seaweedfs"] = f"size={self.data_mb}m,uid={USER},gid={USER}"
        else:
            mounts[str(data)] = {"bind": "/var/lib/seaweedfs", "mode": "rw"}
        for path in (data, files, *files.iterdir()):
            shutil.chown(path, USER, USER)
        self._container = self._client.containers.run(
            self.image,
            # As many files as a small disk allows; the console is not needed.
            ["-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=1"],
            name=self.name,
            detach=True,
            read_only=True,
            init=False,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            # As the role sets it.
            environment={"GOMEMLIMIT": f"{int(self.memory_mb * 0.4)}MiB"},
            mem_limit=f"{self.memory_mb}m",
            tmpfs=temporary,
            volumes=mounts,
            ports={"8333/tcp": (self.host, self.port or None)},
            labels={"io.n8n-platform.test": "s3"},
        )
        self._container.reload()
        self.port = int(self._container.ports["8333/tcp"][0]["HostPort"])
        wait_until(self._is_healthy, f"the S3 store {self.name}", 60)
        if create_bucket:
            self.ensure_bucket(**bucket)
        return self

    def stop(self) -> None:
        """Removes the container; the data stay unless they were in memory."""
        for container in self._client.containers.list(all=True, filters={"name": f"^/{self.name}$"}):
            container.remove(force=True, v=True)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> S3Store:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def container(self) -> Container:
        return self._container

    def join(self, network: str) -> str:
        """Makes the store a member of a network; the endpoint for the other members."""
        self._client.networks.get(network).connect(self._container)
        return f"https://{self.name}:8333"

    def ensure_bucket(self, **more: Any) -> None:
        """A versioned bucket, as the platform makes it."""
        client = self.client()
        if self.bucket not in [found["Name"] for found in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=self.bucket, **more)
        client.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})

    def _is_healthy(self) -> bool:
        self._container.reload()
        state = self._container.attrs["State"]
        assert state["Running"], self._container.logs().decode()[-3000:]
        return bool(state["Health"]["Status"] == "healthy")

    def _load_or_make_keys(self) -> None:
        file = self.directory / "keys.json"
        if file.exists():
            self.keys = {name: tuple(pair) for name, pair in json.loads(file.read_text()).items()}
        self.keys = self.keys or {name: (secrets.token_hex(10), secrets.token_hex(20)) for name in PROFILES}
        file.write_text(json.dumps(self.keys))
        self.credentials_file.write_text(
            "".join(
                f"[{profile}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
                for profile, (key, secret) in self.keys.items()
            )
        )
        for path in (file, self.credentials_file):
            path.chmod(0o600)
        directory = self.directory / "secrets"
        directory.mkdir(exist_ok=True)
        (directory / "object_storage_identities").write_text(self._identities())

    def _identities(self) -> str:
        """The role's own rights with these keys."""
        variables = yaml.safe_load(ROLE_VARIABLES.read_text())
        policies = variables["__object_storage_policies"]
        wanted = variables["__object_storage_identities"]
        for entry in wanted["policies"]:
            entry["content"] = json.dumps(policies[entry["name"]])
        names = {"bucket": self.bucket, "bundles_bucket": self.bundles, "bundles": self.bundles}
        text = json.dumps(wanted)
        for name, value in names.items():
            text = text.replace(f"{{{{ __object_storage_{name} }}}}", value)
        for profile, prefix in PROFILES.items():
            for name, value in zip(("access_key_id", "secret_access_key"), self.keys[profile], strict=True):
                text = text.replace(f"{{{prefix}_{name}}}", value)
        assert not re.search(r"\{[a-z_]+\}", text)
        return text

    def _make_certificates(self) -> None:
        """An authority that stays, and a certificate for this start."""
        authority = Authority(self.directory / "authority")
        self.ca_file.write_bytes(authority.ca_file.read_bytes())
        files = self.directory / "secrets"
        names = [self.name, "object-storage", "localhost", "127.0.0.1", self.host]
        authority.issue(files / "object_storage_tls.crt", files / "object_storage_tls.key", names)
        (files / "object_storage_tls.ca").write_bytes(self.ca_file.read_bytes())
