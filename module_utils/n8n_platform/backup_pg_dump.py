"""Kind `pg_dump`: {name, kind, service, database}: one database as a dump that can be restored by itself, anywhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.backup import BackupError, Context, file_artefact
from ansible.module_utils.n8n_platform.engine_run import Result

ADMIN = ["-U", "postgres"]
_MAGIC = b"PGDMP"
_CLIENT_PATIENCE = 60.0


class PgDump:
    """Custom format, compressed with zstd. Raises BackupError: the server does not answer, pg_dump fails or takes
    longer than the limit `pg_dump`, the dump cannot be read back."""

    def __init__(self, item: dict[str, Any]) -> None:
        self.name: str = item["name"]
        self.service: str = item["service"]
        self.database: str = item["database"]

    def forecast(self, context: Context) -> int:
        """The database with its indexes; compressed, a dump is smaller."""
        statement = "SELECT pg_database_size(current_database())"
        result = inside(
            context, self.service, ["psql", "-XqAt", *ADMIN, "-d", self.database, "-c", statement]
        )
        if result.code:
            raise BackupError(f"{self.name}: the server does not answer: {result.words()}")
        return int(result.stdout)

    def run(self, context: Context, staging: Path) -> list[dict[str, Any]]:
        target = staging / f"{self.name}.dump"
        argv = ["pg_dump", *ADMIN, "-d", self.database, "--format=custom", "--compress=zstd:3"]
        target.touch(0o600)
        limit = context.limit("pg_dump")
        result = inside(context, self.service, argv, limit, output=target)
        if result.code:
            target.unlink()
            raise BackupError(f"{self.name}: pg_dump: {result.words() or f'exit code {result.code}'}")
        tables = len(re.findall(r" TABLE DATA ", self._contents(context, target)))
        artefact = file_artefact(
            self.name, "pg_dump", target, service=self.service, database=self.database, tables=tables
        )
        return [artefact]

    def _contents(self, context: Context, dump: Path) -> str:
        """Table of contents; also proves that it is a whole dump: it is written last, at the beginning."""
        with dump.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise BackupError(f"{self.name}: {dump.name} is no dump")
        result = inside(context, self.service, ["pg_restore", "--list"], dump=dump)
        if result.code:
            raise BackupError(f"{self.name}: {dump.name} cannot be read back: {result.words()}")
        return result.stdout


def inside(
    context: Context,
    service: str,
    argv: list[str],
    seconds: float = 300.0,
    *,
    dump: Path | None = None,
    output: Path | None = None,
) -> Result:
    """Runs a program in a service's container; the limit holds inside, too. `dump` is its input, `output` gets its
    output."""
    command = [context.oneshots.docker, "--host", f"unix://{context.engine.socket}", "exec"]
    command += ["-i"] if dump else []
    command += [context.container(service)["Id"], "timeout", "--kill-after=15", f"{seconds:.0f}", *argv]
    stdin = dump.open("rb") if dump else None
    stdout = output.open("wb") if output else None
    try:
        done = subprocess.run(
            command,
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=seconds + _CLIENT_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Result(124, "", f"not done within its time limit of {seconds:.0f} s")
    finally:
        for stream in (stdin, stdout):
            if stream:
                stream.close()
    said = done.stderr.decode("utf-8", "replace")
    if done.returncode in (124, 137):
        said = f"not done within its time limit of {seconds:.0f} s"
    return Result(done.returncode, (done.stdout or b"").decode("utf-8", "replace"), said)
