"""Compares all variables of a host with what the roles say they take."""

import difflib
import functools
import re
import zoneinfo
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError, AnsibleUndefinedVariable
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.action import ActionBase
from ansible.release import __version__ as core_version
from ansible.template import Templar

DOCUMENTATION = r"""
module: platform_validate
short_description: Refuse unknown, mistyped and undefined variables before anything is changed
description:
  - Compares the variables of a host (inventory, groups, hosts, extra variables) with the union of all roles'
    C(meta/argument_specs.yml), C(meta/validation.yml) and C(roles/platform_preflight/meta/platform_variables.yml).
  - All problems are listed in one error. Runs on the controller only, in check mode too.
  - "C(meta/validation.yml) of a role, all keys optional: C(ranges) {name: {min, max}}, C(patterns) {name: {regexp,
    says}}, C(renamed) {old: new}, C(host_ports) [names of inputs that are ports on the host], C(time_zones) [names of
    inputs that are time zones]."
  - Free are C(site_*), C(ansible_*), C(molecule_*), C(__*) and what Ansible itself defines.
author: n8n platform maintainers
options: {}
"""
RETURN = r"""
host_ports:
  description: The ports that roles open on the host, by the name of their variable.
  returned: success
  type: dict
  sample: {platform_https_port: 8443}
"""

SUPPORTED_CORE = "2.19"
FREE = re.compile(r"^(site_|ansible_|molecule_|__)")
MAGIC = {
    "environment",
    "group_names",
    "groups",
    "hostvars",
    "inventory_dir",
    "inventory_file",
    "inventory_hostname",
}
MAGIC |= {
    "inventory_hostname_short",
    "omit",
    "play_hosts",
    "playbook_dir",
    "role_name",
    "role_names",
    "role_path",
    "vars",
}
# Made of what is in sight of a play, and complete only in the plays that deploy.
NOT_EVALUATED = frozenset({"platform_contributions"})
PLATFORM_VARIABLES = "platform_preflight/meta/platform_variables.yml"


