"""Makes a dump of n8n's own export of its entities, in two containers that live for this alone.

n8n's import deletes what is there and wants a superuser's rights, so it never gets to the environment's own server.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.n8n_platform.adopt import AdoptError

_POSTGRES_UID, _N8N_UID = 2001, 1000
_START_SECONDS = 120
_LIMITS = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "256"]


@dataclass(frozen=True)
class Conversion:
    """`name` is what containers and network are called after; `work` an empty directory of our own; `key_file` has
    n8n's encryption key, readable for uid 1000; `export_key_file` that of `export:entities --keyFile`, or is empty."""

    name: str
    work: Path
    postgres_image: str
    n8n_image: str
    key_file: str
    export_key_file: str = ""

    def dump(self, archive: Path) -> Path:
        """A dump in custom format of what n8n imported. Raises AdoptError with n8n's words."""
        self.clean()
        try:
            self._lay_out(archive)
            self._docker("network", "create", "--internal", self.name)
            self._start_postgres()
            self._import()
            return self._dump()
        finally:
            self._remove_containers()

    def clean(self) -> None:
        """Removes what a run, or one that was killed, has left."""
        self._remove_containers()
        shutil.rmtree(self.work, ignore_errors=True)

    def _remove_containers(self) -> None:
        for argv in (
            ["rm", "--force", self._postgres],
            ["rm", "--force", self._n8n],
            ["network", "rm", self.name],
        ):
            with suppress(AdoptError):
                self._docker(*argv)

    @property
    def _postgres(self) -> str:
        return f"{self.name}-postgres"

    @property
    def _n8n(self) -> str:
        return f"{self.name}-n8n"

    def _lay_out(self, archive: Path) -> None:
        self.work.mkdir(mode=0o711)
        for part, uid in (("postgres", _POSTGRES_UID), ("export", _N8N_UID)):
            (self.work / part).mkdir(mode=0o700)
            os.chown(self.work / part, uid, uid)
        password = secrets.token_hex(16)
        own = {"postgres/password": _POSTGRES_UID, "export/password": _N8N_UID}
        for file, uid in own.items():
            _write(self.work / file, password, uid)
        shutil.copyfile(archive, self.work / "export/entities.zip")
        os.chown(self.work / "export/entities.zip", _N8N_UID, _N8N_UID)
        if self.export_key_file:
            _write(self.work / "export/key", Path(self.export_key_file).read_text(encoding="utf-8"), _N8N_UID)

    def _start_postgres(self) -> None:
        self._docker(
            *(
                "run",
                "--detach",
                "--name",
                self._postgres,
                "--network",
                self.name,
                "--memory",
                "1g",
                *_LIMITS,
            ),
            *("--tmpfs=/tmp:mode=1777", "--tmpfs", "/var/run/postgresql:uid=2001,gid=2001,mode=0775"),
            *("--volume", f"{self.work}/postgres:/var/lib/postgresql"),
            *("--env", "POSTGRES_PASSWORD_FILE=/var/lib/postgresql/password", self.postgres_image),
            *("-c", "fsync=off"),
        )
        deadline = time.monotonic() + _START_SECONDS
        ask = ("exec", self._postgres, "psql", "-XqAt", "-U", "postgres", "-d", "postgres", "-c")
        while True:
            try:
                self._docker(*ask, "SELECT 1")
                break
            except AdoptError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        self._docker(*ask, "CREATE DATABASE n8n")

    def _import(self) -> None:
        environment = {
            "DB_TYPE": "postgresdb",
            "DB_POSTGRESDB_HOST": self._postgres,
            "DB_POSTGRESDB_USER": "postgres",
            "DB_POSTGRESDB_DATABASE": "n8n",
            "DB_POSTGRESDB_PASSWORD_FILE": "/adopt/password",
            "N8N_ENCRYPTION_KEY_FILE": "/run/secrets/n8n_encryption_key",
            "N8N_DIAGNOSTICS_ENABLED": "false",
        }
        variables = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        keys = ["--keyFile=/adopt/key"] if self.export_key_file else []
        self._docker(
            *("run", "--rm", "--name", self._n8n, "--network", self.name, "--memory", "2g", *_LIMITS),
            *("--tmpfs=/tmp:mode=1777", "--tmpfs", "/home/node/.n8n:uid=1000,gid=1000,mode=0700"),
            *("--tmpfs", "/home/node/.cache:uid=1000,gid=1000,mode=0700"),
            *("--volume", f"{self.work}/export:/adopt"),
            *("--volume", f"{self.key_file}:/run/secrets/n8n_encryption_key:ro", *variables, self.n8n_image),
            *("import:entities", "--inputDir=/adopt", "--truncateTables=true", *keys),
        )

    def _dump(self) -> Path:
        path = self.work / "n8n.dump"
        argv = ["docker", "exec", self._postgres, "pg_dump", "-U", "postgres", "-Fc", "n8n"]
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            done = subprocess.run(argv, stdout=stream, stderr=subprocess.PIPE, check=False)
        if done.returncode:
            raise AdoptError(f"the imported entities cannot be dumped: {done.stderr.decode()[-300:]}")
        return path

    def _docker(self, *argv: str) -> str:
        done = subprocess.run(["docker", *argv], capture_output=True, text=True, check=False)
        if done.returncode:
            raise AdoptError(f"docker {argv[0]}: {_words(done.stdout) or _words(done.stderr)}")
        return done.stdout


def _write(path: Path, text: str, uid: int) -> None:
    with path.open("x", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), 0o400)
        os.fchown(stream.fileno(), uid, uid)
        stream.write(text)


def _words(output: str) -> str:
    """n8n writes its reason between lines of emphasis; the last ones that say something."""
    lines = [line.strip() for line in output.splitlines()]
    return " ".join([line for line in lines if line and set(line) != {"="}][-3:])[-400:]
