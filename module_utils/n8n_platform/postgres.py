"""A Postgres cluster as data: what is there, what is wanted, and the statements that lie between."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.n8n_platform import scram

_RIGHTS = ("superuser", "createdb", "createrole", "replication", "bypassrls")
_NEW_ROLE: dict[str, Any] = {
    "login": False,
    "connection_limit": -1,
    "password": None,
    "settings": [],
    "member_of": [],
    **dict.fromkeys(_RIGHTS, False),
}
_VERIFIER = re.compile(r"SCRAM-SHA-256\$[^'\s]*")
# A role statement carries a verifier: it belongs neither in the server's log nor in pg_stat_statements.
_QUIET = """SET log_statement = 'none'; SET log_min_error_statement = 'panic';
SET log_min_duration_statement = -1; SET lock_timeout = '10s';
SELECT set_config('pg_stat_statements.track_utility', 'off', false) \\g /dev/null
"""
_CLUSTER = """SELECT json_build_object(
 'version', current_setting('server_version'),
 'checksums', current_setting('data_checksums') = 'on',
 'roles', (SELECT json_object_agg(rolname, json_build_object(
    'login', rolcanlogin, 'connection_limit', rolconnlimit, 'password', rolpassword,
    'superuser', rolsuper, 'createdb', rolcreatedb, 'createrole', rolcreaterole,
    'replication', rolreplication, 'bypassrls', rolbypassrls,
    'settings', coalesce((SELECT setconfig FROM pg_db_role_setting
      WHERE setrole = r.oid AND setdatabase = 0), '{}'),
    'member_of', ARRAY(SELECT roleid::regrole::text FROM pg_auth_members WHERE member = r.oid ORDER BY 1)))
   FROM pg_authid r WHERE rolname !~ '^pg_'),
 'databases', (SELECT json_object_agg(datname, json_build_object('owner', pg_get_userbyid(datdba),
    'public', has_database_privilege('public', oid, 'CONNECT')
      OR has_database_privilege('public', oid, 'TEMP')))
   FROM pg_database WHERE NOT datistemplate),
 'problems', ARRAY(
    SELECT format('setting %s: %s', name, coalesce(error, 'is overridden, see pg_file_settings'))
      FROM pg_file_settings WHERE NOT applied AND sourcefile = current_setting('config_file')
    UNION ALL
    SELECT format('setting %s: waits for a restart', name) FROM pg_settings WHERE pending_restart
    UNION ALL
    SELECT format('pg_hba.conf line %s: %s', line_number, error)
      FROM pg_hba_file_rules WHERE error IS NOT NULL))
"""
_CONTENTS = """SELECT json_build_object(
 'extensions', (SELECT coalesce(json_agg(extname), '[]') FROM pg_extension),
 'public_create', (SELECT coalesce(bool_or(has_schema_privilege('public', oid, 'CREATE')), false)
    FROM pg_namespace WHERE nspname = 'public'),
 'tables', (SELECT coalesce(json_object_agg(t.relname, json_build_object(
      'options', coalesce(t.reloptions, '{}'),
      'has_toast', o.oid IS NOT NULL, 'toast', coalesce(o.reloptions, '{}'))), '{}')
    FROM pg_class t LEFT JOIN pg_class o ON o.oid = t.reltoastrelid
    WHERE t.relkind = 'r' AND t.relnamespace = to_regnamespace('public')))
