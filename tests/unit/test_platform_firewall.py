"""platform_firewall against tables in memory and, as root, against the kernel's own in a network namespace."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platform_firewall
import pytest
from ansible.module_utils.n8n_platform import host_network
from platform_firewall import Bridges, FirewallProblem, Manager, Rules, Tables

CLONE_NEWNET = 0x40000000
SUBNET = "10.201.0.0/22"
GATEWAY_CALL = '-m comment --comment "n8n-platform gateway: n8n-a" -j N8N-A.GW'
INPUT_CALL = '-m comment --comment "n8n-platform input: n8n-a" -j N8N-A.IN'
ENGINES_OWN = [":DOCKER-USER - [0:0]", "-A DOCKER-USER -j RETURN", "-A FORWARD -j DOCKER-USER"]


IN_THE_KERNEL = pytest.mark.parametrize("tables", ["kernel"], indirect=True)


class MemoryTables(Tables):
    """Keeps the rules as they are given; knows what --noflush does to a chain that is named."""

    def __init__(self) -> None:
        self.rules: dict[str, Rules] = {
            family: {"INPUT": [], "FORWARD": [], "OUTPUT": []} for family in platform_firewall.FAMILIES
        }

    def save(self, family: str) -> Rules | None:
        return {chain: list(rules) for chain, rules in self.rules[family].items()}

    def restore(self, family: str, lines: list[str]) -> None:
        table = self.rules[family]
        for line in lines:
            verb, _, rest = line.partition(" ")
            chain, _, rule = rest.partition(" ")
            if verb.startswith(":"):
                table[verb[1:]] = []
            elif verb == "-I":
                place, _, call = rule.partition(" ")
                table[chain].insert(int(place) - 1, call)
            elif verb == "-A":
                table[chain].append(rule)
            elif verb == "-D":
                table[chain].remove(rule)
            elif verb == "-F":
                table[chain] = []
            else:
                assert verb == "-X" and not table.pop(chain)


@contextmanager
def network_namespace() -> Iterator[None]:
    """This thread and what it starts see a network stack of their own; the machine's is out of reach."""
    libc = ctypes.CDLL(None, use_errno=True)
    machine = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET):
            pytest.skip(f"needs the right to make a network namespace: {os.strerror(ctypes.get_errno())}")
        assert os.stat("/proc/thread-self/ns/net") != os.fstat(machine)
        try:
            yield
        finally:
            assert libc.setns(machine, CLONE_NEWNET) == 0
    finally:
        os.close(machine)


@pytest.fixture(params=["memory", "kernel"])
def tables(request: pytest.FixtureRequest) -> Iterator[Tables]:
    if request.param == "memory":
        found: Tables = MemoryTables()
        found.restore("ipv4", ENGINES_OWN)
        yield found
        return
    if not shutil.which("iptables-save"):
        pytest.skip("needs iptables")
    with network_namespace():
        found = Tables()
        found.restore("ipv4", ENGINES_OWN)
        yield found


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "state" / "firewall.sh"


def manager(
    tables: Tables,
    script: Path,
    bridges: list[str] | None = None,
    ssh: int | None = None,
    internal: Sequence[str] = ("br-9",),
    **params: Any,
) -> Manager:
    defaults = {name: option.get("default") for name, option in platform_firewall.build_spec().items()}
    own = {"project": "n8n-a", "public_ports": [8443], "closed_subnet": SUBNET}
    given = {**own, "restore_script": str(script), **params}
    seen = Bridges(["br-1"] if bridges is None else bridges, list(internal))
    return Manager({**defaults, **given}, tables, seen, ssh)


def apply(*args: Any, **params: Any) -> list[str]:
    wanted = manager(*args, **params)
    names = [Path(difference["name"]).name for difference in wanted.plan()]
    wanted.apply()
    return names


def chain(tables: Tables, name: str, family: str = "ipv4") -> list[str]:
    return (tables.save(family) or {})[name]


