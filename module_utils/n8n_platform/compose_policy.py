"""What a contributed service may say and must say. Pure; every error names role, service and key."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any

LABEL = "io.n8n-platform."
TIERS = ("secrets", "data", "app", "edge")

# Order of the keys in the file, too.
SERVICE_KEYS = (
    "image", "command", "entrypoint", "init", "user", "working_dir", "environment", "secrets", "volumes",
    "tmpfs",
    "networks", "ports", "extra_hosts", "healthcheck", "deploy", "restart", "depends_on", "stop_signal",
    "stop_grace_period", "read_only", "cap_add", "ulimits", "sysctls", "labels",
)  # fmt: skip
NETWORK_KEYS = ("driver", "driver_opts", "internal", "attachable", "enable_ipv6", "ipam", "labels")

_PINNED = re.compile(r"[^@\s:]+(:\d+/[^@\s:]+)?(:[^@\s:/]+)?@sha256:[0-9a-f]{64}|[^@\s]+:[0-9a-f]{12,64}")
_NUMERIC_USER = re.compile(r"\d+:\d+")
_SECRET_VARIABLE = re.compile(
    r"(^|_)(PASSWORD|TOKEN|SECRET|KEY|HASH|HEADERS|CONNECTION_STRING|OVERWRITE_DATA)$"
)
_SECRET_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_TMPFS = re.compile(r"/[^:]*:(?=.*\bsize=\d+[kmg]?\b).*", re.IGNORECASE)
_SLOT = re.compile(r"[a-z]+-[1-9]\d*")
_VOLUME_KEYS = {"type", "source", "target", "read_only"}
_PORT_KEYS = {"target", "published", "host_ip", "protocol", "mode"}


class ComposeError(Exception):
    """One sentence that names the role or roles, the service or network, and the key."""


def check_service(role: str, name: str, service: dict[str, Any], bind_roots: list[str]) -> None:
    """Raises ComposeError for the first rule that is broken."""

    def refuse(key: str, reason: str) -> None:
        raise ComposeError(f"role {role}: service {name}: {key}: {reason}")

    unknown = [key for key in service if key not in SERVICE_KEYS]
    if unknown:
        refuse(unknown[0], "is not among the keys of a service that a role may use")
    if not _PINNED.fullmatch(str(service.get("image", ""))):
        refuse(
            "image", f"{service.get('image', '')!r} is not pinned (name@sha256:... or name:<hash of inputs>)"
        )
    if not _NUMERIC_USER.fullmatch(str(service.get("user", ""))):
        refuse("user", 'must be numeric, "uid:gid"')
    _check_health(service.get("healthcheck"), refuse)
    _check_limits(service.get("deploy"), refuse)
    _check_environment(service.get("environment", {}), refuse)
    _check_labels(service, refuse)
    _check_mounts(service, bind_roots, refuse)
    for port in service.get("ports", []):
        _check_port(port, refuse)


def _check_mounts(service: dict[str, Any], bind_roots: list[str], refuse: Any) -> None:
    for volume in service.get("volumes", []):
        _check_volume(volume, bind_roots, refuse)
    for mount in service.get("tmpfs", []):
        if not _TMPFS.fullmatch(str(mount)):
            refuse("tmpfs", f"{mount!r} is not of the form /path:size=64m,mode=1777")
    for secret in service.get("secrets", []):
        if not isinstance(secret, str) or not _SECRET_NAME.fullmatch(secret):
            refuse("secrets", f"{secret!r} is not the name of a secret")


def check_network(role: str, name: str, network: dict[str, Any] | None) -> None:
    for key in network or {}:
        if key not in NETWORK_KEYS:
            raise ComposeError(
                f"role {role}: network {name}: {key}: is not among the keys that a role may use"
            )


def _check_health(check: Any, refuse: Any) -> None:
    test = check.get("test") if isinstance(check, dict) else None
    if not test or check.get("disable") or test == "NONE" or test[0] == "NONE":
        refuse("healthcheck", "a test is required")


def _check_limits(deploy: Any, refuse: Any) -> None:
    resources: Any = deploy.get("resources") if isinstance(deploy, dict) and len(deploy) == 1 else None
    if not isinstance(resources, dict) or not set(resources) <= {"limits", "reservations"}:
        refuse("deploy", "must hold resources.limits (and may hold resources.reservations), nothing else")
    limits = (resources or {}).get("limits") or {}
    for key in ("cpus", "memory", "pids"):
        if not limits.get(key):
            refuse(f"deploy.resources.limits.{key}", "is required")


def _check_environment(environment: Any, refuse: Any) -> None:
    if not isinstance(environment, dict):
        refuse("environment", "must be a dictionary")
    for variable, value in environment.items():
        if _SECRET_VARIABLE.search(variable.upper()):
            refuse(
                f"environment.{variable}",
                "looks like a secret; give the file's path in a variable ending _FILE",
            )
        if not isinstance(value, str | int | float):
            refuse(f"environment.{variable}", f"must be text, not {type(value).__name__}")


def _check_labels(service: dict[str, Any], refuse: Any) -> None:
    labels = service.get("labels", {})
    if not isinstance(labels, dict):
        refuse("labels", "must be a dictionary")
    if labels.get(LABEL + "tier", "app") not in TIERS:
        refuse(f"labels.{LABEL}tier", f"must be one of {', '.join(TIERS)}")
    if LABEL + "slot" in labels and not _SLOT.fullmatch(str(labels[LABEL + "slot"])):
        refuse(f"labels.{LABEL}slot", "must be <kind>-<number>, such as worker-3")
    if service.get("read_only", True) is not True and not labels.get(LABEL + "writable"):
        refuse("read_only", f"may be false only with a label {LABEL}writable that gives the reason")


def _check_volume(volume: Any, bind_roots: list[str], refuse: Any) -> None:
    if not isinstance(volume, dict) or not {"type", "source", "target"} <= set(volume) <= _VOLUME_KEYS:
        refuse("volumes", f"{volume!r} must be of the long form: type, source, target, read_only")
    source = str(volume["source"])
    below = any(source.startswith(root.rstrip("/") + "/") for root in bind_roots)
    if volume["type"] != "bind" or not below or ".." in source.split("/"):
        refuse("volumes", f"{source} must be a bind of a path below {' or '.join(bind_roots)}")


def _check_port(port: Any, refuse: Any) -> None:
    required = {"target", "published", "host_ip", "mode"}
    if not isinstance(port, dict) or not required <= set(port) <= _PORT_KEYS or port["mode"] != "host":
        refuse(
            "ports",
            f"{port!r} must be of the long form: target, published, host_ip, mode: host (and protocol)",
        )
    try:
        ip_address(str(port["host_ip"]))
        int(port["published"])
        int(port["target"])
    except ValueError as error:
        refuse("ports", str(error))
