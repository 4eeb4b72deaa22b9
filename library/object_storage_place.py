#!/usr/bin/python
"""Where an environment's bucket lies, and whether it is still the same one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: object_storage_place
short_description: Refuse a bucket that is no second place, or another one than before
description:
  - Changes nothing and asks no store. Compares the endpoint's addresses with those of the host, and endpoint,
    bucket and prefix with those that M(object_storage_bucket) has recorded.
  - An endpoint whose name cannot be resolved is not known to be anywhere; using it will say so.
options:
  kind:
    description: V(own) for the store that the platform deploys, V(external) for an existing one.
    type: str
    choices: [own, external]
    required: true
  target:
    description: C(endpoint), C(bucket), C(prefix) and more, as C(platform_s3).
    type: dict
    required: true
  record_file:
    description: What was used last.
    type: path
    required: true
  allow_same_host:
    description: Accept an existing store on the host itself.
    type: bool
    default: false
  allow_move:
    description: Accept another bucket than the recorded one.
    type: bool
    default: false
attributes:
  check_mode:
    description: Never changes anything.
    support: full
  diff_mode:
    description: Never changes anything.
    support: none
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: The second copy lies elsewhere
  object_storage_place:
    kind: external
    target: {endpoint: "https://s3.example.com", bucket: n8n-backup, prefix: production}
    record_file: /var/lib/n8n-platform/production/state/object-storage.json
"""

RETURN = r"""
same_host:
  description: Whether the store is on this host.
  returned: success
  type: bool
addresses:
  description: Addresses of the endpoint.
  returned: success
  type: list
  elements: str
"""

import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule

VARIABLES = {
    "endpoint": "platform_s3_endpoint",
    "bucket": "platform_s3_bucket",
    "prefix": "platform_s3_prefix",
}


def build_spec() -> dict[str, Any]:
    return {
        "kind": {"type": "str", "choices": ["own", "external"], "required": True},
        "target": {"type": "dict", "required": True},
        "record_file": {"type": "path", "required": True},
        "allow_same_host": {"type": "bool", "default": False},
        "allow_move": {"type": "bool", "default": False},
    }


def addresses(host: str) -> list[str]:
    """All addresses of a name; none when it cannot be resolved."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(entry[4][0]) for entry in found})


def is_local(address: str) -> bool:
    """Only an address of this host can be bound to."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def moved(target: dict[str, Any], record_file: Path) -> list[str]:
    """What differs from the record, in words."""
    try:
        record = json.loads(record_file.read_text("utf-8"))
    except FileNotFoundError:
        return []
    return [
        f"{variable} was {record[key]} and is now {target.get(key)}"
        for key, variable in VARIABLES.items()
        if record.get(key) != target.get(key)
    ]


def judge(params: dict[str, Any]) -> dict[str, Any]:
    """The result; `msg` in it is a refusal."""
    target = params["target"]
    url = urlsplit(str(target.get("endpoint") or ""))
    if params["kind"] == "own":
        found: list[str] = []
        local = True
    else:
        if url.scheme != "https" or not url.hostname:
            return {"msg": f"platform_s3_endpoint: {target.get('endpoint')!r} is no https://host[:port]"}
        found = addresses(url.hostname)
        local = any(is_local(address) for address in found)
        if local and not params["allow_same_host"]:
            where = f"{url.hostname} ({', '.join(found)})"
            return {
                "msg": f"platform_s3_endpoint: {where} is this host, so a copy there is lost with it; "
                "object_storage_same_host_allowed=true takes it all the same"
            }
    differences = moved(target, Path(params["record_file"]))
    if differences and not params["allow_move"]:
        return {
            "msg": f"{'; '.join(differences)}: the backups so far would be out of sight. Set the old value, or "
            "object_storage_move=true when they have been copied or are given up"
        }
    return {"same_host": local, "addresses": found}


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        result = judge(module.params)
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"{module.params['record_file']}: {error}")
    if "msg" in result:
        module.fail_json(**result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
