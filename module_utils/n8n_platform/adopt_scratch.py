"""A Postgres of its own that lives only as long as a source is looked at, before the environment has got anything.

n8n's import of entities deletes what is there and wants a superuser's rights: that, too, happens here only.
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
_DUMP = "n8n.dump"
_LIMITS = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "256"]


@dataclass(frozen=True)
class Scratch:
    """A server in `container`, for as long as the block lasts.

    `name`: what containers and network are called after; `work`: a directory of our own, of which only a dump outlives
    the block. Raises AdoptError.
    """

    name: str
    work: Path
    postgres_image: str
    n8n_image: str

    @property
    def container(self) -> str:
        return f"{self.name}-postgres"

    @property
    def _n8n(self) -> str:
        return f"{self.name}-n8n"

    def __enter__(self) -> Scratch:
        self._remove_containers()
        shutil.rmtree(self.work, ignore_errors=True)
        self._lay_out()
        try:
            docker("network", "create", "--internal", self.name)
            self._start_postgres()
        except AdoptError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_containers()
        for part in ("postgres", "export"):
            shutil.rmtree(self.work / part, ignore_errors=True)

    def import_entities(self, archive: Path, database: str, key: str, export_key_file: str = "") -> Path:
        """What n8n makes of its own export, in `database`, and as a dump in custom format.

        key: n8n's encryption key; export_key_file: what `export:entities --keyFile` was given, or empty. Raises
        AdoptError with n8n's words.
        """
        export = self.work / "export"
        shutil.copyfile(archive, export / "entities.zip")
        os.chown(export / "entities.zip", _N8N_UID, _N8N_UID)
        _write(export / "encryption-key", key, _N8N_UID)
        if export_key_file:
            _write(export / "key", Path(export_key_file).read_text(encoding="utf-8"), _N8N_UID)
        self._import(database, ["--keyFile=/adopt/key"] if export_key_file else [])
        return self._dump(database)

    def _remove_containers(self) -> None:
        for argv in (
            ["rm", "--force", self.container],
            ["rm", "--force", self._n8n],
            ["network", "rm", self.name],
        ):
            with suppress(AdoptError):
                docker(*argv)

    def _lay_out(self) -> None:
        self.work.mkdir(mode=0o711, parents=True)
        password = secrets.token_hex(16)
        for part, uid in (("postgres", _POSTGRES_UID), ("export", _N8N_UID)):
            (self.work / part).mkdir(mode=0o700)
            os.chown(self.work / part, uid, uid)
            _write(self.work / part / "password", password, uid)

    def _start_postgres(self) -> None:
        docker(
            *(
                "run",
                "--detach",
                "--name",
                self.container,
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
        ask = ("exec", self.container, "psql", "-XqAt", "-U", "postgres", "-d", "postgres", "-c", "SELECT 1")
        while True:
            try:
                docker(*ask)
                return
            except AdoptError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _import(self, database: str, options: list[str]) -> None:
        environment = {
            "DB_TYPE": "postgresdb",
            "DB_POSTGRESDB_HOST": self.container,
            "DB_POSTGRESDB_USER": "postgres",
            "DB_POSTGRESDB_DATABASE": database,
            "DB_POSTGRESDB_PASSWORD_FILE": "/adopt/password",
            "N8N_ENCRYPTION_KEY_FILE": "/adopt/encryption-key",
            "N8N_DIAGNOSTICS_ENABLED": "false",
        }
        variables = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        docker(
            *("run", "--rm", "--name", self._n8n, "--network", self.name, "--memory", "2g", *_LIMITS),
            *("--tmpfs=/tmp:mode=1777", "--tmpfs", "/home/node/.n8n:uid=1000,gid=1000,mode=0700"),
            *("--tmpfs", "/home/node/.cache:uid=1000,gid=1000,mode=0700"),
            *("--volume", f"{self.work}/export:/adopt", *variables, self.n8n_image),
            *("import:entities", "--inputDir=/adopt", "--truncateTables=true", *options),
        )

    def _dump(self, database: str) -> Path:
        path = self.work / _DUMP
        argv = ["docker", "exec", self.container, "pg_dump", "-U", "postgres", "-Fc", database]
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            done = subprocess.run(argv, stdout=stream, stderr=subprocess.PIPE, check=False)
        if done.returncode:
            raise AdoptError(f"the imported entities cannot be dumped: {done.stderr.decode()[-300:]}")
        return path


def docker(*argv: str) -> str:
    """Output of a command of the engine's client. Raises AdoptError."""
    done = subprocess.run(["docker", *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AdoptError(f"docker {argv[0]}: {_words(done.stdout) or _words(done.stderr)}")
    return done.stdout


def _write(file: Path, text: str, uid: int) -> None:
    with file.open("x", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), 0o400)
        os.fchown(stream.fileno(), uid, uid)
        stream.write(text)


def _words(output: str) -> str:
    """n8n writes its reason between lines of emphasis; the last ones that say something."""
    lines = [line.strip() for line in output.splitlines()]
    return " ".join([line for line in lines if line and set(line) != {"="}][-3:])[-400:]
