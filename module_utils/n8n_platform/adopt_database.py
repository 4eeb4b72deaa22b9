"""The database of an n8n that is taken over: restored beside the empty one, checked there, then put in its place.

Until the last step n8n's own database is untouched, so a run can end anywhere and begin again.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ansible.module_utils.n8n_platform import adopt
from ansible.module_utils.n8n_platform.adopt import AdoptError
from ansible.module_utils.n8n_platform.postgres import identifier, literal

TABLES = ("workflow_entity", "credentials_entity", "user", "execution_entity")
# n8n itself removes old executions; the others must all be there.
KEPT_TABLES = TABLES[:3]
_FIRST_ERROR = re.compile(r"^.*?((?:pg_restore: )?error:|ERROR:) *(.*)$", re.MULTILINE)
# A statement that fails may hold data; it does not belong in the server's log.
_OPTIONS = "PGOPTIONS=-c log_min_error_statement=panic -c log_min_duration_statement=-1 -c log_statement=none"

_LOOK = """SELECT json_build_object(
 'tables', (SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace('public')),
 'adopted', to_regclass('adoption.source') IS NOT NULL)
"""
_SOURCE = "SELECT row_to_json(s) FROM adoption.source s"
_MISSING_TABLES = """SELECT coalesce(json_agg(name), '[]') FROM unnest(ARRAY[%s]) AS name
 WHERE to_regclass('public.' || quote_ident(name)) IS NULL
"""
_EXISTS = "SELECT 1 FROM pg_database WHERE datname = %s"
_COPY = "CREATE TABLE adoption.{0} AS SELECT id::text FROM public.{0};"
_RECORD = """BEGIN;
DROP SCHEMA IF EXISTS adoption CASCADE;
CREATE SCHEMA adoption AUTHORIZATION {owner};
SET LOCAL ROLE {owner};
CREATE TABLE adoption.source (sha256 text, counts jsonb, credential text, proof text,
 adopted_at timestamptz DEFAULT now(), compared_at timestamptz, missing jsonb);
