#!/usr/bin/python
"""Ansible module: one call through the edge, computed by a worker's runner, read back as an execution."""

from __future__ import annotations

DOCUMENTATION = r"""
module: n8n_smoke
short_description: Call the smoke workflow from outside and read its execution back
description:
  - Sends numbers and a random word to the smoke workflow's webhook through the edge, checks what its Code node
    answers, reads the execution back through n8n's API and finds the worker that ran it in the event logs.
  - Needs the workflow C(workflows/smoke). Besides the one execution it changes nothing.
author: n8n platform maintainers
options:
  url:
    description: Base URL of n8n's main process for the API; alternative to O(project).
    type: str
  project:
    description: Compose project whose service C(n8n-main) is meant; its address is asked of the engine.
    type: str
  store_file:
    description: File on the target that says how to reach the secret store, which holds the API key.
    type: path
    required: true
  environment:
    description: Environment whose secrets are meant.
    type: str
    required: true
  public_url:
    description: What senders use, such as V(https://n8n.example.org).
    type: str
    required: true
  connect_to:
    description: Address to connect to; the name in O(public_url) stays Host and SNI and need not resolve.
    type: str
  ca_file:
    description: PEM file on the target that must have signed the edge's certificate; the system's without it.
    type: path
  path:
    description: The webhook's path.
    type: str
    default: platform-smoke
  events_dir:
    description: Folder on the target with the processes' event logs.
    type: path
    required: true
  timeout:
    description: Seconds for the answer, and again for the execution to be saved.
    type: int
    default: 60
attributes:
  check_mode:
    description: Nothing is sent and nothing is reported.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Call the smoke workflow
  n8n_smoke:
    project: n8n-local
    store_file: "{{ platform_state_root }}/openbao-store.json"
    environment: local
    public_url: https://n8n.localhost:8443
    connect_to: 127.0.0.1
    ca_file: /var/lib/n8n-platform/local/ca.crt
    events_dir: /var/lib/n8n-platform/local/volumes/n8n-events
"""

RETURN = r"""
execution:
  description: Id of the execution.
  returned: success, not in check mode
  type: str
worker:
  description: Host id of the worker that ran it.
  returned: success, not in check mode
  type: str
milliseconds:
  description: From sending the request to its answer.
  returned: success, not in check mode
  type: int
"""

import json
import secrets
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.http import HttpError, JsonClient
from ansible.module_utils.n8n_platform.n8n import (
    ADDRESS_RULES,
    API_ARGUMENTS,
    N8n,
    N8nError,
    client_from_params,
)
from ansible.module_utils.n8n_platform.openbao import StoreError

NUMBERS = [2, 3, 37]
DEQUEUED = "n8n.queue.job.dequeued"
FINAL = ("success", "error", "crashed", "canceled")
POLL_SECONDS = 0.5


def build_spec() -> dict[str, Any]:
    return {
        **API_ARGUMENTS,
        "public_url": {"type": "str", "required": True},
        "connect_to": {"type": "str"},
        "ca_file": {"type": "path"},
        "path": {"type": "str", "default": "platform-smoke"},
        "events_dir": {"type": "path", "required": True},
        "timeout": {"type": "int", "default": 60},
    }


def call(params: dict[str, Any]) -> str:
    """Id of the execution that answered. Half of the time is for a second try where the first has no answer: a webhook
    processor that has just started may miss the end of its first job (docs/decisions/0010). Raises HttpError, N8nError
    (a wrong answer)."""
    try:
        return _call(params, params["timeout"] / 2)
    except HttpError as error:
        if error.status:
            raise
    return _call(params, params["timeout"] / 2)


def _call(params: dict[str, Any], timeout: float) -> str:
    edge = JsonClient(
        params["public_url"],
        timeout=timeout,
        ca_file=params["ca_file"],
        connect_to=params["connect_to"],
    )
    nonce = secrets.token_hex(8)
    answer = edge.request("POST", f"/webhook/{params['path']}", {"numbers": NUMBERS, "nonce": nonce})
    try:
        body = answer.json
    except ValueError:
        body = None
    if not isinstance(body, dict) or body.get("nonce") != nonce or body.get("sum") != sum(NUMBERS):
        raise N8nError(
            f"{params['public_url']}/webhook/{params['path']} answered {answer.status}: {answer.text[:200]!r}"
        )
    return str(body["execution"])


def finished(n8n: N8n, identifier: str, timeout: float) -> dict[str, Any]:
    """The execution once its outcome is saved. Raises N8nError (not in time, not a success)."""
    deadline = time.monotonic() + timeout
    while True:
        execution = n8n.execution(identifier)
        status = execution["status"] if execution else "unknown to n8n"
        if execution and status in FINAL:
            break
        if time.monotonic() >= deadline:
            raise N8nError(f"execution {identifier} is {status} after {timeout:g} s")
        time.sleep(POLL_SECONDS)
    if status != "success":
        raise N8nError(f"execution {identifier} ended as {status}")
    return execution


def worker_of(identifier: str, events_dir: Path, timeout: float) -> str:
    """Host id of the worker that took the execution from the queue: only the event logs know it. Raises N8nError."""
    deadline = time.monotonic() + timeout
    while True:
        for file in sorted(events_dir.glob("worker-*.log")):
            for line in reversed(file.read_text(encoding="utf-8", errors="replace").splitlines()):
                if DEQUEUED in line and (payload := json.loads(line)["payload"])["executionId"] == identifier:
                    return str(payload.get("workerId") or payload.get("hostId") or file.stem)
        if time.monotonic() >= deadline:
            raise N8nError(f"execution {identifier}: no worker's event log in {events_dir} has it")
        time.sleep(POLL_SECONDS)


def run(params: dict[str, Any]) -> dict[str, Any]:
    n8n = client_from_params(params)
    start = time.monotonic()
    identifier = call(params)
    milliseconds = round((time.monotonic() - start) * 1000)
    finished(n8n, identifier, params["timeout"])
    worker = worker_of(identifier, Path(params["events_dir"]), 10)
    return {"changed": False, "execution": identifier, "worker": worker, "milliseconds": milliseconds}


def main() -> None:
    module = AnsibleModule(argument_spec=build_spec(), supports_check_mode=True, **ADDRESS_RULES)
    if module.check_mode:
        module.exit_json(changed=False, skipped=True)
    try:
        result = run(module.params)
    except (N8nError, HttpError, StoreError) as error:
        module.fail_json(msg=f"the smoke workflow did not pass: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
