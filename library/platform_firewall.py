"""Lets only the edge's ports of a Compose project answer from outside the host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: platform_firewall
short_description: Let only the edge's ports of a Compose project answer from outside the host
description:
  - Keeps a chain of the project's own, called from C(DOCKER-USER). It lets pass what belongs to a known connection,
    what comes from the project's own bridges, and new connections to a published port that is listed. All else that
    goes to one of the project's bridges is dropped. Containers of others are not touched.
  - The scope are the project's bridge networks that are not internal (the engine itself closes internal ones to the
    outside). They are asked from the engine, so the module belongs after their creation and before a port is published.
  - What comes from an internal network of the project does not reach the host itself, to which the engine gives the
    first address of every network.
  - Otherwise the host's own C(INPUT) is left alone unless O(manage_input) is true. Then the port of the running SSH
    connection is always among the open ones, and one atomic change opens and closes.
  - A host that has IPv6 addresses but no working C(ip6tables) is refused with O(manage_input).
  - Writes a script that puts the same rules back after a boot.
options:
  state:
    description: Whether the rules and the script exist.
    type: str
    choices: [present, absent]
    default: present
  project:
    description: Name of the Compose project.
    type: str
    required: true
  public_ports:
    description: TCP ports of the host that answer from outside.
    type: list
    elements: int
    default: []
  closed_subnet:
    description: Addresses of the internal networks that come and go; required unless O(state=absent).
    type: str
  manage_input:
    description: Also close the host's own ports but those of SSH, O(public_ports) and O(input_ports).
    type: bool
    default: false
  input_ports:
    description: More TCP ports of the host itself that stay open; only used with O(manage_input).
    type: list
    elements: int
    default: [22]
  restore_script:
    description: Path of the script.
    type: path
    required: true
  socket:
    description: The engine's socket.
    type: path
    default: /var/run/docker.sock
attributes:
  check_mode: {support: full, description: Says which rules would change; works before the engine is there.}
  diff_mode: {support: full, description: Shows the project's rules before and after.}
author:
  - n8n platform maintainers
"""

EXAMPLES = r"""
- name: Close all but the edge
  platform_firewall:
    project: n8n-local
    public_ports: [80, 443]
    closed_subnet: 10.201.0.0/22
    restore_script: /var/lib/n8n-platform/local/state/firewall.sh
"""

RETURN = r"""
chain:
  description: Name of the project's chain.
  returned: always
  type: str
guarded:
  description: The interfaces to which only the edge's ports lead.
  returned: always
  type: list
  elements: str
internal:
  description: The interfaces, but those of O(closed_subnet), from which the host itself is not reached.
  returned: always
  type: list
  elements: str
systemd:
  description: Whether PID 1 is systemd.
  returned: always
  type: bool
"""

import ipaddress
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.engine import PROJECT_LABEL, Engine
from ansible.module_utils.n8n_platform.files import write_file
from ansible.module_utils.n8n_platform.firewall_rules import (
    ENDINGS,
    Rules,
    chain_name,
    forward_rules,
    gateway_rules,
    input_rules,
    parse_save,
    same,
)
from ansible.module_utils.n8n_platform.host_network import ipv6_interfaces, running_ssh_port
from ansible.module_utils.n8n_platform.http import HttpError

SEARCH_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
SYSTEMD = Path("/run/systemd/system")
FAMILIES = {"ipv4": "iptables", "ipv6": "ip6tables"}
HOOK = "DOCKER-USER"
INPUT_COMMENT = "n8n-platform input:"


class Bridges(NamedTuple):
    """Interfaces of a project's networks."""

    guarded: list[str]
    internal: list[str]


class FirewallProblem(Exception):
    """What keeps the rules from being read or written; names the option or the command."""


class Tables:
    """The filter tables of the kernel."""

    def __init__(self) -> None:
        self._environment = {
            **os.environ,
            "PATH": f"{SEARCH_PATH}:{os.environ.get('PATH', '')}",
            "LC_ALL": "C",
        }

    def save(self, family: str) -> Rules | None:
        """None where the command is missing or the kernel has no such family."""
        try:
            return parse_save(self._run(f"{FAMILIES[family]}-save", "-t", "filter"))
        except FirewallProblem:
            return None

    def restore(self, family: str, lines: list[str]) -> None:
        """All or nothing; rules that are not named stay."""
        self._run(
            f"{FAMILIES[family]}-restore",
            "-w",
            "--noflush",
            given="\n".join(["*filter", *lines, "COMMIT", ""]),
        )

    def _run(self, *argv: str, given: str = "") -> str:
        options: dict[str, Any] = {"env": self._environment, "timeout": 60, "text": True}
        try:
            done = subprocess.run(argv, input=given, capture_output=True, check=False, **options)
        except OSError as error:
            raise FirewallProblem(f"{argv[0]}: {error.strerror}") from None
        if done.returncode:
            raise FirewallProblem(f"{argv[0]}: {done.stderr.strip() or done.returncode}")
        return done.stdout