@dataclass
class Specification:
    """What the roles take, by the variables' names."""

    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    ranges: dict[str, dict[str, Any]] = field(default_factory=dict)
    patterns: dict[str, dict[str, str]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    host_ports: list[str] = field(default_factory=list)
    time_zones: list[str] = field(default_factory=list)
    defaults: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_roles(cls, roles: Path, loader: DataLoader) -> "Specification":
        specification = cls()
        for role in sorted(path for path in roles.iterdir() if path.is_dir()):
            specification.add_role(role, loader)
        specification.add_options(read(roles / PLATFORM_VARIABLES, loader))
        return specification

    def add_role(self, role: Path, loader: DataLoader) -> None:
        self.add_options(read(role / "meta/argument_specs.yml", loader))
        rules = read(role / "meta/validation.yml", loader)
        for kind in ("ranges", "patterns", "renamed"):
            getattr(self, kind).update(rules.get(kind, {}))
        self.host_ports += rules.get("host_ports", [])
        self.time_zones += rules.get("time_zones", [])
        self.defaults.update(read(role / "vars/main.yml", loader) | read(role / "defaults/main.yml", loader))

    def add_options(self, specs: Mapping[str, Any]) -> None:
        entry = specs.get("argument_specs", {}).get("main") or {}
        self.options.update(entry.get("options") or {})

    def is_secret(self, name: str) -> bool:
        return bool(self.options.get(name, {}).get("no_log"))


def read(path: Path, loader: DataLoader) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return loader.load_from_file(str(path), trusted_as_template=True) or {}


def unknown_names(names: Iterable[str], specification: Specification) -> list[str]:
    problems = []
    for name in sorted(names):
        if name in specification.options or name in MAGIC or FREE.match(name):
            continue
        if name in specification.renamed:
            problems.append(f"{name}: has been renamed, use {specification.renamed[name]}")
            continue
        nearest = difflib.get_close_matches(name, specification.options, 1)
        problems.append(f"{name}: no role takes it" + (f"; did you mean {nearest[0]}?" if nearest else ""))
    return problems


def value_problems(name: str, value: Any, specification: Specification) -> list[str]:
    """What is wrong with one value: type, choices, range, form. A secret's value is not repeated."""
    option = specification.options[name]
    if value is None:
        return [f"{name}: is required"] if option.get("required") else []
    result = ArgumentSpecValidator({name: option}).validate({name: value})
    if result.error_messages:
        if specification.is_secret(name):
            return [f"{name}: is not a valid {option.get('type', 'str')}"]
        return [f"{name}: {message}" for message in result.error_messages]
    checked = result.validated_parameters[name]
    said = "its value" if specification.is_secret(name) else repr(checked)
    kinds = (range_problems, form_problems, zone_problems)
    return [problem for kind in kinds for problem in kind(name, checked, said, specification)]


def range_problems(name: str, value: Any, said: str, specification: Specification) -> list[str]:
    limits = specification.ranges.get(name, {})
    low, high = limits.get("min"), limits.get("max")
    if (low is None or value >= low) and (high is None or value <= high):
        return []
    words = ([f"at least {low}"] if low is not None else []) + (
        [f"at most {high}"] if high is not None else []
    )
    return [f"{name}: {said} is out of range, it must be {' and '.join(words)}"]


def form_problems(name: str, value: Any, said: str, specification: Specification) -> list[str]:
    form = specification.patterns.get(name)
    if not form or re.fullmatch(form["regexp"], str(value)):
        return []
    return [f"{name}: {said} is not {form['says']}"]


def zone_problems(name: str, value: Any, said: str, specification: Specification) -> list[str]:
    known = time_zones()
    if name not in specification.time_zones or not known or value in known:
        return []
    nearest = difflib.get_close_matches(value, known, 1)
    meant = f"; did you mean {nearest[0]}?" if nearest else ""
    return [f"{name}: {said} is no time zone such as Europe/Berlin{meant}"]


@functools.cache
def time_zones() -> frozenset[str]:
    """Names in use, of the controller's list (tz's zone.tab); empty without one. Former names (US/Eastern, Europe/Kiev)
    are none: Debian's tzdata, which the images have, knows them no more."""
    for folder in zoneinfo.TZPATH:
        with suppress(OSError):
            lines = Path(folder, "zone.tab").read_text(encoding="utf-8").splitlines()
            named = {line.split("\t")[2] for line in lines if not line.startswith("#")}
            return frozenset({*named, "UTC", "GMT", "Etc/UTC", "Etc/GMT"} | fixed_zones())
    return frozenset()


def fixed_zones() -> set[str]:
    """Etc/GMT-14 to Etc/GMT+12."""
    return {f"Etc/GMT{offset:+d}" for offset in range(-14, 13)}


def first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


class Validation:
    """The variables of one host against a specification."""

    def __init__(
        self, specification: Specification, variables: Mapping[str, Any], loader: DataLoader
    ) -> None:
        self.specification = specification
        self.variables = variables
        self.templar = Templar(loader=loader, variables={**specification.defaults, **variables})
        self.values: dict[str, Any] = {}

    def problems(self) -> list[str]:
        found = unknown_names(self.variables, self.specification)
        for name in sorted(set(self.specification.options) - NOT_EVALUATED):
            found += self._problems_of(name)
        return found

    def _problems_of(self, name: str) -> list[str]:
        given = name in self.variables
        raw = self.variables.get(name, self.specification.defaults.get(name))
        if not given and name not in self.specification.defaults:
            return value_problems(name, None, self.specification)
        try:
            self.values[name] = self.templar.template(raw)
        except AnsibleUndefinedVariable as error:
            # A default may wait for what only its own role knows, and facts are not gathered yet.
            if not given or "ansible_facts" in repr(raw):
                return []
            return [f"{name}: refers to something undefined: {first_line(error)}"]
        except AnsibleError as error:
            return [f"{name}: cannot be evaluated: {first_line(error)}"] if given else []
        return value_problems(name, self.values[name], self.specification)

    def host_ports(self) -> dict[str, int]:
        return {
            name: int(self.values[name]) for name in self.specification.host_ports if self.values.get(name)
        }


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        if not core_version.startswith(f"{SUPPORTED_CORE}."):
            raise AnsibleActionFail(
                f"ansible-core {core_version} is not supported, {SUPPORTED_CORE} is; run .venv/bin/ansible-playbook"
            )
        roles = Path(__file__).resolve().parents[2] / "roles"
        validation = Validation(Specification.of_roles(roles, self._loader), task_vars or {}, self._loader)
        problems = validation.problems()
        if problems:
            listed = "\n".join(f"  - {problem}" for problem in problems)
            raise AnsibleActionFail(
                f"Nothing has been changed. Variables of {(task_vars or {}).get('inventory_hostname')}:\n{listed}"
            )
        return {"changed": False, "host_ports": validation.host_ports()}
