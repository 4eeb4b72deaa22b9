"""Rules of iptables as text: those of a project's chains, and what `iptables-save` says."""

from __future__ import annotations

import hashlib
import shlex

KNOWN = "-m conntrack --ctstate RELATED,ESTABLISHED"
CHAIN_LENGTH = 25  # iptables takes 28, three of them are for the endings
# Of a project's chains: what goes through the host, what all want of it, what its closed networks want of it.
ENDINGS = ("", ".IN", ".GW")

Rules = dict[str, list[str]]


def chain_name(project: str) -> str:
    name = project.upper()
    if len(name) <= CHAIN_LENGTH:
        return name
    return f"{name[:18]}-{hashlib.sha256(project.encode()).hexdigest()[:6]}"


def forward_rules(bridges: list[str], ports: list[int]) -> list[str]:
    """The engine has translated the address already, so it is the original port that counts."""
    return [
        f"{KNOWN} -j RETURN",
        *(f"-i {bridge} -j RETURN" for bridge in bridges),
        *(f"-p tcp -m conntrack --ctstate DNAT --ctorigdstport {port} -j RETURN" for port in ports),
        *(f"-o {bridge} -j DROP" for bridge in bridges),
    ]


def gateway_rules(subnet: str, bridges: list[str]) -> list[str]:
    """What the host itself has asked for, its health checks among them, is answered."""
    return [f"{KNOWN} -j RETURN", f"-s {subnet} -j DROP", *(f"-i {bridge} -j DROP" for bridge in bridges)]


def input_rules(family: str, ports: list[int]) -> list[str]:
    control = ["-p icmp -j ACCEPT"]
    if family == "ipv6":
        # Neighbour discovery and DHCPv6, without which the host loses its addresses.
        control = ["-p ipv6-icmp -j ACCEPT", "-p udp -m udp --dport 546 -j ACCEPT"]
    return [
        f"{KNOWN} -j ACCEPT",
        "-i lo -j ACCEPT",
        *control,
        *(f"-p tcp -m tcp --dport {port} -j ACCEPT" for port in ports),
        "-j DROP",
    ]


def parse_save(text: str) -> Rules:
    """`iptables-save` of one table as {chain: [rule without its -A CHAIN]}."""
    rules: Rules = {}
    for line in text.splitlines():
        if line.startswith(":"):
            rules[line[1:].split()[0]] = []
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            rules.setdefault(chain, []).append(rule)
    return rules


def same(left: str, right: str) -> bool:
    """Versions of iptables differ in what they quote."""
    return shlex.split(left) == shlex.split(right)
