"""One Postgres instance of the platform's image with its rendered configuration, and the library around it."""

from __future__ import annotations

import json
import secrets as random
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform import backup, postgres_choice, postgres_recovery, secrets
from ansible.module_utils.n8n_platform.backup import Context, Definition
from ansible.module_utils.n8n_platform.backup_pgbackrest import PgBackRestItem
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.engine_exec import Inside
from ansible.module_utils.n8n_platform.engine_run import OneShots
from ansible.module_utils.n8n_platform.files import make_directory, write_file
from ansible.module_utils.n8n_platform.pgbackrest import PgBackRest

from tests.support.certificates import Authority
from tests.support.s3 import S3Store

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "postgres-n8n"
STANZA = "n8n"
ITEM = PgBackRestItem({"name": SERVICE, "kind": "pgbackrest", "service": SERVICE, "stanza": STANZA})


@dataclass
class PostgresLab:
    """Rendered below `root` as environment `name`; `s3` is its second repository.

    images: references by name; `variables` go to the rendering; repository_mb, data_mb: the local repository, or the
    data volume, lies on a file system of that size in memory; environment, mounts: more of the container, for one that
    lives at another time.
    """

    root: Path
    name: str
    images: dict[str, str]
    s3: S3Store | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    repository_mb: int = 0
    data_mb: int = 0
    cipher: str = field(default_factory=lambda: random.token_hex(32))
    environment: dict[str, str] = field(default_factory=dict)
    mounts: list[str] = field(default_factory=list)
    contribution: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.root / self.name

    @property
    def backups(self) -> Path:
        return self.root / f"{self.name}-backups"

    @property
    def volume(self) -> Path:
        return self.data / "volumes" / SERVICE

    @property
    def secrets(self) -> Path:
        return self.data / "secrets" / SERVICE

    @property
    def project(self) -> str:
        return f"n8n-{self.name}"

    @property
    def container(self) -> str:
        return f"{self.project}-{SERVICE}-1"

    @property
    def _disks(self) -> dict[Path, int]:
        sizes = {self.backups / "pgbackrest": self.repository_mb, self.volume: self.data_mb}
        return {folder: megabytes for folder, megabytes in sizes.items() if megabytes}

    def prepare(self) -> None:
        """Renders, fills in secrets, mounts; starts nothing."""
        self.remove()
        playbook = str(Path(sys.executable).with_name("ansible-playbook"))
        variables = {
            "platform_environment": self.name,
            "platform_root": str(self.root),
            "platform_backup_root": str(self.backups),
            "container_images_refs": self.images,
            "postgres_memory_mb": 512,
            "postgres_connections": 40,
            "postgres_backup_io_timeout_seconds": 3,
            **(self.s3.variables() if self.s3 else {}),
            **self.variables,
        }
        argv = [playbook, "-i", "inventories/local", "tests/backup/postgres.yml", "-e", json.dumps(variables)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
        self.contribution = json.loads((self.data / "lab.json").read_text())
        for folder, megabytes in self._disks.items():
            options = f"size={megabytes}m,uid=2001,gid=2001,mode=0750"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        self.write_secrets()

    def start(self) -> None:
        self.compose("up", "--detach", "--wait", "--pull", "never", "--quiet-pull", SERVICE)

    def create(self) -> PostgresLab:
        """Prepared, running, with a stanza in each repository and a table to write to."""
        self.prepare()
        self.start()
        self.client().call("stanza-create")
        self.sql("CREATE DATABASE n8n", "postgres")
        self.sql(
            "CREATE TABLE rows (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), filling text)"
        )
        return self

    def remove(self) -> None:
        if (self.data / "releases/current").exists():
            self.compose("kill", check=False)
            self.compose("down", "--remove-orphans", check=False)
        for folder in self._disks:
            subprocess.run(["umount", str(folder)], check=False, capture_output=True)
        for path in (self.data, self.backups):
            shutil.rmtree(path, ignore_errors=True)

    def compose(self, *arguments: str, check: bool = True) -> None:
        more = {"services": {SERVICE: {"environment": self.environment, "volumes": self.mounts}}}
        (self.data / "more.json").write_text(json.dumps(more))
        files = [self.data / "releases/current/compose.yaml", self.data / "more.json"]
        argv = ["docker", "compose", "--project-name", self.project]
        argv += [part for file in files for part in ("--file", str(file))] + list(arguments)
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, f"{arguments}: {done.stderr}"

    def write_secrets(self, cipher: str = "") -> None:
        """The files of the service, as the store would write them; `cipher` instead of the right one."""
        values = {"backup_pgbackrest_cipher": cipher or self.cipher}
        if self.s3:
            for profile, prefix in (("default", "backup_s3"), ("prune", "backup_s3_prune")):
                values[f"{prefix}_access_key_id"], values[f"{prefix}_secret_access_key"] = self.s3.keys[
                    profile
                ]
        specs = {spec["name"]: spec for spec in self.contribution["secrets"]}
        contents = {
            "postgres_n8n_superuser_password": "lab-password",
            **self._certificates(),
            **{
                name: secrets.render(spec["template"], values)
                for name, spec in specs.items()
                if spec["kind"] == "derived"
            },
        }
        for name, text in contents.items():
            service, uid = ("host", 0) if specs.get(name, {}).get("host") else (SERVICE, 2001)
            make_directory(self.data / "secrets", 0o711)
            make_directory(self.data / "secrets" / service, 0o711)
            write_file(self.data / "secrets" / service / name, text, uid, uid)

    def _certificates(self) -> dict[str, str]:
        folder = self.data / "certificates"
        authority, certificate, key = Authority(folder), folder / "server.crt", folder / "server.key"
        if not certificate.exists():
            authority.issue(certificate, key, [SERVICE])
        files = {"crt": certificate, "key": key, "ca": authority.ca_file}
        return {f"postgres_n8n_tls.{part}": file.read_text() for part, file in files.items()}

    def sql(self, statement: str, database: str = "n8n") -> str:
        argv = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", statement]
        return self.execute(*argv)

    def execute(self, *argv: str) -> str:
        done = subprocess.run(
            ["docker", "exec", self.container, *argv], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{argv}: {done.stderr or done.stdout}"
        return done.stdout.strip()

    def switch_wal(self) -> None:
        """What has been written is in every repository when this returns."""
        self.client().call("check")

    def client(self) -> PgBackRest:
        return PgBackRest(STANZA, Inside(self.container).run)

    def context(self, type_: str = "full", now: datetime | None = None, **values: Any) -> Context:
        moment = now or datetime.now(UTC)
        definition = Definition(
            {
                "environment": self.name,
                "project": self.project,
                "timezone": "Etc/UTC",
                "volumes_root": str(self.volume.parent),
                "secrets_root": str(self.data / "secrets"),
                "state_root": str(self.data / "state"),
                "backup_root": str(self.backups),
                "images": self.images,
                "items": self.contribution["backup"],
                "retention": {"local_days": 7, "offsite_days": 30, "minimum_sets": 2},
                "s3": {"network": "bridge"} if self.s3 else None,
                **values,
            }
        )
        oneshots = OneShots(Engine(), self.name, "backup")
        return Context(
            definition, Engine(), oneshots, backup.run_id(moment), moment, type_, lambda _text: None
        )

    def back_up(self, type_: str = "full", **values: Any) -> dict[str, Any]:
        """Artefacts by repository."""
        context = self.context(type_, **values)
        return {found["repository"]: found for found in ITEM.run(context, self.backups)}

    def request(self, **values: Any) -> postgres_choice.Request:
        defaults = {
            "stanza": STANZA,
            "major": "17",
            "repository": "local",
            "volume": self.volume,
            "configuration": self.secrets / "pgbackrest_n8n",
            "repository_path": self.backups / "pgbackrest",
            "image": self.images["postgres"],
            "network": "bridge",
            "ca_file": self.s3.ca_file if self.s3 else None,
            "seconds": 300.0,
        }
        return postgres_choice.Request(**{**defaults, **values})

    def recovery(self, **values: Any) -> postgres_recovery.Recovery:
        return postgres_recovery.Recovery(OneShots(Engine(), self.name, "restore"), self.request(**values))

    def restore(self, **values: Any) -> dict[str, Any]:
        """In place: recovered beside the running server, switched, started."""
        recovery = self.recovery(**values)
        recovered = recovery.prepare()
        self.compose("stop", SERVICE)
        done = recovery.plan_switch()
        recovery.switch(done["generation"])
        self.start()
        return {**done, **vars(recovered)}