def test_only_the_listed_port_passes_to_the_bridge(tables: Tables, script: Path) -> None:
    assert apply(tables, script) == ["iptables", "firewall.sh"]
    assert chain(tables, "N8N-A") == [
        "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        "-i br-1 -j RETURN",
        "-p tcp -m conntrack --ctstate DNAT --ctorigdstport 8443 -j RETURN",
        "-o br-1 -j DROP",
    ]
    assert chain(tables, "DOCKER-USER") == [
        '-m comment --comment "n8n-platform: n8n-a" -j N8N-A',
        "-j RETURN",
    ]


def test_a_second_run_changes_nothing(tables: Tables, script: Path) -> None:
    apply(tables, script, manage_input=True)
    assert apply(tables, script, manage_input=True) == []


def test_planning_changes_nothing(tables: Tables, script: Path) -> None:
    before = tables.save("ipv4")
    differences = manager(tables, script).plan()
    assert "+" not in differences[0]["before"] and "-o br-1 -j DROP" in differences[0]["after"]
    assert tables.save("ipv4") == before and not script.exists()


def test_a_new_bridge_replaces_the_chain_and_keeps_one_call(tables: Tables, script: Path) -> None:
    apply(tables, script)
    assert apply(tables, script, ["br-1", "br-2"]) == ["iptables", "firewall.sh"]
    assert "-o br-2 -j DROP" in chain(tables, "N8N-A") and len(chain(tables, "DOCKER-USER")) == 2


def test_environments_keep_to_their_own_chains(tables: Tables, script: Path) -> None:
    apply(tables, script)
    apply(tables, script.with_name("b.sh"), ["br-b"], project="n8n-a-in", public_ports=[9443])
    assert apply(tables, script) == []
    apply(tables, script, state="absent")
    assert "-o br-b -j DROP" in chain(tables, "N8N-A-IN")
    assert len(chain(tables, "DOCKER-USER")) == 2


@IN_THE_KERNEL
@pytest.mark.parametrize(
    "damage", ["-D DOCKER-USER 1", "-F DOCKER-USER", "-D N8N-A 4", "-I N8N-A 1 -j RETURN"]
)
def test_damage_is_repaired(tables: Tables, script: Path, damage: str) -> None:
    apply(tables, script)
    whole = tables.save("ipv4")
    tables.restore("ipv4", [damage])
    assert apply(tables, script) == ["iptables"]
    assert (tables.save("ipv4") or {})["N8N-A"] == (whole or {})["N8N-A"]
    assert "-j N8N-A" in chain(tables, "DOCKER-USER")[0]


def test_a_call_behind_the_engines_return_is_moved_in_front(tables: Tables, script: Path) -> None:
    apply(tables, script)
    call = chain(tables, "DOCKER-USER")[0]
    tables.restore("ipv4", [f"-D DOCKER-USER {call}", f"-A DOCKER-USER {call}"])
    assert apply(tables, script) == ["iptables"]
    assert chain(tables, "DOCKER-USER") == [call, "-j RETURN"]


def test_absent_leaves_what_was_there_before(tables: Tables, script: Path) -> None:
    before = {family: tables.save(family) for family in ("ipv4", "ipv6")}
    apply(tables, script, manage_input=True)
    assert apply(tables, script, state="absent") == ["iptables", "ip6tables", "firewall.sh"]
    assert {family: tables.save(family) for family in ("ipv4", "ipv6")} == before
    assert not script.exists()
    assert apply(tables, script, state="absent") == []


def test_of_input_only_what_comes_from_internal_networks_is_closed_unless_asked_for(
    tables: Tables, script: Path
) -> None:
    apply(tables, script, internal=["br-8", "br-9"])
    assert chain(tables, "INPUT") == [GATEWAY_CALL] and chain(tables, "INPUT", "ipv6") == []
    known = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
    assert chain(tables, "N8N-A.GW") == [
        known,
        f"-s {SUBNET} -j DROP",
        "-i br-8 -j DROP",
        "-i br-9 -j DROP",
    ]
    assert apply(tables, script, internal=["br-8"]) == ["iptables", "firewall.sh"]
    assert chain(tables, "N8N-A.GW")[2:] == ["-i br-8 -j DROP"]


