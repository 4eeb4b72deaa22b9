#!/usr/bin/python
"""Ansible module: takes the database of an existing n8n over into a new environment."""

from __future__ import annotations

DOCUMENTATION = r"""
module: n8n_adopt
short_description: Take the database of an existing n8n over into a new environment
description:
  - V(described) looks at the source where it lies and refuses what cannot be adopted. V(present) restores it.
    V(verified) compares the result once n8n has migrated it.
  - The source is restored into a database beside n8n's empty one, as one transaction. There n8n's own code tries the
    encryption key on the credentials and the password on the owner's account; only then the restored database takes
    the place of the empty one. A run that ends in between is repeated; a database with tables is never touched.
  - The record of an adoption is schema C(adoption) of the adopted database.
options:
  state:
    description: >-
      V(described) runs on the controller; V(planned) refuses an environment that has data and tells whether there is
      something to do; V(present) does it; V(verified) compares, and fails when something is missing.
    type: str
    choices: [described, planned, present, verified]
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
    description: Image of a server that lives as long as it takes to make a dump of entities.
    type: str
    default: ""
  work:
    description: Directory on the target that exists for as long as that; removed.
    type: path
    default: ""
  key_file:
    description: File on the target with n8n's encryption key, readable for uid 1000.
    type: path
    default: ""
  script:
    description: What runs in it (V(present)), or in n8n's container (V(verified)).
    type: str
    default: ""
  email:
    description: The existing owner's e-mail address.
    type: str
    default: ""
  store_file:
    description: File on the target that says how to reach the secret store, which has key and password.
    type: path
    default: ""
  environment:
    description: Environment whose secrets are meant.
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
  description: Format of the source.
  returned: described
  type: str
file:
  description: The one file that the source is.
  returned: described
  type: str
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
  returned: present
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
from ansible.module_utils.n8n_platform.adopt_entities import Conversion
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.n8n import MAIN_SERVICE, OWNER_ENTRY
from ansible.module_utils.n8n_platform.openbao import SecretStore, StoreError
from ansible.module_utils.n8n_platform.postgres import PostgresError, Psql

STATES = ["described", "planned", "present", "verified"]
KEY_ENTRY = "n8n_encryption_key"


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
        "key_file": {"type": "path", "default": "", "no_log": False},
        "script": {"type": "str", "default": ""},
        "email": {"type": "str", "default": ""},
        "store_file": {"type": "path", "default": ""},
        "environment": {"type": "str", "default": ""},
    }


class Manager:
    """`docker` is the client's path. Raises AdoptError, PostgresError, HttpError, StoreError."""

    def __init__(self, params: dict[str, Any], docker: str, engine: Engine) -> None:
        self._params = params
        self._docker = docker
        self._engine = engine
        self.database: AdoptedDatabase | None = None
        self._container = self._find()
        if self._container:
            names = (params["database"], params["owner"], params["extensions"])
            self.database = AdoptedDatabase(Psql(run_command, self._container), *names)

    def plan(self) -> dict[str, Any] | None:
        """The record of this source's adoption, None while it is not there."""
        return self.database.adopted(self._params["sha256"]) if self.database else None

    def apply(self) -> dict[str, Any]:
        """Restores, checks and accepts."""
        if self.database is None:
            raise AdoptError(f"{self._params['service']} does not run")
        self.database.stage()
        if self._params["format"] == "entities":
            self._restore_entities()
        else:
            self._restore(self._params["format"], Path(self._params["dump_file"]))
        answer = self._check(self.database.facts(self._params["email"]))
        proof = next(iter(answer["proofs"].items()), ("", ""))
        counts = self.database.accept(self._params["sha256"], proof)
        return {"counts": counts, "undecrypted": answer["failed"]}

    def _restore(self, form: str, dump: Path) -> None:
        assert self.database
        target = (self._container, self.database.staging, self._params["owner"])
        adopt_database.restore(self._docker, *target, form, dump)

    def _restore_entities(self) -> None:
        params = self._params
        conversion = Conversion(
            name=f"{params['project']}-adopt",
            work=Path(params["work"]),
            postgres_image=params["postgres_image"],
            n8n_image=params["image"],
            key_file=params["key_file"],
            export_key_file=params["entities_key_file"],
        )
        try:
            self._restore("custom", conversion.dump(Path(params["entities_file"])))
        except AdoptError as error:
            hint = "n8n_encryption_key_import_file (or n8n_adopt_entities_key_file) must fit, and n8n's version be ours"
            raise AdoptError(f"n8n_adopt_entities_file: {error}; {hint}") from None
        finally:
            conversion.clean()

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
            if error.status == 0 and self._params["state"] == "planned":
                return ""
            raise
        return str(found["Id"]) if found and found["State"]["Running"] else ""

    def _check(self, facts: dict[str, Any]) -> dict[str, Any]:
        user, email = facts["user"], self._params["email"]
        if user is None:
            raise AdoptError(f"n8n_owner_email: the source has no user {email}; owner is {facts['owners']}")
        if facts["owners"] and email.lower() not in facts["owners"]:
            raise AdoptError(f"n8n_owner_email: {email} is not the owner; owner is {facts['owners']}")
        if user.get("mfaEnabled"):
            raise AdoptError(
                f"n8n_owner_email: {email} has a second factor, so nobody but a person can log in; switch it off "
                "in the source, dump again, and switch it on afterwards"
            )
        store = SecretStore.from_params(self._params)
        given = {"key": store.get(KEY_ENTRY), "password": store.get(OWNER_ENTRY), "hash": user["password"]}
        answer = self._ask_n8n(
            {**given, **{key: facts[key] for key in ("credentials", "keys", "migrations")}}
        )
        adopt.judge(answer, email)
        return answer

    def _ask_n8n(self, question: dict[str, Any]) -> dict[str, Any]:
        name = f"{self._params['project']}-adopt-check"
        run_command([self._docker, "rm", "-f", name], "")
        limits = [
            "--network",
            "none",
            "--read-only",
            "--cap-drop",
            "ALL",
            "--memory",
            "1g",
            "--pids-limit",
            "64",
        ]
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
    if state == "verified":
        return {"changed": False} if module.check_mode else manager.verify()
    record = manager.plan()
    if state == "planned":
        return {"changed": False, "needed": record is None}
    if record or module.check_mode:
        return {"changed": record is None, "counts": record["counts"] if record else {}}
    result = manager.apply()
    for credential in result["undecrypted"]:
        module.warn(f"credential {credential} cannot be decrypted with the key, neither could the source")
    after = "".join(f"{table}: {number}\n" for table, number in result["counts"].items())
    return {"changed": True, "diff": {"before": "", "after": after}, **result}


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        result = run(module)
    except (AdoptError, PostgresError, HttpError, StoreError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
