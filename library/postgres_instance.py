#!/usr/bin/python
"""Roles, databases and storage parameters of a Postgres instance."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_instance
short_description: Roles, databases and table parameters of a Postgres instance in a container
description:
  - Compares the catalogs of a running instance with what is wanted and runs the statements between the two.
  - Only what is named is looked at; nothing is ever dropped. A managed role has exactly the rights,
    memberships and settings given here.
  - Statements go through C(psql) inside the container, over its local socket, on standard input. Passwords
    are compared with the stored SCRAM verifier and set as a verifier, so no plain password leaves the module.
  - Names what no statement can put right - no data checksums, a line of the server's configuration that is
    refused, overridden or waits for a restart. V(verified) fails on it, V(present) warns.
options:
  project:
    description: Compose project of the container.
    type: str
    required: true
  service:
    description: Compose service of the container.
    type: str
    required: true
  state:
    description: V(present) makes it so. V(verified) changes nothing and fails, naming each difference.
    type: str
    choices: [present, verified]
    default: present
  roles:
    description: Roles in the order in which they are created.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the role.
        type: str
        required: true
      login:
        description: Whether it may log in.
        type: bool
        default: false
      connection_limit:
        description: Most connections at a time; V(-1) for no limit.
        type: int
        default: -1
      password_file:
        description:
          - File on the target that holds the password, printable ASCII.
          - Without it the password is left alone.
        type: path
      member_of:
        description: The roles it is a member of.
        type: list
        elements: str
        default: []
      settings:
        description: Settings of its sessions, as text in the form in which Postgres keeps them.
        type: dict
        default: {}
  databases:
    description: Databases; each is closed to everyone but its owner and the owner's members.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the database.
        type: str
        required: true
      owner:
        description: Its owner.
        type: str
        required: true
      extensions:
        description: Extensions it has.
        type: list
        elements: str
        default: []
      tables:
        description: >-
          Storage parameters by table of schema C(public); those of the table's TOAST relation begin with
          C(toast.). Tables that do not exist yet are left out.
        type: dict
        default: {}
  admin_role:
    description: Superuser that the container's own user is let in as over the local socket.
    type: str
    default: postgres
  wait_seconds:
    description: How long to wait for an answer.
    type: int
    default: 60
attributes:
  check_mode:
    description: Reports what would change; an instance that does not run counts as empty, or as verified.
    support: full
  diff_mode:
    description: Attributes before and after, without passwords.
    support: full
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: A database and the two roles around it
  postgres_instance:
    project: n8n-local
    service: postgres-n8n
    roles:
      - {name: n8n_owner}
      - name: n8n
        login: true
        password_file: /var/lib/n8n-platform/local/secrets/host/postgres_n8n_app_password
        member_of: [n8n_owner]
        settings: {role: n8n_owner, statement_timeout: 5min}
    databases:
      - {name: n8n, owner: n8n_owner, extensions: [pg_stat_statements]}

- name: Nothing has drifted
  postgres_instance:
    project: n8n-local
    service: postgres-n8n
    state: verified
    databases:
      - name: n8n
        owner: n8n_owner
        tables: {execution_entity: {autovacuum_vacuum_scale_factor: "0.02"}}
"""

RETURN = r"""
differences:
  description: What was (or would be) changed; each has C(subject), C(attribute), C(before) and C(after).
  returned: always
  type: list
  elements: dict
version:
  description: The server's version; null when it does not run yet.
  returned: always
  type: str
  sample: "17.6"
"""

import itertools
import time
from pathlib import Path
from typing import Any, Protocol

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform import postgres
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.engine_exec import again_where_lost
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.postgres import Difference, PostgresError, Psql

_POLL_SECONDS = 1.0


class Server(Protocol):
    """What the manager asks of an instance; Psql in a container, or a fake."""

    def execute(self, database: str, sql: str) -> str: ...
    def cluster(self) -> dict[str, Any]: ...
    def contents(self, database: str) -> dict[str, Any]: ...


