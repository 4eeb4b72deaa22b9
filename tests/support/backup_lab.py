"""An environment that is just large enough to be backed up: a secret store, a Redis, some files, and no Ansible."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
from ansible.module_utils.n8n_platform.backup import Definition
from ansible.module_utils.n8n_platform.backup_service import Service
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.engine_run import Mount, OneShots, Result
from ansible.module_utils.n8n_platform.openbao_own import OwnStore

ROOT = Path(__file__).resolve().parents[2]
OPENBAO_UID, REDIS_UID, TRAEFIK_UID = 2004, 2002, 2003
NAME = "test-backup-lab"


@dataclass
class BackupLab:
    """`with BackupLab(directory, images) as lab:`; `images`: references by name (backup, redis, openbao)."""

    root: Path
    images: dict[str, str]
    name: str = NAME
    secrets: dict[str, str] = field(default_factory=dict)
    s3: dict[str, Any] = field(default_factory=dict)
    recipient: str = ""
    identity: str = ""

    def __enter__(self) -> BackupLab:
        self.remove()
        for folder in (
            "volumes/redis-queue",
            "volumes/openbao",
            "volumes/n8n-home",
            "volumes/traefik-acme",
            "secrets/host",
            "state",
            "config",
        ):
            (self.root / folder).mkdir(parents=True)
        self._start_store()
        self._start_redis()
        (self.home / "nodes").mkdir()
        (self.home / "config").write_text('{"a": 1}')
        (self.home / "nodes/large.bin").write_bytes(os.urandom(3 << 20))
        (self.certificates / "acme.json").write_text('{"letsencrypt": {"Certificates": []}}')
        (self.certificates / "acme.json").chmod(0o600)
        shutil.chown(self.certificates / "acme.json", TRAEFIK_UID, TRAEFIK_UID)
        self._make_identity()
        self.write_definition()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def project(self) -> str:
        return f"n8n-{self.name}"

    @property
    def home(self) -> Path:
        return self.root / "volumes/n8n-home"

    @property
    def certificates(self) -> Path:
        return self.root / "volumes/traefik-acme"

    @property
    def backups(self) -> Path:
        return self.root / "backups"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def program(self) -> Path:
        return self.state / "platform-backup"

    def definition(self, **changes: Any) -> dict[str, Any]:
        return {
            "environment": self.name,
            "project": self.project,
            "timezone": "Europe/Berlin",
            "volumes_root": str(self.root / "volumes"),
            "secrets_root": str(self.root / "secrets"),
            "state_root": str(self.state),
            "backup_root": str(self.backups),
            "images": {"backup": self.images["backup"]},
            "s3": self.s3,
            "items": [
                {"name": "redis-queue", "kind": "redis_rdb", "service": "redis-queue"},
                {"name": "openbao", "kind": "openbao_snapshot"},
                {"name": "n8n-home", "kind": "directory", "path": str(self.home)},
                {"name": "traefik-acme", "kind": "directory", "path": str(self.certificates)},
                {
                    "name": "keys-n8n",
                    "kind": "keys",
                    "secrets": ["n8n_encryption_key", "backup_restic_password"],
                },
                {
                    "name": "keys-openbao",
                    "kind": "keys",
                    "files": {
                        "openbao.key": str(self.root / "seal/openbao.key"),
                        "openbao.json": str(self.state / "openbao.json"),
                    },
                },
            ],
            "calendar": {"full": "weekly sun 02:00", "diff": "daily 02:00", "incr": "hourly"},
            "retention": {"local_days": 7, "offsite_days": 30, "minimum_sets": 2},
            "bundle": {"recipients": [self.recipient], "destination": ""},
            "timeouts": {"default": 300},
            "versions": {"n8n": "1.2.3", "postgres": "17"},
            **changes,
        }

    def write_definition(self, **changes: Any) -> Path:
        path = self.state / "backup.json"
        path.write_text(json.dumps(self.definition(**changes)))
        return path

    def service(self, now: datetime | None = None, **changes: Any) -> Service:
        """The library, told what time it is."""
        return Service(Definition(self.definition(**changes)), now)

    def install(self) -> None:
        """The command as a site run installs it."""
        self.program.write_bytes(platform_program().archive("backup_cli"))
        self.program.chmod(0o755)
        assert zipfile.is_zipfile(BytesIO(self.program.read_bytes()))

    def command(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.program), *arguments], capture_output=True, text=True, check=False, **more
        )

    def restic(
        self, *arguments: str, mounts: tuple[Mount, ...] = (), capabilities: tuple[str, ...] = ()
    ) -> Result:
        password = self.root / "secrets/host/backup_restic_password"
        given = (Mount(password, "/password"), Mount(self.backups / "restic", "/repository", False), *mounts)
        argv = ["restic", "--repo", "/repository", "--no-cache", "--password-file", "/password", *arguments]
        return OneShots(Engine(), "", "once").run(
            self.images["backup"], argv, mounts=given, timeout=300, capabilities=capabilities
        )

    def open_bundle(self, path: Path) -> dict[str, Any]:
        opened = OneShots(Engine(), "", "once").run(
            self.images["backup"],
            [
                "sh",
                "-c",
                'echo "$1" > /tmp/key && exec age --decrypt -i /tmp/key /bundle',
                "sh",
                self.identity,
            ],
            mounts=[Mount(path, "/bundle")],
        )
        assert opened.code == 0, opened.words()
        bundle: dict[str, Any] = json.loads(opened.stdout)
        return bundle

    def redis_cli(self, *command: str) -> str:
        password = self.secrets["redis"]
        argv = ["docker", "exec", self._container("redis-queue"), "redis-cli", "--no-auth-warning"]
        done = subprocess.run(
            [*argv, "--user", "admin", "--pass", password, *command],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def remove(self) -> None:
        for service in ("redis-queue", "openbao"):
            subprocess.run(
                ["docker", "rm", "-fv", self._container(service)], capture_output=True, check=False
            )
        shutil.rmtree(self.root, ignore_errors=True)

    def _container(self, service: str) -> str:
        return f"{self.project}-{service}-1"

    def _start(
        self, service: str, uid: int, mounts: dict[str, str], *command: str, entrypoint: str = ""
    ) -> None:
        labels = {"com.docker.compose.project": self.project, "com.docker.compose.service": service}
        argv = ["docker", "run", "--detach", "--name", self._container(service), "--user", f"{uid}:{uid}"]
        argv += [
            "--read-only",
            "--cap-drop",
            "ALL",
            "--network",
            "none",
            "--memory",
            "256m",
            "--pull",
            "never",
        ]
        argv += [part for item in labels.items() for part in ("--label", "=".join(item))]
        argv += [part for source, target in mounts.items() for part in ("-v", f"{source}:{target}")]
        argv += ["--entrypoint", entrypoint] if entrypoint else []
        image = self.images[service.split("-")[0]]
        subprocess.run([*argv, image, *command], capture_output=True, text=True, check=True)

    def _start_redis(self) -> None:
        self.secrets["redis"] = secrets.token_hex(16)
        files = self.root / "secrets/redis-queue"
        files.mkdir()
        (files / "redis_queue_admin_password").write_text(self.secrets["redis"])
        (self.root / "config/redis.conf").write_text(
            f'bind 127.0.0.1\ndir /data\nsave ""\nappendonly yes\nuser admin on >{self.secrets["redis"]} ~* &* +@all\n'
        )
        data = self.root / "volumes/redis-queue"
        for path in (data, files, files / "redis_queue_admin_password", self.root / "config/redis.conf"):
            shutil.chown(path, REDIS_UID, REDIS_UID)
        mounts = {str(data): "/data", str(files): "/run/secrets", str(self.root / "config"): "/etc/redis"}
        self._start("redis-queue", REDIS_UID, mounts, "/etc/redis/redis.conf")

    def _start_store(self) -> None:
        store = OwnStore(self._store_parameters())
        steps = store.plan_prepared()
        store.apply_prepared(steps)
        folders = {"config": "openbao.hcl.j2"}
        hcl = (ROOT / "roles/secrets/templates" / folders["config"]).read_text()
        text = jinja2.Template(hcl).render(ansible_managed="", __secrets_prepared={"generation": 1})
        (self.root / "config/openbao").mkdir()
        (self.root / "config/openbao/openbao.hcl").write_text(text.split('audit "file"')[0])
        shutil.chown(self.root / "volumes/openbao", OPENBAO_UID, OPENBAO_UID)
        mounts = {
            str(self.root / "config/openbao"): "/etc/openbao",
            str(self.root / "seal"): "/etc/openbao-seal",
            str(self.root / "run"): "/run/openbao",
            str(self.root / "volumes/openbao"): "/var/lib/openbao",
        }
        self._start("openbao", OPENBAO_UID, mounts, "server", "-config=/etc/openbao", entrypoint="bao")
        store.apply_configured(store.plan_configured())
        for name in ("n8n_encryption_key", "backup_restic_password"):
            self.secrets[name] = secrets.token_hex(24)
            store.store().put(name, self.secrets[name])
        password = self.root / "secrets/host/backup_restic_password"
        password.write_text(self.secrets["backup_restic_password"])
        (self.root / "secrets/n8n-main").mkdir()
        (self.root / "secrets/n8n-main/n8n_encryption_key").write_text(self.secrets["n8n_encryption_key"])

    def _store_parameters(self) -> dict[str, Any]:
        names = {
            "secrets_environment": self.name,
            "secrets_openbao_mount": "kv",
            "secrets_openbao_pki_mount": "pki",
        }
        template = (ROOT / "roles/secrets/templates/deployer.hcl.j2").read_text()
        return {
            "environment": self.name,
            "address": f"unix://{self.root}/run/api.sock",
            "store_file": str(self.state / "openbao-store.json"),
            "mount": "kv",
            "pki_mount": "pki",
            "policy": jinja2.Template(template).render(**names, __secrets_external=False),
            "certificates": [],
            "edge_names": ["localhost"],
            "record_file": str(self.state / "openbao.json"),
            "seal_directory": str(self.root / "seal"),
            "data_directory": str(self.root / "volumes/openbao"),
            "audit_file": "",
            "owner": OPENBAO_UID,
            "report_seal_key": False,
            "wait_seconds": 60,
        }

    def _make_identity(self) -> None:
        made = OneShots(Engine(), "", "once").run(self.images["backup"], ["age-keygen"])
        self.identity = next(line for line in made.stdout.splitlines() if line.startswith("AGE-SECRET-KEY-"))
        self.recipient = made.stdout.split("public key: ")[1].split()[0]


def platform_program() -> Any:
    """The action plugin; by its path, since the folder holds namesakes of modules."""
    path = ROOT / "plugins/action/platform_program.py"
    spec = importlib.util.spec_from_file_location("action_platform_program", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built_images(folder: Path) -> dict[str, str]:
    """References by name, of images that are there when this returns."""
    target = folder / "images.json"
    playbook = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run(
        [playbook, "-i", "inventories/local", "-e", f"target={target}", "tests/backup/images.yml"],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    found: dict[str, str] = json.loads(target.read_text())
    return found
