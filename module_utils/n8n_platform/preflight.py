"""What a host must offer before an environment is deployed on it. Functions return problems as sentences that name
the variable; nothing here reads the host but `Host`."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUPPORTED_SYSTEMS = {"debian": ("12", "13"), "ubuntu": ("24.04",)}
LISTEN = "0A"
WILDCARDS = ("0.0.0.0", "::")
# How many of a profile's processes there are; of all others there is one.
COUNTED_BY = {"worker": "workers", "runner": "workers", "webhook": "webhooks"}


@dataclass(frozen=True)
class Route:
    network: ipaddress.IPv4Network
    interface: str


@dataclass(frozen=True)
class Listener:
    address: str
    port: int


def system_problems(os_release: Mapping[str, str]) -> list[str]:
    name, version = os_release.get("ID", "unknown"), os_release.get("VERSION_ID", "")
    if version in SUPPORTED_SYSTEMS.get(name, ()):
        return []
    said = os_release.get("PRETTY_NAME", f"{name} {version}")
    return [f"host: {said} is not supported; supported are Debian 12, Debian 13 and Ubuntu 24.04"]


def confirmation_problems(environment: str, confirm: str) -> list[str]:
    if confirm in ("", environment):
        return []
    return [f"platform_confirm: {confirm} is not this environment, which is {environment}"]


def path_problems(paths: Mapping[str, str]) -> list[str]:
    """`paths`: {variable: absolute path}."""
    return [
        f"{name}: {path} is below /mnt, where Windows drives are mounted: file owners, modes and locks do not hold "
        "there; use a folder of the Linux file system"
        for name, path in sorted(paths.items())
        if Path(path).is_relative_to("/mnt")
    ]


def needed_memory_mb(size: Mapping[str, Any]) -> int:
    """Sum of all containers' limits of a profile."""
    return sum(
        int(part["memory_mb"]) * int(size.get(COUNTED_BY.get(name, ""), 1))
        for name, part in size.items()
        if isinstance(part, Mapping) and "memory_mb" in part
    )


def memory_problems(size: Mapping[str, Any], total_mb: int, reserve_mb: int) -> list[str]:
    needed = needed_memory_mb(size)
    if needed + reserve_mb <= total_mb:
        return []
    return [
        f"platform_profile: its containers may take {needed} MiB and the host needs {reserve_mb} MiB, but it has "
        f"{total_mb} MiB; choose a smaller platform_profile, or give it more (WSL2: memory= in .wslconfig)"
    ]


def memory_warnings(
    size: Mapping[str, Any], total_mb: int, reserve_mb: int, others_mb: Mapping[str, int]
) -> list[str]:
    """`others_mb`: limits of what runs in other environments, {environment: sum}. Nothing is said where the profile
    alone is a problem."""
    needed, others = needed_memory_mb(size), {name: mb for name, mb in others_mb.items() if mb}
    fits_alone = not memory_problems(size, total_mb, reserve_mb)
    if not others or not fits_alone or needed + sum(others.values()) + reserve_mb <= total_mb:
        return []
    listed = ", ".join(f"{name} {mb} MiB" for name, mb in sorted(others.items()))
    return [
        f"platform_profile: its containers may take {needed} MiB, those that run of other environments {listed}, and "
        f"the host needs {reserve_mb} MiB; it has {total_mb} MiB, so all of them busy at once may run out of memory"
    ]


def disk_problems(path: str, free_gb: float, needed_gb: float) -> list[str]:
    if free_gb >= needed_gb:
        return []
    return [
        f"platform_root: {free_gb:.1f} GB are free at {path}, {needed_gb:g} GB are needed "
        "(platform_preflight_disk_free_gb)"
    ]


def port_problems(
    ports: Mapping[str, int], address: str, listeners: Iterable[Listener], own: set[int]
) -> list[str]:
    """`ports`: {variable: port}; `own`: those that this environment's containers already hold."""
    taken = {
        listener.port
        for listener in listeners
        if address in WILDCARDS or listener.address in (address, *WILDCARDS)
    } - own
    problems = [
        f"{name}: port {port} of {address} is in use by another process"
        for name, port in ports.items()
        if port in taken
    ]
    same = [name for name, port in ports.items() if list(ports.values()).count(port) > 1]
    return problems + ([f"{', '.join(same)}: the ports must differ"] if same else [])


def subnet_problems(subnet: str, routes: Iterable[Route], own: Iterable[ipaddress.IPv4Network]) -> list[str]:
    try:
        wanted = ipaddress.IPv4Network(subnet)
    except ValueError as error:
        return [f"platform_slot_subnet: {error}"]
    if wanted.prefixlen > 22:
        return [f"platform_slot_subnet: {subnet} is too small; 50 slots need a /22"]
    ours = set(own)
    return [
        f"platform_slot_subnet: {subnet} overlaps with {route.network} of the host's interface {route.interface}"
        for route in routes
        if route.network.prefixlen and route.network not in ours and route.network.overlaps(wanted)
    ]


def parse_routes(text: str) -> list[Route]:
    """/proc/net/route: addresses are little-endian hexadecimal."""
    routes = []
    for line in text.splitlines()[1:]:
        interface, destination, *rest = line.split()
        network = ipaddress.IPv4Network((_address(destination), _address(rest[5])))
        routes.append(Route(network, interface))
    return routes


def parse_listeners(text: str) -> list[Listener]:
    """/proc/net/tcp and tcp6."""
    listeners = []
    for line in text.splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        address, port = local.split(":")
        if state == LISTEN:
            listeners.append(Listener(_address(address), int(port, 16)))
    return listeners


def _address(hexadecimal: str) -> str:
    words = [int(hexadecimal[i : i + 8], 16) for i in range(0, len(hexadecimal), 8)]
    packed = b"".join(struct.pack("<I", word) for word in words)
    if len(packed) == 4:
        return socket.inet_ntoa(packed)
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


class Host:
    """The facts that the checks need, read from `root` (another folder in tests)."""

    def __init__(self, root: str = "/") -> None:
        self.root = Path(root)

    def os_release(self) -> dict[str, str]:
        lines = (line.partition("=") for line in self._read("etc/os-release").splitlines())
        return {key: value.strip('"') for key, _, value in lines}

    def memory_mb(self) -> int:
        for line in self._read("proc/meminfo").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) // 1024
        return 0

    def disk_free_gb(self, path: str) -> float:
        folder = next(parent for parent in (Path(path), *Path(path).parents) if parent.exists())
        return shutil.disk_usage(folder).free / 1e9

    def routes(self) -> list[Route]:
        return parse_routes(self._read("proc/net/route"))

    def listeners(self) -> list[Listener]:
        return parse_listeners(self._read("proc/net/tcp")) + parse_listeners(self._read("proc/net/tcp6"))

    def _read(self, path: str) -> str:
        try:
            return (self.root / path).read_text()
        except FileNotFoundError:
            return ""
