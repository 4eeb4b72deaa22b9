"""What the engine says of running containers against what a release says of their services. Pure functions."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any


def drift(model: dict[str, Any], containers: dict[str, dict[str, Any]], images: dict[str, str]) -> list[str]:
    """One sentence for each field that is not as released, by service.

    model: ComposeCli.model(); containers: {service: its container, as Engine.inspect() gives it}; images:
    {reference: the image's id, empty where the engine has none of that name}. Services without a container are
    passed over.
    """
    sentences = []
    for name in sorted(containers):
        service = model["services"][name]
        found = _found(containers[name])
        for field, wanted in _wanted(model, service, images).items():
            if found[field] != wanted:
                what = f"{field} {service['image']}" if field == "image" else field
                sentences.append(
                    f"service {name}: {what} is {_text(found[field])}, the release says {_text(wanted)}"
                )
    return sentences


def _wanted(model: dict[str, Any], service: dict[str, Any], images: dict[str, str]) -> dict[str, Any]:
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    return {
        "image": images[service["image"]] or "an image that this host does not have",
        "user": service.get("user", ""),
        "privileged": service.get("privileged", False),
        "read_only": service.get("read_only", False),
        "cap_drop": _capabilities(service.get("cap_drop")),
        "cap_add": _capabilities(service.get("cap_add")),
        "security_opt": _options(service.get("security_opt")),
        "memory": int(limits.get("memory", 0)),
        "cpus": round(float(limits.get("cpus", 0)), 3),
        "pids": int(limits.get("pids", 0)),
        "networks": sorted(model["networks"][network]["name"] for network in service.get("networks", {})),
        "ports": sorted(
            _port(port.get("host_ip", ""), port["published"], f"{port['target']}/{port['protocol']}")
            for port in service.get("ports", [])
        ),
    }


def _found(container: dict[str, Any]) -> dict[str, Any]:
    host, networks = container["HostConfig"], container["NetworkSettings"]
    return {
        "image": container["Image"],
        "user": container["Config"]["User"],
        "privileged": host["Privileged"],
        "read_only": host["ReadonlyRootfs"],
        "cap_drop": _capabilities(host["CapDrop"]),
        "cap_add": _capabilities(host["CapAdd"]),
        "security_opt": _options(host["SecurityOpt"]),
        "memory": host["Memory"],
        # Compose reckons in single precision: of 1.05 it makes 1049999936.
        "cpus": round(host["NanoCpus"] / 10**9, 3),
        "pids": host["PidsLimit"] or 0,
        "networks": sorted(networks["Networks"]),
        # A port that the image exposes and nobody publishes has no bindings.
        "ports": sorted(
            _port(binding["HostIp"], binding["HostPort"], target)
            for target, bindings in (networks["Ports"] or {}).items()
            for binding in bindings or []
        ),
    }


def _capabilities(names: list[str] | None) -> list[str]:
    """Compose and engines write one and the same with `CAP_` and without."""
    return sorted({name.upper().removeprefix("CAP_") for name in names or []})


def _options(options: list[str] | None) -> list[str]:
    """The engine takes an option that is only named for one that is on, and `=` for `:`."""
    plain = "no-new-privileges"
    return sorted(
        {plain if option in (f"{plain}:true", f"{plain}=true") else option for option in options or []}
    )


def _port(address: str, published: str, target: str) -> str:
    """As `docker ps` writes it; an IPv6 address in its short form, which is the engine's."""
    return f"{ip_address(address) if address else ''}:{published}->{target}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