class Manager:
    """plan() lists what differs as {name, before, after}, apply() carries it out; both raise FirewallProblem."""

    def __init__(
        self, params: dict[str, Any], tables: Tables, bridges: Bridges, ssh_port: int | None
    ) -> None:
        self.params = params
        self.tables = tables
        self.bridges = bridges
        self.chain = chain_name(params["project"])
        self.present = params["state"] == "present"
        self.input_ports = sorted(
            {*params["input_ports"], *params["public_ports"], *([ssh_port] if ssh_port else [])}
        )
        self.families: list[str] = []
        self.changes: dict[str, list[str]] = {}
        self.differences: list[dict[str, str]] = []

    def wanted(self, family: str) -> dict[str, tuple[str, str, list[str]]]:
        """{chain: (hook, jump, rules)} of the project in one family; its networks have no IPv6."""
        project = self.params["project"]
        chains = {}
        if self.present and family == "ipv4":
            jump = f'-m comment --comment "n8n-platform: {project}" -j {self.chain}'
            rules = forward_rules(self.bridges.guarded, sorted(self.params["public_ports"]))
            chains[self.chain] = (HOOK, jump, rules)
        if self.present and self.params["manage_input"]:
            jump = f'-m comment --comment "{INPUT_COMMENT} {project}" -j {self.chain}.IN'
            chains[f"{self.chain}.IN"] = ("INPUT", jump, input_rules(family, self.input_ports))
        if self.present and family == "ipv4":
            jump = f'-m comment --comment "n8n-platform gateway: {project}" -j {self.chain}.GW'
            rules = gateway_rules(self.params["closed_subnet"], self.bridges.internal)
            chains[f"{self.chain}.GW"] = ("INPUT", jump, rules)
        return chains

    def plan(self) -> list[dict[str, str]]:
        self.changes, self.differences, self.families = {}, [], []
        for family in FAMILIES:
            seen = self.tables.save(family)
            if seen is None:
                if family == "ipv4" and self.present:
                    raise FirewallProblem("iptables-save: no answer; iptables comes with the Docker engine")
                self._refuse_open_input()
                continue
            self.families.append(family)
            self._refuse_second_owner(seen)
            self._plan_family(family, seen)
        self._plan_script()
        return self.differences

    def _refuse_open_input(self) -> None:
        interfaces = ipv6_interfaces() if self.present and self.params["manage_input"] else []
        if interfaces:
            raise FirewallProblem(
                f"host_baseline_manage_input: {', '.join(interfaces)} would stay open for IPv6: it has an address, and "
                "ip6tables-save gives no answer"
            )

    def _refuse_second_owner(self, seen: Rules) -> None:
        for rule in seen.get("INPUT", []):
            other = INPUT_COMMENT in rule and not rule.endswith(f" -j {self.chain}.IN")
            if other and self.present and self.params["manage_input"]:
                raise FirewallProblem(
                    f"manage_input: another environment manages INPUT of this host already: {rule}"
                )

    def _plan_family(self, family: str, seen: Rules) -> None:
        wanted = self.wanted(family)
        before = self._ours(seen)
        lines: list[str] = []
        for chain in (f"{self.chain}{ending}" for ending in ENDINGS):
            if chain in wanted:
                lines += self._ensure(chain, *wanted[chain], seen)
            elif chain in seen:
                lines += [f"-D {hook} {rule}" for hook, rule in self._jumps(chain, seen)]
                lines += [f"-F {chain}", f"-X {chain}"]
        if lines:
            after = [
                line
                for chain, (hook, jump, rules) in wanted.items()
                for line in (f"-A {hook} {jump}", *(f"-A {chain} {rule}" for rule in rules))
            ]
            self.changes[family] = lines
            texts = {"before": "\n".join([*before, ""]), "after": "\n".join([*after, ""])}
            self.differences.append({"name": FAMILIES[family], **texts})

    def _ensure(self, chain: str, hook: str, jump: str, rules: list[str], seen: Rules) -> list[str]:
        lines = []
        current = seen.get(chain)
        if current is None or len(current) != len(rules) or not all(map(same, current, rules)):
            # Naming a chain of ours creates or empties it.
            lines += [f":{chain} - [0:0]", *(f"-A {chain} {rule}" for rule in rules)]
        jumps = [rule for found, rule in self._jumps(chain, seen) if found == hook]
        calls = seen.get(hook, [])
        called = len(jumps) == 1 and same(jumps[0], jump)
        if not called or any(_ends_the_way(rule) for rule in calls[: calls.index(jumps[0])]):
            lines += [] if hook in seen else [f":{hook} - [0:0]"]
            place = _place(chain, [rule for rule in calls if rule not in jumps])
            lines += [*(f"-D {hook} {rule}" for rule in jumps), f"-I {hook} {place} {jump}"]
        return lines

    @staticmethod
    def _jumps(chain: str, seen: Rules) -> list[tuple[str, str]]:
        end = f"-j {chain}"
        return [(hook, rule) for hook, rules in seen.items() for rule in rules if rule.endswith(end)]

    def _ours(self, seen: Rules) -> list[str]:
        chains = [f"{self.chain}{ending}" for ending in ENDINGS]
        calls = [f"-A {hook} {rule}" for chain in chains for hook, rule in self._jumps(chain, seen)]
        return calls + [f"-A {chain} {rule}" for chain in chains for rule in seen.get(chain, [])]

    def script(self) -> str:
        lines = [
            "#!/bin/sh",
            f"# Puts back the firewall rules of {self.params['project']} after a boot (platform_firewall).",
            "set -eu",
            # cron's own PATH has no sbin.
            "PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin",
        ]
        for family in self.families:
            command, chains = FAMILIES[family], self.wanted(family)
            if not chains:
                continue
            lines += [f"{command}-restore -w --noflush <<'RULES'", "*filter"]
            for chain, (_, _, rules) in chains.items():
                lines += [f":{chain} - [0:0]", *(f"-A {chain} {rule}" for rule in rules)]
            lines += ["COMMIT", "RULES"]
            for chain, (hook, jump, _) in chains.items():
                lines.append(f"{command} -w -n -L {hook} >/dev/null 2>&1 || {command} -w -N {hook}")
                place = "1"
                if chain.endswith(".IN"):
                    # As _place does: the first line is the chain's policy.
                    lines.append(f"at=$({command} -w -S {hook} | grep -n '[.]GW$' | tail -n 1 | cut -d: -f1)")
                    place = '"${at:-1}"'
                call = f"{command} -w -I {hook} {place} {jump}"
                lines.append(f"{command} -w -C {hook} {jump} 2>/dev/null || {call}")
        return "\n".join(lines) + "\n"

    def _plan_script(self) -> None:
        path = Path(self.params["restore_script"])
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = self.script() if self.present else ""
        if before != after:
            self.differences.append({"name": str(path), "before": before, "after": after})

    def apply(self) -> None:
        for family, lines in self.changes.items():
            self.tables.restore(family, lines)
        path = Path(self.params["restore_script"])
        if not self.present:
            path.unlink(missing_ok=True)
        elif any(difference["name"] == str(path) for difference in self.differences):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, self.script(), mode=0o700)