def test_managed_input_opens_the_running_ssh_port_before_it_closes(tables: Tables, script: Path) -> None:
    apply(tables, script, ssh=2222, manage_input=True, input_ports=[])
    for family in ("ipv4", "ipv6"):
        rules = chain(tables, "N8N-A.IN", family)
        assert rules[-1] == "-j DROP"
        assert (
            "-p tcp -m tcp --dport 2222 -j ACCEPT" in rules
            and "-p tcp -m tcp --dport 8443 -j ACCEPT" in rules
        )
        assert "-i lo -j ACCEPT" in rules
        assert chain(tables, "INPUT", family)[-1] == INPUT_CALL
    assert chain(tables, "INPUT") == [GATEWAY_CALL, INPUT_CALL], "what is closed is asked first"


def test_switching_managed_input_off_opens_it_again(tables: Tables, script: Path) -> None:
    apply(tables, script, manage_input=True)
    assert apply(tables, script) == ["iptables", "ip6tables", "firewall.sh"]
    assert chain(tables, "INPUT") == [GATEWAY_CALL] and "N8N-A.IN" not in (tables.save("ipv4") or {})
    assert chain(tables, "INPUT", "ipv6") == []


ADDRESSES = {
    "lo": "00000000000000000000000000000001 01 80 10 80       lo",
    "eth0": "fe80000000000000021122fffe334455 02 40 20 80     eth0",
}


@pytest.mark.parametrize("present", [None, [], ["lo"], ["lo", "eth0"]])
def test_managed_input_is_not_left_open_for_a_family_whose_rules_cannot_be_read(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: list[str] | None
) -> None:
    """`present`: interfaces that have an address, None where the kernel has no IPv6."""
    monkeypatch.setattr(host_network, "IPV6_ADDRESSES", tmp_path / "if_inet6")
    if present is not None:
        (tmp_path / "if_inet6").write_text("".join(f"{ADDRESSES[name]}\n" for name in present))
    tables = MemoryTables()
    tables.restore("ipv4", ENGINES_OWN)
    save = tables.save
    monkeypatch.setattr(tables, "save", lambda family: save(family) if family == "ipv4" else None)
    if "eth0" in (present or []):
        with pytest.raises(FirewallProblem, match="host_baseline_manage_input.*eth0.*ip6tables-save"):
            manager(tables, script, manage_input=True).plan()
    else:
        assert apply(tables, script, manage_input=True) == ["iptables", "firewall.sh"]
        assert "ip6tables" not in script.read_text(), "it would end at boot with an error"
        assert apply(tables, script, manage_input=True) == []
    assert apply(tables, script)[0] == "iptables"
    assert apply(tables, script, manage_input=True, state="absent") == ["iptables", "firewall.sh"]


def test_input_that_is_closed_later_is_asked_after_what_was_closed_before(
    tables: Tables, script: Path
) -> None:
    apply(tables, script)
    assert "iptables" in apply(tables, script, manage_input=True)
    assert chain(tables, "INPUT") == [GATEWAY_CALL, INPUT_CALL]
    assert apply(tables, script, manage_input=True) == []


def test_what_another_environment_opens_is_asked_after_what_is_closed(tables: Tables, script: Path) -> None:
    def second() -> list[str]:
        given = {"project": "n8n-b", "closed_subnet": "10.202.0.0/22", "manage_input": True}
        return apply(tables, script.with_name("b.sh"), **given)

    def calls() -> list[str]:
        return [rule.rpartition(" ")[2] for rule in chain(tables, "INPUT")]

    apply(tables, script)
    second()
    assert apply(tables, script) == [] and second() == []
    assert set(calls()[:2]) == {"N8N-A.GW", "N8N-B.GW"} and calls()[2:] == ["N8N-B.IN"]
    opened = chain(tables, "INPUT")[2]
    tables.restore("ipv4", [f"-D INPUT {opened}", f"-I INPUT 1 {opened}"])
    assert apply(tables, script) == ["iptables"] and second() == ["iptables"]
    assert set(calls()[:2]) == {"N8N-A.GW", "N8N-B.GW"} and calls()[2:] == ["N8N-B.IN"]


