#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""List, start, drain, restart and roll the slots of an environment."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_slots
short_description: List, start, drain, restart and roll the slots of an environment
description:
  - A slot is one n8n worker with its task runner, or one webhook processor. Slots are rendered up to a
    maximum; how
    many of them run is state on the host.
  - Draining is the stop signal with the container's own stop time, the worker first and its runner after it.
  - Every act is one JSON line in C(<state_root>/slots.log).
options:
  project:
    description: Name of the Compose project.
    type: str
    required: true
  releases_root:
    description: Directory of the releases.
    type: path
    required: true
  release:
    description: Id of the release, or C(current).
    type: str
    default: current
  state_root:
    description: Directory of the log and the lock.
    type: path
    required: true
  state:
    description:
      - C(listed) only looks.
      - C(started) starts slots, lowest numbers first, until O(minimum) of each kind run; those that run
        beyond it stay,
        those beyond O(maximum) are drained. With O(slots) it starts these.
      - C(rolled) does the same and then replaces the slots that run an older configuration, one at a time,
        each
        healthy before the next.
      - C(drained) stops O(slots), or all slots of O(kinds), when their work is done.
      - C(restarted) drains and starts those of O(slots), or of O(kinds), that run, one at a time.
    type: str
    choices: [listed, started, rolled, drained, restarted]
    default: listed
  slots:
    description: Names of slots, such as C(worker-3).
    type: list
    elements: str
    default: []
  kinds:
    description: Kinds of slots to act on; empty means all.
    type: list
    elements: str
    default: []
  minimum:
    description: How many slots have to run, by kind. Draining below it is refused.
    type: dict
    default: {}
  maximum:
    description: How many slots may run, by kind; all that the release has, if not given.
    type: dict
    default: {}
  parallel:
    description: How many slots are started or drained side by side. Rolling and restarting is always one at
      a time.
    type: int
    default: 1
  patience:
    description:
      - Seconds that a drained container gets instead of its own stop time.
      - For those that only wait for others, such as webhook processors whose jobs no worker will take any more.
    type: int
  wait_timeout:
    description: Seconds for a started slot to become healthy.
    type: int
    default: 300
  actor:
    description: Who acts, for the log.
    type: str
    default: playbook
  engine_socket:
    description: Socket of the Docker engine.
    type: path
    default: /var/run/docker.sock
attributes:
  check_mode:
    support: full
    description: Says what would be done. Before the first release exists that is nothing but a change.
  diff_mode:
    support: full
    description: State of each slot that is acted on.
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: configure | Start the minimum, roll what is outdated
  platform_slots:
    project: "{{ platform_project }}"
    releases_root: "{{ platform_releases_root }}"
    state_root: "{{ platform_state_root }}"
    state: rolled
    minimum: {worker: 5, webhook: 2}
"""

RETURN = r"""
slots:
  description: All slots as they were found, with C(name), C(kind), C(state) (running, partial or stopped),
    C(healthy),
    C(outdated) and C(members).
  returned: always
  type: list
  elements: dict
trouble:
  description: Slots that were found running but not healthy, not complete or not of this release, one sentence each.
  returned: always
  type: list
  elements: str
msg:
  description: The same in one line.
  returned: always
  type: str
acts:
  description: What is done, as C(verb slot), in order.
  returned: always
  type: list
  elements: str
messages:
  description: What was done and how long it took.
  returned: always
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform import slot_policy
from ansible.module_utils.n8n_platform.compose_cli import ComposeCli
from ansible.module_utils.n8n_platform.compose_policy import ComposeError
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.releases import COMPOSE
from ansible.module_utils.n8n_platform.slot_policy import Act, Bounds, Slot, SlotError
from ansible.module_utils.n8n_platform.slots import Paths, Slots

_AFTER = {"start": "running", "roll": "running", "restart": "running", "drain": "stopped", "remove": "absent"}


def build_spec() -> dict[str, Any]:
    states = ["listed", "started", "rolled", "drained", "restarted"]
    return {
        "project": {"type": "str", "required": True},
        "releases_root": {"type": "path", "required": True},
        "release": {"type": "str", "default": "current"},
        "state_root": {"type": "path", "required": True},
        "state": {"type": "str", "choices": states, "default": "listed"},
        "slots": {"type": "list", "elements": "str", "default": []},
        "kinds": {"type": "list", "elements": "str", "default": []},
        "minimum": {"type": "dict", "default": {}},
        "maximum": {"type": "dict", "default": {}},
        "parallel": {"type": "int", "default": 1},
        "patience": {"type": "int"},
        "wait_timeout": {"type": "int", "default": 300},
        "actor": {"type": "str", "default": "playbook"},
        "engine_socket": {"type": "path", "default": "/var/run/docker.sock"},
    }