def _place(chain: str, calls: list[str]) -> int:
    """The first, or for one that opens ports to whoever asks behind all of those that close some askers out."""
    closed = [number for number, rule in enumerate(calls, 1) if rule.endswith(".GW")]
    return 1 + (closed[-1] if chain.endswith(".IN") and closed else 0)


def _ends_the_way(rule: str) -> bool:
    """What comes after it in its chain is not asked: the engine's own return, an environment's closed INPUT."""
    return rule == "-j RETURN" or INPUT_COMMENT in rule


def project_bridges(engine: Engine, project: str, closed_subnet: str) -> Bridges:
    """Internal ones within `closed_subnet` are left out: they are closed by their addresses, there or not yet."""
    closed = ipaddress.ip_network(closed_subnet)
    names: dict[bool, list[str]] = {False: [], True: []}
    for network in engine.networks({PROJECT_LABEL: project}):
        parts = [ipaddress.ip_network(part["Subnet"]) for part in network["IPAM"]["Config"] or []]
        within = any(part.version == closed.version and part.subnet_of(closed) for part in parts)  # type: ignore[arg-type]
        if network["Driver"] == "bridge" and not (network["Internal"] and within):
            options = network.get("Options") or {}
            name = options.get("com.docker.network.bridge.name") or f"br-{network['Id'][:12]}"
            names[network["Internal"]].append(name)
    return Bridges(guarded=sorted(names[False]), internal=sorted(names[True]))


def build_spec() -> dict[str, Any]:
    return {
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "project": {"type": "str", "required": True},
        "public_ports": {"type": "list", "elements": "int", "default": []},
        "closed_subnet": {"type": "str"},
        "manage_input": {"type": "bool", "default": False},
        "input_ports": {"type": "list", "elements": "int", "default": [22]},
        "restore_script": {"type": "path", "required": True},
        "socket": {"type": "path", "default": "/var/run/docker.sock"},
    }


def run(module: AnsibleModule) -> dict[str, Any]:
    """Raises FirewallProblem and HttpError."""
    params = module.params
    present = params["state"] == "present"
    if present and module.check_mode and not Path(params["socket"]).exists():
        return {"changed": True, "chain": chain_name(params["project"]), "guarded": [], "internal": []}
    bridges = Bridges([], [])
    if present:
        bridges = project_bridges(Engine(params["socket"]), params["project"], params["closed_subnet"])
    manager = Manager(params, Tables(), bridges, running_ssh_port())
    differences = manager.plan()
    if not module.check_mode:
        manager.apply()
    diff = [{"before_header": d["name"], "after_header": d["name"], **d} for d in differences]
    result = {"changed": bool(differences), "diff": diff, "chain": manager.chain, **bridges._asdict()}
    if differences:
        # What verify says where there should be none.
        result["msg"] = f"not as the inventory says: {', '.join(d['name'] for d in differences)}"
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec=build_spec(),
        required_if=[("state", "present", ["closed_subnet"])],
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except (FirewallProblem, HttpError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(systemd=SYSTEMD.is_dir(), **result)


if __name__ == "__main__":
    main()
