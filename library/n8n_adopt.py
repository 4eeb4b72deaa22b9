#!/usr/bin/python
"""Ansible module: takes the database of an existing n8n over into a new environment."""

from __future__ import annotations

DOCUMENTATION = r"""
module: n8n_adopt
short_description: Take the database of an existing n8n over into a new environment
description:
  - V(described) looks at the source where it lies and refuses what cannot be adopted. V(checked) restores it into a
    server that lives as long as that takes, where n8n's own code tries the encryption key on the credentials and the
    password on the owner's account. V(present) restores it. V(verified) compares the result once n8n has migrated it.
  - The source is restored into a database beside n8n's empty one, as one transaction; only then the restored database
    takes the place of the empty one. A run that ends in between is repeated; a database with tables is never touched.
  - The record of an adoption is schema C(adoption) of the adopted database.
options:
  state:
    description: >-
      V(described) runs on the controller; V(planned) refuses an environment that has data and tells whether there is
      something to do; V(checked) needs no part of the environment and refuses what does not fit; V(present) does it;
      V(verified) compares, and fails when something is missing.
    type: str
    choices: [described, planned, checked, present, verified]
    default: present
  dump_file:
    description: Dump of pg_dump in custom (C(-Fc)) or plain format, not compressed by another program.
    type: path
  entities_file:
    description: Zip file of C(n8n export:entities), or the directory that it is in; alternative to O(dump_file).
    type: path
  entities_key_file:
    description: Key that C(export:entities) was called with as C(--keyFile), if it was.
    type: path
    default: ""
  required_files:
    description: Variables and the files on the controller that they name; V(described) refuses what cannot be read.
    type: dict
    default: {}
  server_major:
    description: Postgres major of the environment; a dump of a newer one is refused.
    type: int
    default: 0
  sha256:
    description: What V(described) returned, which tells sources apart.
    type: str
    default: ""
  format:
    description: What V(described) returned.
    type: str
    choices: [custom, plain, entities]
    default: custom
  project:
    description: Compose project.
    type: str
    default: ""
  service:
    description: Compose service of n8n's Postgres.
    type: str
    default: postgres-n8n
  database:
    description: n8n's database.
    type: str
    default: n8n
  owner:
    description: Role that owns its objects.
    type: str
    default: n8n_owner
  extensions:
    description: Extensions it has.
    type: list
    elements: str
    default: []
  image:
    description: n8n's image, which checks key and password.
    type: str
    default: ""
  postgres_image:
    description: Image of the server that lives as long as a source is checked.
    type: str
    default: ""
  work:
    description: Directory on the target for as long as that; a dump of entities stays in it.
    type: path
    default: ""
  key:
    description: n8n's encryption key, of the source.
    type: str
    default: ""
  password:
    description: The existing owner's password.
    type: str
    default: ""
  proof:
    description: What V(checked) returned.
    type: list
    elements: str
    default: ["", ""]
  script:
    description: What runs in it (V(checked)), or in n8n's container (V(verified)).
    type: str
    default: ""
  email:
    description: The existing owner's e-mail address.
    type: str
    default: ""
attributes:
  check_mode:
    description: Looks only; an instance that does not run counts as empty.
    support: full
  diff_mode:
    description: Number of rows before and after.
    support: full
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: Look at the dump
  n8n_adopt: {state: described, dump_file: /root/n8n.dump, server_major: 17}
  delegate_to: localhost
  register: __site_source
"""

RETURN = r"""
format:
  description: Format of the source; V(checked) has made a dump in custom format of entities.
  returned: described and checked
  type: str
file:
  description: The one file that the source is, or the dump of it.
  returned: described and checked
  type: str
proof:
  description: A credential and what tells, without showing anything of it, that it is decrypted to what it was.
  returned: checked
  type: list
  elements: str
sha256:
  description: What tells sources apart.
  returned: described
  type: str
needed:
  description: Whether the source still has to be restored.
  returned: planned
  type: bool
counts:
  description: Rows by table, as they were in the source.
  returned: present and verified, unless in check mode
  type: dict
  sample: {workflow_entity: 12, credentials_entity: 5, user: 2, execution_entity: 840}
missing:
  description: Rows by table that n8n removed since; executions may be among them, by age.
  returned: verified
  type: dict
credential:
  description: The credential that was decrypted in n8n's container; empty when there is none.
  returned: verified
  type: str
undecrypted:
  description: Credentials that the key does not fit, while it fits others.
  returned: checked
  type: list
  elements: str
"""

