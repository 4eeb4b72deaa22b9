"""Kind `pg_dump`: {name, kind, service, database}: one database as a dump that can be restored by itself, anywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.backup import BackupError, Context, file_artefact
from ansible.module_utils.n8n_platform.postgres import identifier
from ansible.module_utils.n8n_platform.postgres_dump_restore import FORMER

ADMIN = ["-U", "postgres"]
_MAGIC = b"PGDMP"


class PgDump:
    """Custom format, compressed with zstd. Raises BackupError: the server does not answer, pg_dump fails or takes
    longer than the limit `pg_dump`, the dump cannot be read back."""

    def __init__(self, item: dict[str, Any]) -> None:
        self.name: str = item["name"]
        self.service: str = item["service"]
        self.database: str = item["database"]

    def forecast(self, context: Context) -> int:
        """The database with its indexes; compressed, a dump is smaller."""
        return int(self._ask(context, "SELECT pg_database_size(current_database())"))

    def run(self, context: Context, staging: Path) -> list[dict[str, Any]]:
        target = staging / f"{self.name}.dump"
        argv = ["pg_dump", *ADMIN, "-d", self.database, "--format=custom", "--compress=zstd:3"]
        target.touch(0o600)
        limit = context.limit("pg_dump")
        result = context.inside(self.service, gives_way=True).run(argv, limit, stdout=target)
        if result.code:
            target.unlink()
            raise BackupError(f"{self.name}: pg_dump: {result.words() or f'exit code {result.code}'}")
        tables = len(re.findall(r" TABLE DATA ", self._contents(context, target)))
        artefact = file_artefact(
            self.name, "pg_dump", target, service=self.service, database=self.database, tables=tables
        )
        return [artefact]

    def completed(self, context: Context) -> list[str]:
        """After a good set: the database that the last logical restore has replaced goes. One text each."""
        former = self.database + FORMER
        if former not in self._ask(context, "SELECT datname FROM pg_database").splitlines():
            return []
        self._ask(context, f"DROP DATABASE {identifier(former)} WITH (FORCE)")
        return [f"removed database {former}, which a restore has replaced"]

    def _ask(self, context: Context, statement: str) -> str:
        argv = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", *ADMIN, "-d", self.database, "-c", statement]
        result = context.inside(self.service).run(argv)
        if result.code:
            raise BackupError(f"{self.name}: the server does not answer: {result.words()}")
        return result.stdout

    def _contents(self, context: Context, dump: Path) -> str:
        """Table of contents; also proves that it is a whole dump: it is written last, at the beginning."""
        with dump.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise BackupError(f"{self.name}: {dump.name} is no dump")
        result = context.inside(self.service, gives_way=True).run(["pg_restore", "--list"], stdin=dump)
        if result.code:
            raise BackupError(f"{self.name}: {dump.name} cannot be read back: {result.words()}")
        return result.stdout
