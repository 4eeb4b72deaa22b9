#!/usr/bin/python
"""Refuses a host that cannot carry an environment."""

DOCUMENTATION = r"""
module: platform_preflight
short_description: Refuse a host that cannot carry an environment
description:
  - Checks the operating system, the confirmation, the paths and, with O(resources), memory, disk, ports and addresses.
  - All problems are reported at once, each by the variable that it concerns. Changes nothing.
  - That the memory limits of what runs in other environments leave too little is a warning.
  - What this environment's own containers and networks hold does not count as taken.
author: n8n platform maintainers
options:
  environment: {description: Name of the environment., type: str, required: true}
  confirm: {description: "Environment that the operator confirmed; empty for none.", type: str, default: ""}
  project: {description: Compose project whose ports and networks are ours., type: str, required: true}
  paths: {description: "Variables and their absolute paths: V({name: path}).", type: dict, default: {}}
  resources: {description: Whether to check what a new deployment needs., type: bool, default: true}
  data_root: {description: Where the data will lie., type: path, required: true}
  disk_free_gb: {description: Needed there in GB., type: float, default: 10}
  size:
    description: "The profile: parts with C(memory_mb), numbers of C(workers) and C(webhooks)."
    type: dict
    default: {}
  memory_reserve_mb: {description: Memory in MiB left for the host itself., type: int, default: 512}
  ports: {description: "Variables and their ports: V({name: port}).", type: dict, default: {}}
  address: {description: Address of the host on which the ports are opened., type: str, default: 127.0.0.1}
  slot_subnet: {description: Addresses of the slot networks., type: str, required: true}
attributes:
  check_mode: {description: Changes nothing in any mode., support: full}
  diff_mode: {description: There is no difference to show., support: none}
"""
EXAMPLES = r"""
- platform_preflight:
    environment: staging
    project: n8n-staging
    data_root: /var/lib/n8n-platform/staging
    ports: {platform_https_port: 8543}
    slot_subnet: 10.201.4.0/22
"""
RETURN = r"""
"""

import ipaddress
import re
from collections import Counter
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform import preflight
from ansible.module_utils.n8n_platform.engine import (
    ENVIRONMENT_LABEL,
    NETWORK_LABEL,
    PROJECT_LABEL,
    Engine,
    listens,
)
from ansible.module_utils.n8n_platform.http import HttpError


def build_spec() -> dict[str, Any]:
    return {
        "environment": {"type": "str", "required": True},
        "confirm": {"type": "str", "default": ""},
        "project": {"type": "str", "required": True},
        "paths": {"type": "dict", "default": {}},
        "resources": {"type": "bool", "default": True},
        "data_root": {"type": "path", "required": True},
        "disk_free_gb": {"type": "float", "default": 10},
        "size": {"type": "dict", "default": {}},
        "memory_reserve_mb": {"type": "int", "default": 512},
        "ports": {"type": "dict", "default": {}},
        "address": {"type": "str", "default": "127.0.0.1"},
        "slot_subnet": {"type": "str", "required": True},
    }


# As Docker names those of networks that Compose makes; people name theirs otherwise.
_BRIDGE = re.compile(r"br-[0-9a-f]{12}")


class Manager:
    def __init__(self, params: dict[str, Any], host: preflight.Host, engine: Engine | None) -> None:
        self.params = params
        self.host = host
        self.engine = engine
        self.warnings: list[str] = []

    def plan(self) -> list[str]:
        """The problems; what is none is in `warnings`."""
        params = self.params
        found = preflight.system_problems(self.host.os_release())
        found += preflight.confirmation_problems(params["environment"], params["confirm"])
        found += preflight.path_problems(params["paths"])
        return found + (self._resource_problems() if params["resources"] else [])

    def _resource_problems(self) -> list[str]:
        params = self.params
        ports = {name: int(port) for name, port in params["ports"].items()}
        free_gb = self.host.disk_free_gb(params["data_root"])
        memory = (params["size"], self.host.memory_mb(), params["memory_reserve_mb"])
        self.warnings = preflight.memory_warnings(*memory, self._others_mb())
        return [
            *preflight.memory_problems(*memory),
            *preflight.disk_problems(params["data_root"], free_gb, params["disk_free_gb"]),
            *preflight.port_problems(ports, params["address"], self.host.listeners(), self._own_ports()),
            *preflight.subnet_problems(params["slot_subnet"], self._routes(), self._own_subnets()),
        ]

    def _routes(self) -> list[preflight.Route]:
        """An engine that was killed leaves its bridges, and cannot be asked whose they are."""
        routes = self.host.routes()
        return (
            routes if self.engine else [route for route in routes if not _BRIDGE.fullmatch(route.interface)]
        )

    def _others_mb(self) -> dict[str, int]:
        """Memory limits of what runs in other environments, MiB by environment."""
        found: Counter[str] = Counter()
        if self.engine:
            for container in self.engine.containers({ENVIRONMENT_LABEL: None}, running_only=True):
                environment = container["Labels"][ENVIRONMENT_LABEL]
                if environment != self.params["environment"]:
                    found[environment] += _limit_mb(self.engine, container["Id"])
        return found

    def _own_ports(self) -> set[int]:
        containers = self.engine.project(self.params["project"]) if self.engine else []
        return {
            port["PublicPort"]
            for container in containers
            for port in container["Ports"]
            if "PublicPort" in port
        }

    def _own_subnets(self) -> list[ipaddress.IPv4Network]:
        labels = {PROJECT_LABEL: self.params["project"], NETWORK_LABEL: None}
        networks = self.engine.networks(labels) if self.engine else []
        configs = [config for network in networks for config in (network["IPAM"]["Config"] or [])]
        return [ipaddress.IPv4Network(config["Subnet"]) for config in configs if ":" not in config["Subnet"]]


def _limit_mb(engine: Engine, container: str) -> int:
    """0 where there is none, and for one that has ended meanwhile."""
    try:
        return int(engine.inspect(container)["HostConfig"]["Memory"]) // 2**20
    except HttpError as error:
        if error.status == 404:
            return 0
        raise


def main() -> None:
    module = AnsibleModule(argument_spec=build_spec(), supports_check_mode=True)
    # None before the first run, and after a crash.
    engine = Engine() if listens() else None
    manager = Manager(module.params, preflight.Host(), engine)
    try:
        problems = manager.plan()
    except HttpError as error:
        module.fail_json(msg=f"Nothing has been changed. The container engine: {error}")
    for warning in manager.warnings:
        module.warn(warning)
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        module.fail_json(
            msg=f"Nothing has been changed. This host cannot carry it:\n{listed}", problems=problems
        )
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
