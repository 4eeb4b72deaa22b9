#!/usr/bin/python
"""Compare what a Redis or Valkey instance in a container really does with what is wanted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_instance_check
short_description: Compare a Redis or Valkey instance in a container with what is wanted
description:
  - Asks a running instance through C(redis-cli) inside its container, changes nothing, and fails naming every
    difference.
  - The password stays in the container; it is read there from a file.
options:
  project:
    description: Compose project of the container.
    type: str
    required: true
  service:
    description: Compose service of the container.
    type: str
    required: true
  user:
    description: User of the access list that may ask all this.
    type: str
    default: admin
  password_file:
    description: File in the container that holds the user's password.
    type: path
    required: true
  config:
    description: Settings by name, as C(CONFIG GET) gives them; sizes in bytes.
    type: dict
    default: {}
  users:
    description:
      - Rules of the access list by user. There must be no further users, and each must have its rules.
      - User C(default) must always be off but keep all rights. Transactions in an append-only file are replayed
        as this user; what it may not do is dropped from the data without an error.
    type: dict
    required: true
  refused:
    description: Commands that none of the users may run, tried out with C(ACL DRYRUN), which runs none.
    type: dict
    default: {}
  wait_seconds:
    description: How long to wait for an answer.
    type: int
    default: 30
attributes:
  check_mode:
    description: Never changes anything; an instance that does not run is skipped with a warning.
    support: full
  diff_mode:
    description: Never changes anything.
    support: none
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: The queue evicts nothing and n8n cannot empty it
  redis_instance_check:
    project: n8n-local
    service: redis-queue
    password_file: /run/secrets/redis_queue_admin_password
    config: {maxmemory-policy: noeviction, appendonly: "yes"}
    users:
      default: "off"
      n8n: "~bull:* +@all -@dangerous"
      admin: "~* +@all"
    refused: {n8n: [FLUSHALL, GET elsewhere]}
"""

RETURN = r"""
version:
  description: The server's version; null when it does not run (check mode).
  returned: success
  type: str
  sample: "8.0.2"
"""

import json
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.engine_exec import again_where_lost
from ansible.module_utils.n8n_platform.http import HttpError

Run = Callable[[list[str], str], tuple[int, str, str]]

# Only inside the container, and only for this one process.
_LOGIN = 'REDISCLI_AUTH=$(cat "$1") && export REDISCLI_AUTH && user=$2 && shift 2 && exec redis-cli --user "$user" "$@"'
_DEFAULT_USER = "off ~* &* +@all"
_POLL_SECONDS = 1.0


class RedisError(Exception):
    """The instance refused a command, or did not answer."""


class Client:
    """redis-cli in a container; `run(argv, stdin)` gives exit code, output and errors."""

    def __init__(self, run: Run, container: str, user: str, password_file: str) -> None:
        self._run = run
        self._container = ["docker", "exec", "-i", container]
        self._argv = [*self._container, "sh", "-c", _LOGIN, "sh", password_file, user]

    @cached_property
    def version(self) -> str:
        """Of a server that serves: while it loads its data, it answers PING with an error."""
        pong, *lines = self._ask("PING\nINFO server\n").splitlines() or [""]
        if pong != "PONG":
            raise RedisError(f"PING: {pong}")
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        return fields.get("valkey_version", fields.get("redis_version", "")).strip()

    def is_open(self) -> bool:
        """Whether somebody who did not log in gets an answer."""
        _code, output, _errors = self._run([*self._container, "redis-cli"], "PING\n")
        return output.strip() == "PONG"

    def replies(self, commands: list[str]) -> list[Any]:
        """One reply per command. Raises RedisError, for a reply that is an error, too."""
        lines = self._ask("".join(f"{command}\n" for command in commands), "--json").splitlines()
        if len(lines) != len(commands):
            raise RedisError(f"{len(commands)} commands, {len(lines)} replies")
        for command, line in zip(commands, lines, strict=True):
            if line.startswith("error:"):
                raise RedisError(f"{command}: {line.removeprefix('error:')}")
        return [json.loads(line) for line in lines]

    def _ask(self, commands: str, *options: str) -> str:
        """Where redis-cli reads commands from its input, its exit code says only whether it got a connection."""
        code, output, errors = self._run([*self._argv, *options], commands)
        if code:
            raise RedisError((errors or output).strip() or f"redis-cli ended with {code}")
        return output