class Manager:
    """Plans and carries out acts on slots. Raises SlotError, ComposeError and HttpError."""

    def __init__(self, params: dict[str, Any], docker: str) -> None:
        release = Path(params["releases_root"]) / params["release"]
        socket = params["engine_socket"]
        self.params = params
        self.bounds = Bounds(_numbers("minimum", params["minimum"]), _numbers("maximum", params["maximum"]))
        self.library = Slots(
            params["project"],
            Engine(socket),
            ComposeCli(docker, params["project"], release / COMPOSE, socket),
            Paths(release, Path(params["state_root"])),
            parallel=params["parallel"],
            wait_timeout=params["wait_timeout"],
            actor=params["actor"],
            patience=params["patience"],
        )
        self.slots: list[Slot] = []

    def plan(self) -> list[Act]:
        kinds = self.params["kinds"]
        self.slots = [slot for slot in self.library.all() if not kinds or slot.kind in kinds]
        state, names = self.params["state"], self.params["slots"]
        everyone = names or [slot.name for slot in self.slots if not slot.orphan]
        if state == "started" and names:
            return slot_policy.started_by_name(self.slots, names, self.bounds)
        if state in ("started", "rolled"):
            policy = slot_policy.started if state == "started" else slot_policy.rolled
            return policy(self.slots, self.bounds, self.library.interrupted())
        if state == "drained":
            return slot_policy.drained(self.slots, everyone, self.bounds)
        return slot_policy.restarted(self.slots, everyone) if state == "restarted" else []

    def trouble(self) -> list[str]:
        checks = {
            "of a release that is no longer in force": lambda slot: slot.orphan or slot.outdated,
            "not complete": lambda slot: slot.state == "partial",
            "not healthy": lambda slot: not slot.healthy,
        }
        running = [slot for slot in self.slots if slot.state != "stopped"]
        return [
            f"{slot.name} is {words}" for slot in running for words, check in checks.items() if check(slot)
        ]

    def apply(self, acts: list[Act]) -> None:
        self.library.carry_out(acts)

    def converge(self) -> list[Act]:
        """Plans and applies while nobody else acts."""
        if self.params["state"] == "listed":
            return self.plan()
        with self.library.lock():
            acts = self.plan()
            self.apply(acts)
        return acts


def _numbers(argument: str, given: dict[str, Any]) -> dict[str, int]:
    try:
        return {str(kind): int(number) for kind, number in given.items()}
    except (TypeError, ValueError):
        raise SlotError(f"{argument}: {given} must give a number by kind") from None


def _described(slot: Slot) -> dict[str, Any]:
    members = [
        {"service": member.service, "state": member.state, "health": member.health} for member in slot.members
    ]
    found = {"name": slot.name, "kind": slot.kind, "state": slot.state, "healthy": slot.healthy}
    return {**found, "outdated": slot.outdated, "members": members}


def _diff(acts: list[Act]) -> dict[str, str]:
    before = [
        f"{act.slot.name}: {act.slot.state}{' (outdated)' if act.slot.outdated else ''}\n" for act in acts
    ]
    return {
        "before": "".join(before),
        "after": "".join(f"{act.slot.name}: {_AFTER[act.verb]}\n" for act in acts),
    }


def _without_release(module: AnsibleModule) -> None:
    """Nothing runs before the first release: a check run says that slots would start, acting on them is refused."""
    starts = module.params["state"] not in ("listed", "drained")
    if starts and not module.check_mode:
        module.fail_json(msg="there is no release on this host yet; playbooks/site.yml brings it")
    module.exit_json(changed=starts, msg="no release yet", slots=[], trouble=[], acts=[], messages=[])


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    release = Path(module.params["releases_root"]) / module.params["release"]
    docker = module.get_bin_path("docker")
    if not (docker and (release / COMPOSE).exists()):
        _without_release(module)
    messages: list[str] = []
    try:
        manager = Manager(module.params, docker or "docker")
        messages = manager.library.messages
        acts = manager.plan() if module.check_mode else manager.converge()
    except (SlotError, ComposeError, HttpError) as error:
        module.fail_json(msg=str(error), messages=messages)
    module.exit_json(
        changed=bool(acts),
        msg="; ".join(manager.trouble()) or "all slots that run are healthy and of this release",
        slots=[_described(slot) for slot in manager.slots],
        trouble=manager.trouble(),
        acts=[f"{act.verb} {act.slot.name}" for act in acts],
        messages=messages,
        diff=_diff(acts),
    )


if __name__ == "__main__":
    main()