def test_one_environment_manages_input(tables: Tables, script: Path) -> None:
    apply(tables, script, manage_input=True)
    with pytest.raises(FirewallProblem, match="manage_input: another environment"):
        manager(tables, script, project="n8n-b", manage_input=True).plan()
    assert manager(tables, script, project="n8n-b").plan()


@IN_THE_KERNEL
def test_the_script_brings_the_same_rules_back(tables: Tables, script: Path) -> None:
    apply(tables, script, manage_input=True)
    whole = {family: tables.save(family) for family in ("ipv4", "ipv6")}
    for _ in range(2):
        subprocess.run([script], check=True)
        assert {family: tables.save(family) for family in ("ipv4", "ipv6")} == whole
    for command in ("iptables", "ip6tables"):
        subprocess.run([command, "-F"], check=True)
        subprocess.run([command, "-X"], check=True)
    subprocess.run([script], check=True)
    # The engine adds its own rules to what it finds.
    tables.restore("ipv4", ["-A DOCKER-USER -j RETURN", "-A FORWARD -j DOCKER-USER"])
    assert {family: tables.save(family) for family in ("ipv4", "ipv6")} == whole


@IN_THE_KERNEL
def test_at_boot_what_one_opens_is_asked_after_what_another_closes(tables: Tables, script: Path) -> None:
    other = script.with_name("b.sh")
    apply(tables, script)
    apply(tables, other, project="n8n-b", closed_subnet="10.202.0.0/22", manage_input=True)
    for order in ((script, other), (other, script)):
        for command in ("iptables", "ip6tables"):
            subprocess.run([command, "-F"], check=True)
            subprocess.run([command, "-X"], check=True)
        for each in order:
            subprocess.run([each], check=True)
        assert chain(tables, "INPUT")[-1].endswith("-j N8N-B.IN"), order


def test_chain_names_fit_and_differ() -> None:
    long = [platform_firewall.chain_name(f"n8n-a-very-long-environment-{end}") for end in "ab"]
    assert all(len(f"{name}.IN") <= 28 for name in long) and len(set(long)) == 2


def test_the_ssh_port_is_found_behind_sudo(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "SSH_CONNECTION": "192.0.2.7 50000 192.0.2.1 2022"}
    shell = subprocess.Popen(
        ["sh", "-c", "env -i sleep 30 & echo $!; wait"],
        env=environment,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert shell.stdout
    child = int(shell.stdout.readline())
    try:
        assert platform_firewall.running_ssh_port(child) == 2022
        assert platform_firewall.running_ssh_port(1) is None
    finally:
        os.killpg(shell.pid, 9)


def network(
    letter: str, subnet: str, driver: str = "bridge", name: str = "", internal: bool = False
) -> dict[str, Any]:
    options = {"com.docker.network.bridge.name": name} if name else None
    ipam = {"Config": [{"Subnet": subnet}] if subnet else None}
    return {"Id": letter * 64, "Driver": driver, "Internal": internal, "Options": options, "IPAM": ipam}


def test_bridges_are_those_that_reach_the_outside_and_those_that_do_not() -> None:
    class FakeEngine:
        def networks(self, labels: dict[str, str | None]) -> list[dict[str, Any]]:
            assert labels == {"com.docker.compose.project": "n8n-a"}
            return [
                network("a", "172.18.0.0/16"),
                network("b", "172.19.0.0/16", internal=True),
                network("c", "", driver="overlay"),
                network("d", "fd00::/64", name="edge0"),
                network("e", "10.201.0.16/28", internal=True),
            ]

    seen = platform_firewall.project_bridges(FakeEngine(), "n8n-a", SUBNET)  # type: ignore[arg-type]
    assert seen == (["br-aaaaaaaaaaaa", "edge0"], ["br-bbbbbbbbbbbb"]), "a slot's comes and goes"