import json
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform import adopt, adopt_database
from ansible.module_utils.n8n_platform.adopt import AdoptError
from ansible.module_utils.n8n_platform.adopt_database import AdoptedDatabase
from ansible.module_utils.n8n_platform.adopt_scratch import Scratch
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.n8n import MAIN_SERVICE
from ansible.module_utils.n8n_platform.postgres import PostgresError, Psql, identifier

STATES = ["described", "planned", "checked", "present", "verified"]


def build_spec() -> dict[str, Any]:
    return {
        "state": {"type": "str", "choices": STATES, "default": "present"},
        "dump_file": {"type": "path"},
        "entities_file": {"type": "path"},
        "entities_key_file": {"type": "path", "default": "", "no_log": False},
        "required_files": {"type": "dict", "default": {}},
        "server_major": {"type": "int", "default": 0},
        "sha256": {"type": "str", "default": ""},
        "format": {"type": "str", "choices": ["custom", "plain", "entities"], "default": "custom"},
        "project": {"type": "str", "default": ""},
        "service": {"type": "str", "default": "postgres-n8n"},
        "database": {"type": "str", "default": "n8n"},
        "owner": {"type": "str", "default": "n8n_owner"},
        "extensions": {"type": "list", "elements": "str", "default": []},
        "image": {"type": "str", "default": ""},
        "postgres_image": {"type": "str", "default": ""},
        "work": {"type": "path", "default": ""},
        "key": {"type": "str", "default": "", "no_log": True},
        "password": {"type": "str", "default": "", "no_log": True},
        "proof": {"type": "list", "elements": "str", "default": ["", ""]},
        "script": {"type": "str", "default": ""},
        "email": {"type": "str", "default": ""},
    }


