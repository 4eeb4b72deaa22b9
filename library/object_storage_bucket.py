#!/usr/bin/python
"""An S3 bucket and its settings."""

from __future__ import annotations

DOCUMENTATION = r"""
module: object_storage_bucket
short_description: An S3 bucket, its versioning, object lock and life cycle
description:
  - Asks the store from a container of the backup tools, makes what is missing and takes nothing away. Versioning and a
    lock stay on, life cycle rules of other names stay.
  - Object lock can only be had by a bucket that is made with it; for any other bucket it is refused.
options:
  state:
    description: V(present) makes the bucket what it should be; V(verified) only fails, naming what differs.
    type: str
    choices: [present, verified]
    default: present
  environment:
    description: The platform's environment, for the label of the container.
    type: str
    required: true
  image:
    description: Image of the backup tools.
    type: str
    required: true
  target:
    description: C(endpoint), C(bucket), C(region), C(uri_style), C(ca_file), C(network) and more, as C(platform_s3).
    type: dict
    required: true
  credentials_file:
    description: AWS shared credentials on the host; profile C(default) is used.
    type: path
    required: true
  authority:
    description: Copied to C(target.ca_file), readable by all.
    type: path
  manage:
    description: Whether the credentials may make the bucket and see its settings. If not, it must be there, and be one
      that they may list.
    type: bool
    default: true
  versioning:
    description: Keep overwritten and deleted versions.
    type: bool
    default: true
  object_lock:
    description: C(mode) GOVERNANCE or COMPLIANCE and C(days) of the lock on each version; none if not given.
    type: dict
  lifecycle:
    description: Rules by name, each with C(prefix), C(noncurrent_days), C(multipart_days), C(expire_markers).
    type: dict
    default: {}
  record_file:
    description: Where to note endpoint, bucket and prefix, for M(object_storage_place).
    type: path
attributes:
  check_mode:
    description: Asks the store and changes nothing. Before the first start there is none to ask.
    support: full
  diff_mode:
    description: What is changed, a line each.
    support: full
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: A bucket that keeps what is deleted for a week
  object_storage_bucket:
    environment: local
    image: "{{ container_images_refs.backup }}"
    target: "{{ platform_s3 }}"
    credentials_file: "{{ platform_secrets_root }}/host/object_storage_credentials"
    lifecycle:
      n8n-platform: {prefix: "", noncurrent_days: 7, multipart_days: 3, expire_markers: true}
"""

RETURN = r"""
changes:
  description: What was or would be changed.
  returned: success
  type: list
  elements: str
bucket:
  description: C(versioning), C(object_lock), C(lifecycle) as they are; empty without O(manage).
  returned: success
  type: dict
"""

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.backup_s3 import S3, Limits, S3Error
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.engine_run import OneShots
from ansible.module_utils.n8n_platform.files import write_file

LIMITS = Limits(request=120)


def build_spec() -> dict[str, Any]:
    return {
        "state": {"type": "str", "choices": ["present", "verified"], "default": "present"},
        "environment": {"type": "str", "required": True},
        "image": {"type": "str", "required": True},
        "target": {"type": "dict", "required": True},
        "credentials_file": {"type": "path", "required": True},
        "authority": {"type": "path"},
        "manage": {"type": "bool", "default": True},
        "versioning": {"type": "bool", "default": True},
        "object_lock": {"type": "dict"},
        "lifecycle": {"type": "dict", "default": {}},
        "record_file": {"type": "path"},
    }


class Manager:
    """Compares and changes. Both raise S3Error, OSError; both return the changes in words."""

    def __init__(self, params: dict[str, Any], s3: S3) -> None:
        self.params = params
        self.s3 = s3
        self.bucket: dict[str, Any] = {}

    def plan(self) -> list[str]:
        """Before the first start there is neither a store nor anything to ask it with."""
        unborn = [f"make bucket {self.params['target']['bucket']}"]
        if not all(
            Path(self.params[key]).exists() for key in ("credentials_file", "authority") if self.params[key]
        ):
            return unborn
        files = [f"write {path}" for path in self._files()]
        if files and not Path(self.params["target"]["ca_file"] or "/").exists():
            return files + unborn
        return files + self._ask(apply=False)

    def apply(self) -> list[str]:
        """The authority first: without it the store is not trusted. The record last: it says that there is a bucket."""
        files = self._files()
        record = Path(self.params["record_file"]) if self.params["record_file"] else None
        for path in [path for path in files if path != record]:
            _write(path, files[path])
        changes = self._ask(apply=True)
        if record in files:
            _write(record, files[record])
        return [*(f"write {path}" for path in files), *changes]

    def _files(self) -> dict[Path, str]:
        """Content of the files that are not as they should be."""
        wanted = {}
        if self.params["authority"]:
            wanted[Path(self.params["target"]["ca_file"])] = Path(self.params["authority"]).read_text("utf-8")
        if self.params["record_file"]:
            place = {key: self.params["target"].get(key) for key in ("endpoint", "bucket", "prefix")}
            wanted[Path(self.params["record_file"])] = json.dumps(place, indent=2) + "\n"
        return {
            path: text
            for path, text in wanted.items()
            if not path.exists() or path.read_text("utf-8") != text
        }

    def _ask(self, apply: bool) -> list[str]:
        if not self.params["manage"]:
            self.s3.list("no-such-folder/")
            return []
        answer = self.s3.ensure_bucket(
            versioning=self.params["versioning"],
            object_lock=self.params["object_lock"],
            lifecycle=self.params["lifecycle"],
            apply=apply,
        )
        self.bucket = {key: answer[key] for key in ("exists", "versioning", "object_lock", "lifecycle")}
        return list(answer["changes"])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text, mode=0o444)


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    params = module.params
    verified = params["state"] == "verified"
    oneshots = OneShots(Engine(), params["environment"], "object-storage")
    s3 = S3(oneshots, params["image"], params["target"], params["credentials_file"], limits=LIMITS)
    manager = Manager(params, s3)
    try:
        changes = manager.plan() if module.check_mode or verified else manager.apply()
    except (S3Error, OSError) as error:
        module.fail_json(msg=str(error))
    if changes and verified:
        module.fail_json(
            msg=f"bucket {params['target']['bucket']} is not as it should be: {'; '.join(changes)}"
        )
    after = "".join(f"{change}\n" for change in changes)
    module.exit_json(
        changed=bool(changes), changes=changes, bucket=manager.bucket, diff={"before": "", "after": after}
    )


if __name__ == "__main__":
    main()