INSERT INTO adoption.source VALUES ({source});
{copies}
COMMIT;
ANALYZE;
"""
_COUNT = "%s, (SELECT count(*) FROM public.%s)"
_GONE = """{name}, (SELECT count(*) FROM adoption.{table} a
 WHERE NOT EXISTS (SELECT FROM public.{table} p WHERE p.id::text = a.id))"""
_COMPARED = "UPDATE adoption.source SET compared_at = now(), missing = %s;"
_KEYS = "SELECT coalesce(json_object_agg(id, to_json(k)), '{}') FROM deployment_key k WHERE type = 'data_encryption'"


class Server(Protocol):
    """What is asked of the instance; Psql in a container, or a fake."""

    def execute(self, database: str, sql: str) -> str: ...


class AdoptedDatabase:
    """`database` is n8n's, `owner` owns its objects. Raises PostgresError, AdoptError."""

    def __init__(self, server: Server, database: str, owner: str, extensions: list[str]) -> None:
        self.server = server
        self._database = database
        self._owner = identifier(owner)
        self._extensions = extensions
        self.staging = f"{database}_adopt"

    def adopted(self, sha256: str) -> dict[str, Any] | None:
        """The record of the adoption of this source, None when the database is still empty.

        Raises AdoptError when it holds anything else."""
        if not self.server.execute("postgres", _EXISTS % literal(self._database)).strip():
            return None
        state = self._json(self._database, _LOOK)
        if state["adopted"]:
            record: dict[str, Any] = self._json(self._database, _SOURCE)
            if record["sha256"] == sha256:
                return record
            raise AdoptError(
                "the environment has already adopted another source; only a new environment adopts"
            )
        if state["tables"]:
            raise AdoptError(
                f"database {self._database} has {state['tables']} tables: only a new environment adopts, "
                "nothing is overwritten"
            )
        return None

    def stage(self) -> None:
        """An empty database beside n8n's; what an earlier run left is dropped."""
        name = identifier(self.staging)
        self.server.execute(
            "postgres",
            f"DROP DATABASE IF EXISTS {name} WITH (FORCE);\n"
            f"CREATE DATABASE {name} OWNER {self._owner} TEMPLATE template0 ENCODING 'UTF8';\n"
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;\n",
        )
        statements = [f"CREATE EXTENSION IF NOT EXISTS {identifier(name)};" for name in self._extensions]
        self.server.execute(self.staging, "\n".join(statements))

    def facts(self, email: str) -> dict[str, Any]:
        """What the checks need: credentials [[id, data]], keys, migrations, user (row or None), owners (addresses)."""
        missing = self._json(self.staging, _MISSING_TABLES % ", ".join(literal(name) for name in TABLES))
        if missing:
            raise AdoptError(
                f"the source has no table {missing[0]}: it must be n8n's database, in schema public, without "
                "DB_TABLE_PREFIX"
            )
        has_keys = not self._json(self.staging, _MISSING_TABLES % literal("deployment_key"))
        users = self._json(self.staging, """SELECT coalesce(json_agg(u), '[]') FROM "user" u""")
        by_address = {(user["email"] or "").lower(): user for user in users}
        return {
            "credentials": self._json(
                self.staging,
                "SELECT coalesce(json_agg(json_build_array(id::text, data) ORDER BY id), '[]') FROM credentials_entity",
            ),
            "keys": self._json(self.staging, _KEYS) if has_keys else {},
            "migrations": self._json(self.staging, "SELECT coalesce(json_agg(name), '[]') FROM migrations"),
            "user": by_address.get(email.lower()),
            "owners": sorted(address for address, user in by_address.items() if _is_owner(user) and address),
        }

    def accept(self, sha256: str, proof: tuple[str, str]) -> dict[str, int]:
        """Notes what is there, then puts the restored database in the place of the empty one; the counts."""
        copies = "\n".join(_COPY.format(identifier(table)) for table in TABLES)
        source = ", ".join(literal(text) for text in (sha256, json.dumps(self.counts(self.staging)), *proof))
        self.server.execute(self.staging, _RECORD.format(owner=self._owner, source=source, copies=copies))
        counts = self.counts(self.staging)
        # Between the two statements there is no database n8n: the next run makes an empty one and restores again.
        own, staged = identifier(self._database), identifier(self.staging)
        self.server.execute(
            "postgres",
            f"DROP DATABASE IF EXISTS {own} WITH (FORCE);\nALTER DATABASE {staged} RENAME TO {own};\n",
        )
        return counts

    def counts(self, database: str | None = None) -> dict[str, int]:
        columns = ", ".join(_COUNT % (literal(table), identifier(table)) for table in TABLES)
        found: dict[str, int] = self._json(database or self._database, f"SELECT json_build_object({columns})")
        return found

    def missing(self) -> dict[str, int]:
        """How many of the adopted rows are not there any more, by table."""
        columns = ", ".join(_GONE.format(name=literal(table), table=identifier(table)) for table in TABLES)
        found: dict[str, int] = self._json(self._database, f"SELECT json_build_object({columns})")
        return found

    def close(self, missing: dict[str, int]) -> None:
        """Notes that the comparison was made; what it needed goes."""
        drops = [f"DROP TABLE IF EXISTS adoption.{identifier(table)};" for table in TABLES]
        update = _COMPARED % literal(json.dumps(missing))
        self.server.execute(self._database, "\n".join(["BEGIN;", update, *drops, "COMMIT;\n"]))

    def _json(self, database: str, sql: str) -> Any:
        return json.loads(self.server.execute(database, sql))


def restore(docker: str, container: str, database: str, owner: str, form: str, dump: Path) -> None:
    """Feeds the dump to pg_restore or psql inside the container, as one transaction. Raises AdoptError."""
    common = ["-U", "postgres", "-d", database, "--single-transaction"]
    if form == "custom":
        command = ["pg_restore", *common, "--no-owner", "--no-acl", "--no-comments", f"--role={owner}"]
    else:
        command = ["psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", *common, "-f", "-"]
    argv = [docker, "exec", "-i", "-e", _OPTIONS, container, *command]

    def write(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        with dump.open("rb") as stream:
            if form == "custom":
                adopt.feed(process.stdin, iter(lambda: stream.read(1 << 20), b""))
            else:
                process.stdin.write(f"SET ROLE {identifier(owner)};\n".encode())
                adopt.feed(process.stdin, adopt.plain_statements(stream))

    _pipe(argv, write)


def _pipe(argv: list[str], write: Callable[[subprocess.Popen[bytes]], None]) -> None:
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            write(process)
        except BrokenPipeError:
            pass  # the program says why
        except BaseException:
            process.kill()
            raise
        if process.wait():
            errors.seek(0)
            raise AdoptError(
                f"the dump cannot be restored: {_first_error(errors.read().decode(errors='replace'))}"
            )


def _first_error(text: str) -> str:
    """The lines after the first may repeat rows of the dump."""
    found = _FIRST_ERROR.search(text)
    return (found.group(2) if found else text.strip().partition("\n")[0])[:300]


def _is_owner(user: dict[str, Any]) -> bool:
    """Very old databases keep roles in another table: what is not known here n8n's own migration decides."""
    role = user.get("roleSlug") or user.get("role")
    return role == "global:owner"
