"""What a host says of its network, and of the connection that a run came through."""

from __future__ import annotations

import os
from pathlib import Path

IPV6_ADDRESSES = Path("/proc/net/if_inet6")


def running_ssh_port(pid: int | None = None) -> int | None:
    """The server's port of the SSH connection that this process runs under, None without one.

    sudo removes SSH_CONNECTION from the environment, but not from that of the shell which called it.
    """
    current = os.getpid() if pid is None else pid
    while current > 1:
        try:
            environment = Path(f"/proc/{current}/environ").read_bytes().split(b"\0")
            current = int(
                Path(f"/proc/{current}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
            )
        except (OSError, ValueError):
            return None
        for variable in environment:
            name, _, value = variable.decode("utf-8", "replace").partition("=")
            if name == "SSH_CONNECTION" and len(value.split()) == 4:
                return int(value.split()[3])
    return None


def ipv6_interfaces() -> list[str]:
    """Those with an address, but the loopback."""
    try:
        lines = IPV6_ADDRESSES.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return sorted({line.split()[-1] for line in lines} - {"lo"})