def differences(client: Client, params: dict[str, Any]) -> list[str]:
    """What is not as wanted, in words."""
    wanted, trials = (
        params["config"],
        [f"{u} {c}" for u, commands in params["refused"].items() for c in commands],
    )
    questions = [f"CONFIG GET {name}" for name in wanted]
    answers = client.replies(["ACL LIST", *questions, *(f"ACL DRYRUN {trial}" for trial in trials)])
    acl, settings, verdicts = answers[0], answers[1 : 1 + len(questions)], answers[1 + len(questions) :]
    actual = {name: value for answer in settings for name, value in answer.items()}
    permitted = [trial for trial, verdict in zip(trials, verdicts, strict=True) if verdict == "OK"]
    return [
        *(f"{k} is {actual.get(k)}, wanted {v}" for k, v in wanted.items() if actual.get(k) != str(v)),
        *acl_differences(users(acl), params["users"], spells_out(client.version)),
        *(f"user {trial} is permitted" for trial in permitted),
        *(["answers without a login"] if client.is_open() else []),
    ]


def spells_out(version: str) -> bool:
    """Redis before 7.2 lists the single commands that rules about categories come to, not the rules."""
    return [int(part) for part in version.split(".")[:2]] < [7, 2]


def acl_differences(
    actual: dict[str, list[str]], wanted: dict[str, str], spelled_out: bool = False
) -> list[str]:
    """Every user must be known, and have every one of its rules.

    spelled_out: rules about commands cannot be compared; which ones are refused is tried all the same.
    """
    found = [f"user {name} is not wanted" for name in actual if name not in {"default", *wanted}]
    for name, rules in {"default": _DEFAULT_USER, **wanted}.items():
        if name not in actual:
            found.append(f"user {name} is missing")
            continue
        missing = [
            rule
            for rule in rules.split()
            if rule not in actual[name] and not (spelled_out and rule[0] in "+-" and rule != "+@all")
        ]
        if missing:
            found.append(f"user {name} lacks {' '.join(missing)}")
    return found


def users(acl: list[str]) -> dict[str, list[str]]:
    """`user <name> <rule> ...` lines, without the hashes of passwords."""
    words = [line.split() for line in acl]
    return {line[1]: [rule for rule in line[2:] if not rule.startswith("#")] for line in words}


def connect(module: AnsibleModule) -> Client | None:
    """Waits for an answer; None in check mode when nothing runs. Raises RedisError when time is up."""
    params = module.params
    deadline = time.monotonic() + params["wait_seconds"]

    def run(argv: list[str], stdin: str) -> tuple[int, str, str]:
        result: tuple[int, str, str] = module.run_command(argv, data=stdin)
        return result

    while True:
        try:
            container = Engine().service(params["project"], params["service"])
            if container is None:
                raise RedisError("no such container")
            client = Client(again_where_lost(run), container["Id"], params["user"], params["password_file"])
            _ = client.version
            return client
        except (RedisError, HttpError) as error:
            if module.check_mode:
                return None
            if time.monotonic() >= deadline:
                raise RedisError(f"does not answer, waited {params['wait_seconds']} s: {error}") from error
            time.sleep(_POLL_SECONDS)


def build_spec() -> dict[str, Any]:
    return {
        "project": {"type": "str", "required": True},
        "service": {"type": "str", "required": True},
        "user": {"type": "str", "default": "admin"},
        "password_file": {"type": "path", "required": True, "no_log": False},
        "config": {"type": "dict", "default": {}},
        "users": {"type": "dict", "required": True},
        "refused": {"type": "dict", "default": {}},
        "wait_seconds": {"type": "int", "default": 30},
    }


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    name = module.params["service"]
    try:
        client = connect(module)
        found = differences(client, module.params) if client else []
        version = client.version if client else None
    except (RedisError, HttpError) as error:
        module.fail_json(msg=f"{name}: {error}")
    if client is None:
        module.warn(f"{name}: does not run, nothing was compared")
    if found:
        module.fail_json(msg=f"{name}: {'; '.join(found)}")
    module.exit_json(changed=False, version=version)


if __name__ == "__main__":
    main()