class Manager:
    """`docker` is the client's path. Raises AdoptError, PostgresError, HttpError."""

    def __init__(self, params: dict[str, Any], docker: str, engine: Engine) -> None:
        self._params = params
        self._docker = docker
        self._engine = engine
        self.database: AdoptedDatabase | None = None
        self._container = self._find()
        if self._container:
            self.database = self._database(self._container)

    def _database(self, container: str) -> AdoptedDatabase:
        names = (self._params["database"], self._params["owner"], self._params["extensions"])
        return AdoptedDatabase(Psql(run_command, container), *names)

    def plan(self) -> dict[str, Any] | None:
        """The record of this source's adoption, None while it is not there."""
        return self.database.adopted(self._params["sha256"]) if self.database else None

    def apply(self) -> dict[str, Any]:
        """Restores and accepts what was checked."""
        if self.database is None:
            raise AdoptError(f"{self._params['service']} does not run")
        self.database.stage()
        self._restore(self._container, self.database)
        credential, proof = self._params["proof"]
        return {"counts": self.database.accept(self._params["sha256"], (credential, proof))}

    def check(self) -> dict[str, Any]:
        """Tries key, password and versions on the source; nothing of the environment is there yet, or needed."""
        params = self._params
        server = Scratch(
            f"{params['project']}-adopt", Path(params["work"]), params["postgres_image"], params["image"]
        )
        with server:
            database = self._database(server.container)
            database.server.execute("postgres", f"CREATE ROLE {identifier(params['owner'])} SUPERUSER")
            database.stage()
            found = {"format": params["format"], "file": params["dump_file"]}
            if params["format"] == "entities":
                found = {"format": "custom", "file": str(self._import(server, database.staging))}
            else:
                self._restore(server.container, database)
            answer = self._judge(database.facts(params["email"]))
        proof = list(next(iter(answer["proofs"].items()), ("", "")))
        return {**found, "proof": proof, "undecrypted": answer["failed"]}

    def _restore(self, container: str, database: AdoptedDatabase) -> None:
        target = (container, database.staging, self._params["owner"])
        dump = Path(self._params["dump_file"])
        adopt_database.restore(self._docker, *target, self._params["format"], dump)

    def _import(self, server: Scratch, database: str) -> Path:
        params = self._params
        try:
            return server.import_entities(
                Path(params["entities_file"]), database, params["key"], params["entities_key_file"]
            )
        except AdoptError as error:
            hint = "n8n_encryption_key_import_file (or n8n_adopt_entities_key_file) must fit, and n8n's version be ours"
            raise AdoptError(f"n8n_adopt_entities_file: {error}; {hint}") from None

    def verify(self) -> dict[str, Any]:
        """Compares once, and notes it; later runs say what was found then."""
        record = self.plan()
        if not self.database or not record:
            raise AdoptError("the environment has not adopted this source")
        missing, credential = record["missing"], record["credential"]
        if record["compared_at"] is None:
            missing = self.database.missing()
            self._refuse_loss(missing)
            if credential:
                self._prove(credential, record["proof"])
            self.database.close(missing)
        changed = record["compared_at"] is None
        return {"changed": changed, "counts": record["counts"], "missing": missing, "credential": credential}

    def _find(self) -> str:
        """The container's id; empty when it does not run, or there is no engine yet."""
        try:
            found = self._engine.service(self._params["project"], self._params["service"])
        except HttpError as error:
            if error.status == 0 and self._params["state"] in ("planned", "checked"):
                return ""
            raise
        return str(found["Id"]) if found and found["State"]["Running"] else ""

    def _judge(self, facts: dict[str, Any]) -> dict[str, Any]:
        user, email = facts["user"], self._params["email"]
        adopt.require_owner(user, email, facts["owners"])
        given = {"key": self._params["key"], "password": self._params["password"], "hash": user["password"]}
        answer = self._ask_n8n(
            {**given, **{key: facts[key] for key in ("credentials", "keys", "migrations")}}
        )
        adopt.judge(answer, email)
        return answer

    def _ask_n8n(self, question: dict[str, Any]) -> dict[str, Any]:
        name = f"{self._params['project']}-adopt-check"
        run_command([self._docker, "rm", "-f", name], "")
        limits = ["--network=none", "--read-only", "--cap-drop=ALL", "--memory=1g", "--pids-limit=64"]
        options = ["--rm", "-i", "--name", name, *limits, "--security-opt", "no-new-privileges"]
        command = [self._params["image"], "-e", self._params["script"]]
        argv = [self._docker, "run", *options, "--user", "1000:1000", "--entrypoint", "node", *command]
        code, output, errors = run_command(argv, json.dumps(question))
        if code:
            raise AdoptError(f"the check in n8n's image failed: {errors.strip()[-300:]}")
        answer: dict[str, Any] = json.loads(output)
        return answer

    def _refuse_loss(self, missing: dict[str, int]) -> None:
        lost = {table: number for table, number in missing.items() if number}
        if any(table in lost for table in adopt_database.KEPT_TABLES):
            raise AdoptError(f"of what was adopted, rows are missing: {lost}")

    def _prove(self, credential: str, proof: str) -> None:
        found = self._engine.service(self._params["project"], MAIN_SERVICE)
        if not found:
            raise AdoptError(f"{MAIN_SERVICE} does not run")
        argv = ["sh", "-c", self._params["script"], "sh", credential]
        code, output = self._engine.execute(found["Id"], argv)
        if code or output.strip() != proof:
            raise AdoptError(f"n8n does not decrypt credential {credential} to what it was")


def run_command(argv: list[str], stdin: str) -> tuple[int, str, str]:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def run(module: AnsibleModule) -> dict[str, Any]:
    params, state = module.params, module.params["state"]
    if state == "described":
        return {"changed": False, **adopt.describe(params)}
    manager = Manager(params, module.get_bin_path("docker") or "docker", Engine())
    if state in ("checked", "verified"):
        if module.check_mode:
            return {"changed": False}
        return manager.verify() if state == "verified" else checked(module, manager)
    record = manager.plan()
    if state == "planned":
        return {"changed": False, "needed": record is None}
    if record or module.check_mode:
        return {"changed": record is None, "counts": record["counts"] if record else {}}
    result = manager.apply()
    after = "".join(f"{table}: {number}\n" for table, number in result["counts"].items())
    return {"changed": True, "diff": {"before": "", "after": after}, **result}


def checked(module: AnsibleModule, manager: Manager) -> dict[str, Any]:
    result = manager.check()
    for credential in result["undecrypted"]:
        module.warn(f"credential {credential} cannot be decrypted with the key, neither could the source")
    return {"changed": False, **result}


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        result = run(module)
    except (AdoptError, PostgresError, HttpError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