class Manager:
    """`server` is None when the instance does not run yet (check mode)."""

    def __init__(self, params: dict[str, Any], server: Server | None) -> None:
        self._params = params
        self._server = server
        self.cluster = server.cluster() if server else postgres.empty_cluster()
        self.problems = postgres.problems(self.cluster)

    def plan(self) -> list[Difference]:
        """Raises PostgresError when a password file cannot be read."""
        differences = postgres.plan_roles(self.cluster["roles"], self._params["roles"], self._passwords())
        for wanted in self._params["databases"]:
            existing = self.cluster["databases"].get(wanted["name"])
            contents = postgres.empty_contents()
            if self._server and existing:
                contents = self._server.contents(wanted["name"])
            differences += postgres.plan_database(existing, wanted) + postgres.plan_contents(contents, wanted)
        return differences

    def apply(self, differences: list[Difference]) -> None:
        """In order and without a transaction: what was done stays done, the next run does the rest."""
        assert self._server is not None
        for database, group in itertools.groupby(differences, key=lambda difference: difference.database):
            self._server.execute(
                database, "\n".join(s for difference in group for s in difference.statements)
            )

    def _passwords(self) -> dict[str, str]:
        """In check mode before the first run there are no files yet: such a password is one to be set."""
        found = {}
        for role in self._params["roles"]:
            path = role["password_file"]
            if path and (self._server or Path(path).exists()):
                found[role["name"]] = _read(role["name"], path)
            elif path:
                found[role["name"]] = "unknown"
        return found


def connect(module: AnsibleModule) -> Psql | None:
    """Waits for an answer; None in check mode when nothing runs. Raises PostgresError when time is up."""
    deadline = time.monotonic() + module.params["wait_seconds"]

    def run(argv: list[str], stdin: str) -> tuple[int, str, str]:
        result: tuple[int, str, str] = module.run_command(argv, data=stdin)
        return result

    while True:
        try:
            container = Engine().service(module.params["project"], module.params["service"])
            if container is None:
                raise PostgresError("no such container")
            psql = Psql(again_where_lost(run), container["Id"], module.params["admin_role"])
            psql.execute("postgres", "SELECT 1;")
            return psql
        except (PostgresError, HttpError) as error:
            if module.check_mode:
                return None
            if time.monotonic() >= deadline:
                waited = module.params["wait_seconds"]
                raise PostgresError(f"does not answer, waited {waited} s: {error}") from error
            time.sleep(_POLL_SECONDS)


def _read(role: str, path: str) -> str:
    try:
        password = Path(path).read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PostgresError(f"password_file of role {role}: {error}") from error
    if not password or not password.isascii() or not password.isprintable():
        raise PostgresError(f"password_file of role {role}: {path} must hold printable ASCII")
    return password


def build_spec() -> dict[str, Any]:
    role = {
        "name": {"type": "str", "required": True},
        "login": {"type": "bool", "default": False},
        "connection_limit": {"type": "int", "default": -1},
        "password_file": {"type": "path", "no_log": False},
        "member_of": {"type": "list", "elements": "str", "default": []},
        "settings": {"type": "dict", "default": {}},
    }
    database = {
        "name": {"type": "str", "required": True},
        "owner": {"type": "str", "required": True},
        "extensions": {"type": "list", "elements": "str", "default": []},
        "tables": {"type": "dict", "default": {}},
    }
    return {
        "project": {"type": "str", "required": True},
        "service": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "verified"], "default": "present"},
        "roles": {"type": "list", "elements": "dict", "options": role, "default": []},
        "databases": {"type": "list", "elements": "dict", "options": database, "default": []},
        "admin_role": {"type": "str", "default": "postgres"},
        "wait_seconds": {"type": "int", "default": 60},
    }


def diff(differences: list[Difference]) -> dict[str, str]:
    return {
        "before": "".join(f"{d.subject}: {d.attribute}: {d.before}\n" for d in differences),
        "after": "".join(f"{d.subject}: {d.attribute}: {d.after}\n" for d in differences),
    }


def verify(module: AnsibleModule, manager: Manager, differences: list[Difference]) -> None:
    """Ends the module."""
    name = module.params["service"]
    if manager.cluster["version"] is None:
        module.warn(f"{name}: does not run, nothing was compared")
        module.exit_json(changed=False, differences=[], version=None)
    texts = [f"{d.subject}: {d.attribute} is {d.before}, wanted {d.after}" for d in differences]
    if manager.problems or texts:
        shown = [difference.shown() for difference in differences]
        module.fail_json(msg=f"{name}: {'; '.join([*manager.problems, *texts])}", differences=shown)


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    name = module.params["service"]
    try:
        manager = Manager(module.params, connect(module))
        differences = manager.plan()
        shown = [difference.shown() for difference in differences]
        if module.params["state"] == "verified":
            verify(module, manager, differences)
        for problem in manager.problems:
            module.warn(f"{name}: {problem}")
        if differences and not module.check_mode:
            manager.apply(differences)
    except (PostgresError, HttpError) as error:
        module.fail_json(msg=f"{name}: {error}")
    version = manager.cluster["version"]
    module.exit_json(changed=bool(differences), differences=shown, version=version, diff=diff(differences))


if __name__ == "__main__":
    main()
