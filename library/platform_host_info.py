"""What the host baseline needs to know of a host: init system, clock, kernel parameters."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: platform_host_info
short_description: Init system, clock and kernel parameters of a host
description:
  - Read-only, and needs neither gathered facts nor a tool on the host.
options:
  sysctl:
    description: Kernel parameters to read, each with the value that it should have.
    type: dict
    default: {}
  journal_max_mb:
    description: Limit of the journal in MB that is wanted; 0 wants none.
    type: int
    default: 0
  project:
    description: >-
      Whose settings these are. Each project has files of its own, C(/etc/sysctl.d/60-<project>.conf) and
      C(/etc/systemd/journald.conf.d/60-<project>.conf); empty compares with no other project.
    type: str
    default: ""
  require:
    description:
      - V(none) only reports. V(possible) fails where a value differs and cannot be written, and where another project
        of this host wants another value. V(met) fails where a value differs, and warns where nobody keeps the clock.
    type: str
    choices: [none, possible, met]
    default: none
attributes:
  check_mode: {support: full, description: Changes nothing.}
  diff_mode: {support: none, description: Changes nothing.}
author:
  - n8n platform maintainers
"""

EXAMPLES = r"""
- name: Look at the host
  platform_host_info:
    sysctl: {vm.overcommit_memory: 1}
    project: n8n-staging
    require: possible
  register: __host
"""

RETURN = r"""
systemd:
  description: Whether PID 1 is systemd.
  returned: always
  type: bool
container:
  description: Whether the host is a container itself; its clock is another host's then.
  returned: always
  type: bool
logrotate:
  description: Whether logrotate is installed.
  returned: always
  type: bool
cron:
  description: Whether cron is installed.
  returned: always
  type: bool
clock:
  description: C(synchronised), by the kernel's own account; C(service), the running time service or empty.
  returned: always
  type: dict
sysctl:
  description: >-
    For each parameter C(value) (empty where the kernel has none), C(right), C(writable), and C(kept), whether the
    project's own file says it, too.
  returned: always
  type: dict
dropped:
  description: Parameters in the project's own file that are not wanted any more.
  returned: always
  type: list
  elements: str
"""

import ctypes
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

ROOT = Path("/")
TIME_SERVICES = ("chronyd", "systemd-timesyn", "ntpd", "openntpd")  # the kernel keeps 15 letters
TIME_ERROR = 5
TIMEX_BYTES = 512  # struct timex has 208
SYSCTL_FILES = "etc/sysctl.d/60-n8n-*.conf"
JOURNAL_FILES = "etc/systemd/journald.conf.d/60-n8n-*.conf"
JOURNAL_KEY = "SystemMaxUse"


def clock_synchronised() -> bool:
    """adjtimex(2) without a change: what `timedatectl` and the engine's host see alike."""
    state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    return state not in (-1, TIME_ERROR)


def running_commands(root: Path) -> set[str]:
    found = set()
    for path in (root / "proc").glob("[0-9]*/comm"):
        try:
            found.add(path.read_text(encoding="utf-8").strip())
        except OSError:
            continue
    return found


def in_container(root: Path) -> bool:
    marks = (root / ".dockerenv", root / "run/.containerenv", root / "run/systemd/container")
    return any(mark.exists() for mark in marks)


def read_sysctl(root: Path, name: str, wanted: Any, kept: str | None = None) -> dict[str, Any]:
    """In a container /proc/sys is often mounted read-only, for root too."""
    path = root / "proc/sys" / name.replace(".", "/")
    value = path.read_text(encoding="utf-8").strip() if path.exists() else ""
    right = value.split() == str(wanted).split()
    return {
        "value": value,
        "right": right,
        "writable": path.exists() and os.access(path, os.W_OK),
        "kept": kept == " ".join(str(wanted).split()),
    }


def settings(path: Path) -> dict[str, str]:
    """The `key = value` lines of a file, white space as sysctl compares it; empty where there is no file."""
    if not path.exists():
        return {}
    lines = (line.partition("=") for line in path.read_text(encoding="utf-8").splitlines() if "=" in line)
    return {key.strip(): " ".join(value.split()) for key, _, value in lines if key.lstrip()[:1] not in "#;"}


def clashes(root: Path, project: str, sysctl: dict[str, Any], journal_max_mb: int) -> list[str]:
    """Where another project of the host wants another value of what there is only once, one sentence each."""
    wanted = [
        ("host_baseline_sysctl", SYSCTL_FILES, {name: str(value) for name, value in sysctl.items()}),
        (
            "host_baseline_journal_max_mb",
            JOURNAL_FILES,
            {JOURNAL_KEY: f"{journal_max_mb}M"} if journal_max_mb else {},
        ),
    ]
    return [
        f"{variable}: {key} is to be {' '.join(value.split())} here and {found[key]} in /{path.relative_to(root)}: "
        "environments of one host have to agree"
        for variable, pattern, values in wanted
        for path in sorted(root.glob(pattern))
        if path.stem != f"60-{project}"
        for found in [settings(path)]
        for key, value in values.items()
        if key in found and found[key] != " ".join(value.split())
    ]


def observe(root: Path, sysctl: dict[str, Any], project: str = "") -> dict[str, Any]:
    running = running_commands(root)
    own = settings(root / f"etc/sysctl.d/60-{project}.conf")
    return {
        "systemd": (root / "run/systemd/system").is_dir(),
        "container": in_container(root),
        "logrotate": (root / "etc/logrotate.d").is_dir(),
        "cron": (root / "usr/sbin/cron").exists(),
        "clock": {
            "synchronised": clock_synchronised(),
            "service": next((name for name in TIME_SERVICES if name in running), ""),
        },
        "sysctl": {name: read_sysctl(root, name, wanted, own.get(name)) for name, wanted in sysctl.items()},
        "dropped": sorted(own.keys() - sysctl.keys()),
    }


def problems(seen: dict[str, Any], sysctl: dict[str, Any], require: str) -> list[str]:
    """What `require` does not allow, one sentence each."""
    found = []
    for name, state in seen["sysctl"].items():
        if not state["right"] and (require == "met" or (require == "possible" and not state["writable"])):
            reason = (
                ""
                if state["writable"]
                else ", and it cannot be written here: set it where the kernel belongs to"
            )
            found.append(f"{name} is '{state['value']}' instead of '{sysctl[name]}'{reason}")
    return found


def build_spec() -> dict[str, Any]:
    return {
        "sysctl": {"type": "dict", "default": {}},
        "journal_max_mb": {"type": "int", "default": 0},
        "project": {"type": "str", "default": ""},
        "require": {"type": "str", "choices": ["none", "possible", "met"], "default": "none"},
    }


def main() -> None:
    module = AnsibleModule(argument_spec=build_spec(), supports_check_mode=True)
    sysctl, require, project = (module.params[name] for name in ("sysctl", "require", "project"))
    seen = observe(ROOT, sysctl, project)
    if found := problems(seen, sysctl, require):
        module.fail_json(msg=f"kernel parameters: {'; '.join(found)}", **seen)
    if project and require == "possible":
        found = clashes(ROOT, project, sysctl, module.params["journal_max_mb"])
        if found:
            module.fail_json(msg="; ".join(found), **seen)
    if require == "met" and not (seen["clock"]["synchronised"] or seen["clock"]["service"]):
        module.warn(
            "the clock is not synchronised and no time service runs: schedules, certificates and tokens need it"
        )
    module.exit_json(changed=False, **seen)


if __name__ == "__main__":
    main()
