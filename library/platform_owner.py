#!/usr/bin/python
"""Marks a target as in use by one controller."""

DOCUMENTATION = r"""
module: platform_owner
short_description: Mark a target as in use by one controller
description:
  - Writes who manages an environment, from where and until when, and refuses while another controller's mark is valid.
    The same controller replaces its own mark. Never reported as a change.
  - Two runs of one controller are kept apart by the callback plugin platform_lock; this is for several controllers.
author: n8n platform maintainers
options:
  path: {description: The file., type: path, required: true}
  state:
    description: V(absent) removes our own mark at the end of a run.
    type: str
    choices: [present, absent]
    default: present
  controller: {description: The controller's name. By default its host name., type: str}
  user: {description: Who runs it. By default the user on the controller., type: str}
  ttl_seconds: {description: For how many seconds the mark is valid., type: int, default: 7200}
  takeover: {description: Replace a valid mark of another controller., type: bool, default: false}
attributes:
  check_mode: {description: Refuses as usual and writes nothing., support: full}
  diff_mode: {description: The mark is no part of the environment., support: none}
"""
EXAMPLES = r"""
- platform_owner:
    path: /var/lib/n8n-platform/local/state/owner.json
    ttl_seconds: 7200
"""
RETURN = r"""
owner:
  description: The mark as it stands after the task.
  returned: success
  type: dict
  sample: {controller: ops-1, user: deploy, since: "2026-01-01T10:00:00+00:00", until: "2026-01-01T12:00:00+00:00"}
"""

import datetime
import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.files import write_file


def build_spec() -> dict[str, Any]:
    return {
        "path": {"type": "path", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "controller": {"type": "str"},
        "user": {"type": "str"},
        "ttl_seconds": {"type": "int", "default": 7200},
        "takeover": {"type": "bool", "default": False},
    }


class TargetHeldError(Exception):
    """Another controller's mark is valid; the message says whose."""


class Manager:
    def __init__(self, params: dict[str, Any], now: datetime.datetime) -> None:
        self.params = params
        self.path = Path(params["path"])
        self.now = now

    def plan(self) -> list[dict[str, Any]]:
        """The mark to write, or nothing. Raises TargetHeldError."""
        current = self.current()
        if self.params["state"] == "absent":
            return []
        if current and self._is_foreign(current) and not self.params["takeover"]:
            raise TargetHeldError(
                f"This target is in use from {current['controller']} by {current['user']}, since {current['since']}, "
                f"at most until {current['until']} ({self.path}). Nothing has been changed. If that run is dead: "
                "-e platform_lock_takeover=true"
            )
        until = self.now + datetime.timedelta(seconds=self.params["ttl_seconds"])
        mark = {"controller": self.params["controller"], "user": self.params["user"]}
        return [{**mark, "since": _text(self.now), "until": _text(until)}]

    def apply(self, marks: list[dict[str, Any]]) -> None:
        for mark in marks:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_file(self.path, json.dumps(mark, indent=2) + "\n", mode=0o644)
        current = self.current()
        if self.params["state"] == "absent" and current and not self._is_foreign(current):
            self.path.unlink()

    def current(self) -> dict[str, Any] | None:
        """None when there is no mark, or one that cannot be read: a torn file must not lock everybody out."""
        try:
            mark = json.loads(self.path.read_text())
            datetime.datetime.fromisoformat(mark["until"])
            return {
                "controller": mark["controller"],
                "user": mark["user"],
                "since": mark["since"],
                "until": mark["until"],
            }
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _is_foreign(self, mark: dict[str, Any]) -> bool:
        valid = datetime.datetime.fromisoformat(mark["until"]) > self.now
        return valid and mark["controller"] != self.params["controller"]


def _text(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="seconds")


def main() -> None:
    module = AnsibleModule(argument_spec=build_spec(), supports_check_mode=True)
    manager = Manager(module.params, datetime.datetime.now(datetime.timezone.utc))
    try:
        marks = manager.plan()
    except TargetHeldError as error:
        module.fail_json(msg=str(error))
    if not module.check_mode:
        manager.apply(marks)
    module.exit_json(changed=False, owner=marks[0] if marks else manager.current() or {})


if __name__ == "__main__":
    main()
