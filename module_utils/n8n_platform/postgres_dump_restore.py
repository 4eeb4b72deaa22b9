"""A database from a dump: made under a name of its own beside the one in use, looked at, then given its name."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.backup import BackupError, Exit, sha256_of
from ansible.module_utils.n8n_platform.engine_exec import Inside
from ansible.module_utils.n8n_platform.files import held, replacing
from ansible.module_utils.n8n_platform.postgres import identifier, literal
from ansible.module_utils.n8n_platform.postgres_generations import UID

_FOLDER = ".restore"
_NEW = "_restore"
FORMER = "_before_restore"
# A dump is compressed, and indexes come on top.
_GROWTH = 8
_DATA = re.compile(r"^\d+; \d+ \d+ TABLE DATA (\S+) (\S+) ", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """`inside` is the server's container, running; `volume` its folder on the host, mounted at /var/lib/postgresql."""

    inside: Inside
    volume: Path
    database: str
    owner: str
    jobs: int = 2
    seconds: float = 3600.0


class DumpRestore:
    """Raises BackupError: DAMAGED (checksum, a table that is missing), NO_SPACE, else FAILED. Until `switch`, and after
    a failure of it, the database in use is as it was."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._new = target.database + _NEW
        self._former = target.database + FORMER

    def prepare(self, dump: Path, sha256: str = "") -> dict[str, Any]:
        """Restores and looks; the database in use may be worked with meanwhile. {tables, bytes}."""
        if sha256 and sha256_of(dump) != sha256:
            raise BackupError(f"{dump}: its checksum is not the one in the manifest", Exit.DAMAGED)
        self._check_room(dump)
        self.discard_new()
        # From here on one of this name is what this restore has replaced.
        self.discard_former()
        with self._in_sight(dump) as path:
            tables = _DATA.findall(self._run(["pg_restore", "--list", path], "cannot be read", Exit.DAMAGED))
            self._sql(
                f"CREATE DATABASE {identifier(self._new)} OWNER {identifier(self._target.owner)} TEMPLATE template0;"
                f"REVOKE ALL ON DATABASE {identifier(self._new)} FROM PUBLIC"
            )
            argv = [
                "pg_restore",
                "-U",
                "postgres",
                "-d",
                self._new,
                "--exit-on-error",
                f"--jobs={self._target.jobs}",
                path,
            ]
            self._run(argv, "cannot be restored", Exit.DAMAGED)
        return {
            "tables": self._verify(tables),
            "bytes": int(self._sql(f"SELECT pg_database_size({literal(self._new)})")),
        }

    def switch(self) -> str:
        """Sessions of the database in use are ended. In one transaction it gets another name, which is returned, and
        the restored one its name. The name is empty when there was none to keep."""
        name, new, former = (identifier(text) for text in (self._target.database, self._new, self._former))
        used, restored = literal(self._target.database), literal(self._new)
        there = self._databases()
        if self._target.database not in there:
            self._sql(f"ALTER DATABASE {new} RENAME TO {name}")
            return ""
        if self._new not in there and self._former in there:
            return self._former  # done by a run that was killed before it could say so
        end = f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname IN ({used}, {restored})"  # noqa: S608
        try:
            self._sql(
                f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
                end,
                f"BEGIN; ALTER DATABASE {name} RENAME TO {former}; ALTER DATABASE {new} RENAME TO {name}; "
                f"ALTER DATABASE {former} ALLOW_CONNECTIONS true; COMMIT",
            )
        finally:
            # Whichever has the name now.
            self._sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        return self._former

    def back(self) -> None:
        """From wherever a switch was ended the former database has its name again, and takes sessions; the restored one
        goes."""
        name, former = identifier(self._target.database), identifier(self._former)
        there = self._databases()
        if self._new not in there and self._former in there:
            self._sql(
                f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"ALTER DATABASE {former} RENAME TO {name}"
            )
        self._sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        self.discard_new()

    def discard_new(self) -> None:
        self._sql(f"DROP DATABASE IF EXISTS {identifier(self._new)} WITH (FORCE)")

    def discard_former(self) -> None:
        """Gives up the way back."""
        self._sql(f"DROP DATABASE IF EXISTS {identifier(self._former)} WITH (FORCE)")

    def _databases(self) -> list[str]:
        return self._sql("SELECT datname FROM pg_database").splitlines()

    def _check_room(self, dump: Path) -> None:
        needed, free = dump.stat().st_size * (1 + _GROWTH), shutil.disk_usage(self._target.volume).free
        if free < needed:
            raise BackupError(
                f"{self._target.volume}: {free >> 20} MiB free, {dump.name} needs about {needed >> 20} MiB "
                "beside the data that is there",
                Exit.NO_SPACE,
            )

    def _verify(self, tables: list[tuple[str, str]]) -> int:
        found = self._sql(
            "SELECT schemaname || ' ' || tablename FROM pg_tables", database=self._new
        ).splitlines()
        missing = [f"{schema}.{table}" for schema, table in tables if f"{schema} {table}" not in found]
        invalid = self._sql(
            "SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid", database=self._new
        )
        if missing or invalid:
            raise BackupError(
                f"database {self._new}: missing or invalid: {', '.join([*missing, invalid])}", Exit.DAMAGED
            )
        return len(tables)

    @contextmanager
    def _in_sight(self, dump: Path) -> Iterator[str]:
        """The dump's path inside the container: restoring with several jobs needs a file."""
        folder = self._target.volume / _FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        try:
            with held(self._target.volume, folder, make=True) as made:
                with dump.open("rb") as source, replacing(made / "dump", UID, UID) as copy:
                    shutil.copyfileobj(source, copy)
                os.chown(made, UID, UID)
            yield f"/var/lib/postgresql/{_FOLDER}/dump"
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _sql(self, *statements: str, database: str = "postgres") -> str:
        argv = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database]
        commands = [
            part for text in ";".join(statements).split(";") for part in ("-c", text.strip()) if text.strip()
        ]
        return self._run([*argv, *commands], "psql").strip()

    def _run(self, argv: list[str], what: str, code: Exit = Exit.FAILED) -> str:
        result = self._target.inside.run(argv, self._target.seconds)
        if result.code:
            words = result.words(900) or f"exit code {result.code}"
            raise BackupError(f"database {self._target.database}: {what}: {words}", code)
        return result.stdout