"""


Run = Callable[[list[str], str], tuple[int, str, str]]


class PostgresError(Exception):
    """psql failed, or something wanted makes no sense; verifiers are cut out of the text."""


@dataclass(frozen=True)
class Difference:
    """One attribute that is not as wanted, and the statements (to be run in `database`) that make it so."""

    subject: str
    attribute: str
    before: Any
    after: Any
    statements: list[str] = field(repr=False)
    database: str = "postgres"

    def shown(self) -> dict[str, Any]:
        names = ("subject", "attribute", "before", "after")
        return {name: getattr(self, name) for name in names}


class Psql:
    """psql inside the container, over the local socket, as `admin_role`.

    `run(argv, stdin)` gives exit code, output and errors. Statements go through stdin: arguments are
    visible to every process.
    """

    def __init__(self, run: Run, container: str, admin_role: str = "postgres") -> None:
        self._run = run
        self._container = container
        self._admin_role = admin_role

    def execute(self, database: str, sql: str) -> str:
        """Raises PostgresError; the first failing statement ends the script."""
        psql = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", "-U", self._admin_role]
        argv = ["docker", "exec", "-i", self._container, *psql, "-d", database]
        code, output, errors = self._run(argv, _QUIET + sql)
        if code:
            text = _VERIFIER.sub("<verifier>", (errors or output).strip())
            raise PostgresError(f"psql on database {database}: {text}")
        return output

    def cluster(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.execute("postgres", _CLUSTER))
        return state

    def contents(self, database: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.execute(database, _CONTENTS))
        return state


def empty_cluster() -> dict[str, Any]:
    return {"version": None, "checksums": True, "roles": {}, "databases": {}, "problems": []}


def empty_contents() -> dict[str, Any]:
    return {"extensions": [], "public_create": False, "tables": {}}


def problems(cluster: dict[str, Any]) -> list[str]:
    """What no statement can put right."""
    missing = [] if cluster["checksums"] else ["data checksums are off"]
    return [*missing, *cluster["problems"]]


def plan_roles(
    current: dict[str, dict[str, Any]], wanted: list[dict[str, Any]], passwords: dict[str, str]
) -> list[Difference]:
    """Existence, rights and passwords of all roles first, since memberships and settings name other roles."""
    return [
        *(difference for role in wanted for difference in _role(current.get(role["name"]), role, passwords)),
        *(difference for role in wanted for difference in _role_relations(current.get(role["name"]), role)),
    ]


def _role(
    current: dict[str, Any] | None, wanted: dict[str, Any], passwords: dict[str, str]
) -> Iterable[Difference]:
    name, subject = identifier(wanted["name"]), f"role {wanted['name']}"
    if current is None:
        yield Difference(subject, "state", "absent", "present", [f"CREATE ROLE {name};"])
    actual = current or _NEW_ROLE
    for right in ("login", *_RIGHTS):
        target = bool(wanted.get(right, False))
        if actual[right] != target:
            word = f"{'' if target else 'NO'}{right.upper()}"
            yield Difference(subject, right, actual[right], target, [f"ALTER ROLE {name} {word};"])
    limit = wanted.get("connection_limit", -1)
    if actual["connection_limit"] != limit:
        statement = f"ALTER ROLE {name} CONNECTION LIMIT {int(limit)};"
        yield Difference(subject, "connection_limit", actual["connection_limit"], limit, [statement])
    password = passwords.get(wanted["name"])
    if password is not None and not scram.matches(actual["password"], password):
        statement = f"ALTER ROLE {name} PASSWORD {literal(scram.verifier(password))};"
        before = "unset" if actual["password"] is None else "another one"
        yield Difference(subject, "password", before, "the one in its file", [statement])


def _role_relations(current: dict[str, Any] | None, wanted: dict[str, Any]) -> Iterable[Difference]:
    name, subject, actual = identifier(wanted["name"]), f"role {wanted['name']}", current or _NEW_ROLE
    before, after = sorted(actual["member_of"]), sorted(wanted.get("member_of") or [])
    if before != after:
        grants = [f"GRANT {identifier(group)} TO {name};" for group in after if group not in before]
        revokes = [f"REVOKE {identifier(group)} FROM {name};" for group in before if group not in after]
        yield Difference(subject, "member_of", before, after, [*grants, *revokes])
    old, new = _options(actual["settings"]), _texts(wanted.get("settings") or {})
    for key in [*new, *(key for key in old if key not in new)]:
        if old.get(key) != new.get(key):
            action = (
                f"SET {identifier(key)} = {literal(new[key])}" if key in new else f"RESET {identifier(key)}"
            )
            yield Difference(subject, key, old.get(key), new.get(key), [f"ALTER ROLE {name} {action};"])


def plan_database(current: dict[str, Any] | None, wanted: dict[str, Any]) -> list[Difference]:
    """The database itself: its owner, and nothing for those who were granted nothing."""
    subject = f"database {wanted['name']}"
    name, owner = identifier(wanted["name"]), identifier(wanted["owner"])
    revoke = f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;"
    if current is None:
        create = f"CREATE DATABASE {name} OWNER {owner} TEMPLATE template0 ENCODING 'UTF8';"
        return [Difference(subject, "state", "absent", "present", [create, revoke])]
    found = []
    if current["owner"] != wanted["owner"]:
        statement = f"ALTER DATABASE {name} OWNER TO {owner};"
        found.append(Difference(subject, "owner", current["owner"], wanted["owner"], [statement]))
    if current["public"]:
        found.append(Difference(subject, "open to everyone", True, False, [revoke]))
    return found


def plan_contents(current: dict[str, Any], wanted: dict[str, Any]) -> list[Difference]:
    """Extensions, the public schema, storage parameters of the tables that exist (others are left out)."""
    database, subject = wanted["name"], f"database {wanted['name']}"
    found = [
        Difference(subject, f"extension {name}", "absent", "present", [statement], database)
        for name in wanted.get("extensions") or []
        if name not in current["extensions"]
        for statement in [f"CREATE EXTENSION IF NOT EXISTS {identifier(name)};"]
    ]
    if current["public_create"]:
        statement = "REVOKE CREATE ON SCHEMA public FROM PUBLIC;"
        found.append(Difference(subject, "everyone may create", True, False, [statement], database))
    for table, parameters in (wanted.get("tables") or {}).items():
        if table in current["tables"]:
            found += _storage_parameters(database, table, current["tables"][table], _texts(parameters))
    return found


def _storage_parameters(
    database: str, table: str, current: dict[str, Any], wanted: dict[str, str]
) -> Iterable[Difference]:
    toast = {f"toast.{k}": v for k, v in _options(current["toast"]).items()}
    actual = _options(current["options"]) | toast
    for name, value in wanted.items():
        if not re.fullmatch(r"(toast\.)?[a-z_]+", name):
            raise PostgresError(f"table {table}: {name!r} is no storage parameter")
        usable = current["has_toast"] or not name.startswith("toast.")
        if usable and actual.get(name) != value:
            statement = f"ALTER TABLE public.{identifier(table)} SET ({name} = {literal(value)});"
            yield Difference(
                f"table {database}.{table}", name, actual.get(name), value, [statement], database
            )


def identifier(name: str) -> str:
    if not name or "\0" in name:
        raise PostgresError(f"{name!r} is no identifier")
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Relies on standard_conforming_strings, on since Postgres 9.1."""
    return "'" + value.replace("'", "''") + "'"


def _options(pairs: list[str]) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in pairs)


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in values.items()}
