"""From the roles' contributions to one Compose model, and from that to a Swarm stack. Pure functions."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from ansible.module_utils.n8n_platform.compose_policy import (
    LABEL,
    NETWORK_KEYS,
    SERVICE_KEYS,
    TIERS,
    ComposeError,
    check_network,
    check_service,
)

_CERTIFICATE_PARTS = (".crt", ".key", ".ca")
_SIZE = re.compile(r"size=(\d+)([kmg]?)", re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """secret_versions: {secret's name: version in the store}; bind_roots: where bind mounts may come from."""

    project: str
    environment: str
    secrets_root: str
    bind_roots: list[str]
    secret_versions: dict[str, Any] = field(default_factory=dict)


def assemble(contributions: list[dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """The strict union of all `service` contributions, checked and completed. Raises ComposeError."""
    services = _union(contributions, "services")
    networks = _union(contributions, "networks")
    for name, (role, service) in services.items():
        check_service(role, name, service, settings.bind_roots)
    for name, (role, network) in networks.items():
        check_network(role, name, network)
    _check_ports(services)
    _check_references(services, networks)
    return {
        "name": settings.project,
        "services": {name: _service(name, *services[name], settings) for name in sorted(services)},
        "networks": {name: _network(networks[name][1], settings) for name in sorted(networks)},
        "secrets": {
            f"{name}.{secret}": {"file": f"{settings.secrets_root}/{name}/{secret}"}
            for name in sorted(services)
            for secret in sorted(services[name][1].get("secrets", []))
        },
    }


def to_stack(model: dict[str, Any]) -> dict[str, Any]:
    """The same for `docker stack`: what Swarm schedules by itself goes, where a service may run comes."""
    stack = copy.deepcopy({key: value for key, value in model.items() if key != "name"})
    for service in stack["services"].values():
        for key in ("restart", "depends_on"):
            service.pop(key, None)
        constraint = f"node.labels.{LABEL}{service['labels'][LABEL + 'tier']} == true"
        # Virtual IPs need a kernel with IPVS; a name that resolves to the tasks works everywhere.
        service["deploy"] = {
            "endpoint_mode": "dnsrr",
            "placement": {"constraints": [constraint]},
            **service["deploy"],
        }
        for port in service.get("ports", []):
            del port["host_ip"]
        for volume in service.get("volumes", []):
            del volume["bind"]
        service["volumes"] = service.get("volumes", []) + [
            _tmpfs_volume(mount) for mount in service.pop("tmpfs", [])
        ]
    for network in stack["networks"].values():
        network.pop("driver_opts", None)
        network["driver"] = "overlay"
    return stack


def tiers(model: dict[str, Any]) -> dict[str, list[str]]:
    """Services that Compose starts, by tier in the order of starting; members of slots are not among them."""
    found: dict[str, list[str]] = {tier: [] for tier in TIERS}
    for name, service in model["services"].items():
        if LABEL + "slot" not in service["labels"]:
            found[service["labels"][LABEL + "tier"]].append(name)
    return found


def slots(model: dict[str, Any]) -> dict[str, list[str]]:
    """{slot: its services}, a kind's slots by number; within a slot the service named after its kind is the
    first."""
    found: dict[str, list[str]] = {}
    for name, service in model["services"].items():
        slot = service["labels"].get(LABEL + "slot")
        if slot:
            found.setdefault(slot, []).append(name)
    ordered = sorted(found, key=lambda slot: (slot.rpartition("-")[0], int(slot.rpartition("-")[2])))
    return {
        slot: sorted(found[slot], key=lambda name: (slot.rpartition("-")[0] not in name, name))
        for slot in ordered
    }


def _union(contributions: list[dict[str, Any]], kind: str) -> dict[str, tuple[str, Any]]:
    found: dict[str, tuple[str, Any]] = {}
    for contribution in contributions:
        role = str(contribution.get("role", ""))
        if not role:
            raise ComposeError(f"a contribution without role: {', '.join(sorted(contribution))}")
        service = contribution.get("service") or {}
        unknown = sorted(set(service) - {"services", "networks"})
        if unknown:
            raise ComposeError(
                f"role {role}: service.{unknown[0]}: only services and networks can be contributed"
            )
        for name, definition in (service.get(kind) or {}).items():
            other, known = found.get(name, (role, definition))
            if name in found and (kind == "services" or known != definition):
                how = "is contributed" if kind == "services" else "is contributed with different definitions"
                raise ComposeError(f"{kind[:-1]} {name} {how} by role {other} and by role {role}")
            found[name] = (other, definition)
    return found


def _check_ports(services: dict[str, tuple[str, dict[str, Any]]]) -> None:
    taken: list[tuple[str, str, dict[str, Any]]] = []
    for name, (role, service) in services.items():
        for port in service.get("ports", []):
            for other_role, other, known in taken:
                if _clash(port, known):
                    raise ComposeError(
                        f"port {port['published']} is published by {other} (role {other_role}) "
                        f"and by {name} (role {role})"
                    )
            taken.append((role, name, port))


def _clash(one: dict[str, Any], two: dict[str, Any]) -> bool:
    addresses = {ip_address(str(one["host_ip"])), ip_address(str(two["host_ip"]))}
    same_address = len(addresses) == 1 or any(address.is_unspecified for address in addresses)
    same_protocol = one.get("protocol", "tcp") == two.get("protocol", "tcp")
    return same_address and same_protocol and str(one["published"]) == str(two["published"])


def _check_references(services: dict[str, tuple[str, dict[str, Any]]], networks: dict[str, Any]) -> None:
    for name, (role, service) in services.items():
        missing = sorted(set(service.get("networks", [])) - set(networks))
        if missing:
            raise ComposeError(
                f"role {role}: service {name}: networks: {missing[0]} is contributed by no role"
            )
        if not service.get("networks"):
            raise ComposeError(f"role {role}: service {name}: networks: at least one is required")
        unknown = sorted(set(service.get("depends_on", [])) - set(services))
        if unknown:
            raise ComposeError(
                f"role {role}: service {name}: depends_on: {unknown[0]} is contributed by no role"
            )


def _service(name: str, role: str, contributed: dict[str, Any], settings: Settings) -> dict[str, Any]:
    service = {key: _literal(contributed[key]) for key in SERVICE_KEYS if key in contributed}
    environment = service.get("environment", {})
    service["environment"] = {key: _text(environment[key]) for key in sorted(environment)}
    service["secrets"] = [
        {"source": f"{name}.{secret}", "target": secret} for secret in service.get("secrets", [])
    ]
    for port in service.get("ports", []):
        port.update(published=int(port["published"]), target=int(port["target"]))
    for volume in service.get("volumes", []):
        # A missing directory is an error, not a new one that belongs to root.
        volume["bind"] = {"create_host_path": False}
    service.setdefault("restart", "unless-stopped")
    service["read_only"] = contributed.get("read_only", True)
    service["cap_drop"] = ["ALL"]
    service["security_opt"] = ["no-new-privileges:true"]
    service["logging"] = {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}}
    service["labels"] = _labels(role, contributed, settings)
    order = (*SERVICE_KEYS[:-1], "cap_drop", "security_opt", "logging", "labels")
    return {key: service[key] for key in order if service.get(key) not in ({}, [], None)}


def _labels(role: str, contributed: dict[str, Any], settings: Settings) -> dict[str, str]:
    labels = {key: _text(value) for key, value in _literal(contributed.get("labels", {})).items()}
    labels.setdefault(LABEL + "tier", "app")
    labels[LABEL + "environment"] = settings.environment
    labels[LABEL + "role"] = role
    for secret in contributed.get("secrets", []):
        version = _version(secret, settings.secret_versions)
        if version is not None:
            labels[f"{LABEL}secret.{secret}"] = str(version)
    return {key: labels[key] for key in sorted(labels)}


def _version(secret: str, versions: dict[str, Any]) -> Any:
    stem, dot, suffix = secret.rpartition(".")
    return versions.get(secret, versions.get(stem) if dot + suffix in _CERTIFICATE_PARTS else None)


def _network(contributed: dict[str, Any] | None, settings: Settings) -> dict[str, Any]:
    network = (
        {key: _literal(contributed[key]) for key in NETWORK_KEYS if key in contributed} if contributed else {}
    )
    # Compose does not notice that a network's definition has changed; this label lets us tell.
    definition = hashlib.sha256(json.dumps(network, sort_keys=True).encode()).hexdigest()[:12]
    own = {LABEL + "definition": definition, LABEL + "environment": settings.environment}
    return {**network, "labels": {**network.get("labels", {}), **own}}


def _literal(value: Any) -> Any:
    """A deep copy in which `$` stands for itself: roles' values are final, Compose interpolates nothing."""
    if isinstance(value, dict):
        return {str(key): _literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _tmpfs_volume(mount: str) -> dict[str, Any]:
    target, _, options = mount.partition(":")
    match = _SIZE.search(options)
    number, unit = (match[1], match[2].lower()) if match else ("0", "")
    size = int(number) * {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}[unit]
    return {"type": "tmpfs", "target": target, "tmpfs": {"size": size}}
