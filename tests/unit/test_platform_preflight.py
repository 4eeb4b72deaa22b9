"""What a host must offer, and how it is said when it does not."""

from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import platform_preflight
import pytest
from ansible.module_utils.n8n_platform import preflight
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.preflight import Listener, Route

ROUTES = """Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
br-0123456789ab\t1000C90A\t00000000\t0001\t0\t0\t0\tF0FFFFFF\t0\t0\t0
"""
TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:20FB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   2: 0100007F:1F90 0100007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 1 1
"""
TCP6 = """  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A
"""


def test_routes_and_listeners_are_read() -> None:
    assert preflight.parse_routes(ROUTES) == [
        Route(IPv4Network("0.0.0.0/0"), "eth0"),
        Route(IPv4Network("172.17.0.0/16"), "docker0"),
        Route(IPv4Network("10.201.0.16/28"), "br-0123456789ab"),
    ]
    assert preflight.parse_listeners(TCP) == [Listener("127.0.0.1", 8443), Listener("0.0.0.0", 22)]
    assert preflight.parse_listeners(TCP6) == [Listener("::", 443)]


@pytest.mark.parametrize(
    ("release", "accepted"),
    [
        ({"ID": "debian", "VERSION_ID": "12"}, True),
        ({"ID": "debian", "VERSION_ID": "13"}, True),
        ({"ID": "ubuntu", "VERSION_ID": "24.04"}, True),
        ({"ID": "debian", "VERSION_ID": "11", "PRETTY_NAME": "Debian GNU/Linux 11"}, False),
        ({"ID": "fedora", "VERSION_ID": "41", "PRETTY_NAME": "Fedora 41"}, False),
        ({}, False),
    ],
)
def test_only_supported_systems_pass(release: dict[str, str], accepted: bool) -> None:
    problems = preflight.system_problems(release)
    assert (problems == []) is accepted
    if "PRETTY_NAME" in release:
        assert release["PRETTY_NAME"] in problems[0]


def test_the_confirmation_of_another_environment_is_refused() -> None:
    assert (
        preflight.confirmation_problems("blue", "") == preflight.confirmation_problems("blue", "blue") == []
    )
    assert preflight.confirmation_problems("blue", "green")[0].startswith("platform_confirm: green")


def test_windows_drives_are_refused() -> None:
    paths = {"platform_root": "/mnt/c/data", "platform_volumes_root": "/mntx/volumes"}
    assert [problem.split(":")[0] for problem in preflight.path_problems(paths)] == ["platform_root"]


def test_memory_counts_every_process_of_a_profile() -> None:
    size = {"workers": 3, "webhooks": 2, "worker": {"memory_mb": 100}, "runner": {"memory_mb": 10}}
    size |= {"webhook": {"memory_mb": 1000}, "main": {"memory_mb": 10000}}
    assert preflight.needed_memory_mb(size) == 12330
    assert preflight.memory_problems(size, 12400, 70) == []
    assert preflight.memory_problems(size, 12399, 70)[0].startswith("platform_profile: ")


def test_what_other_environments_may_take_is_a_warning_that_names_them() -> None:
    size = {"main": {"memory_mb": 4000}}
    others = {"staging": 3000, "trial": 500}
    assert preflight.memory_warnings(size, 8000, 500, others) == []
    assert preflight.memory_warnings(size, 7999, 500, {}) == []
    (warning,) = preflight.memory_warnings(size, 7999, 500, others)
    assert warning.startswith("platform_profile: its containers may take 4000 MiB")
    assert "staging 3000 MiB, trial 500 MiB" in warning and "has 7999 MiB" in warning
    assert preflight.memory_warnings(size, 4000, 500, others) == [], "it is refused"


@pytest.mark.parametrize(
    ("address", "listener", "taken"),
    [
        ("127.0.0.1", Listener("127.0.0.1", 8443), True),
        ("127.0.0.1", Listener("0.0.0.0", 8443), True),
        ("127.0.0.1", Listener("::", 8443), True),
        ("0.0.0.0", Listener("10.0.0.1", 8443), True),
        ("127.0.0.1", Listener("10.0.0.1", 8443), False),
        ("127.0.0.1", Listener("127.0.0.1", 8444), False),
    ],
)
def test_a_port_in_use_is_refused(address: str, listener: Listener, taken: bool) -> None:
    problems = preflight.port_problems({"edge_port": 8443}, address, [listener], set())
    assert bool(problems) is taken
    assert preflight.port_problems({"edge_port": 8443}, address, [listener], {8443}) == []


def test_two_variables_must_not_share_a_port() -> None:
    assert preflight.port_problems({"a_port": 1, "b_port": 1}, "0.0.0.0", [], set()) == [
        "a_port, b_port: the ports must differ"
    ]


def test_slot_addresses_must_be_free() -> None:
    routes = preflight.parse_routes(ROUTES)
    clash = preflight.subnet_problems("10.201.0.0/22", routes, [])
    assert len(clash) == 1 and "10.201.0.16/28" in clash[0] and "br-0123456789ab" in clash[0]
    assert preflight.subnet_problems("10.201.0.0/22", routes, [IPv4Network("10.201.0.16/28")]) == []
    assert preflight.subnet_problems("10.201.4.0/22", routes, []) == []
    assert "too small" in preflight.subnet_problems("10.201.4.0/24", routes, [])[0]
    assert "platform_slot_subnet" in preflight.subnet_problems("10.201.4.1/22", routes, [])[0]


class FakeEngine:
    # Environment and limit in bytes of what runs; None: it has ended since it was listed.
    running: tuple[tuple[str, int | None], ...] = ()

    def containers(self, labels: dict[str, str | None], running_only: bool) -> list[dict[str, Any]]:
        assert running_only
        (label,) = labels
        return [{"Id": str(number), "Labels": {label: name}} for number, (name, _) in enumerate(self.running)]

    def inspect(self, container: str) -> dict[str, Any]:
        limit = self.running[int(container)][1]
        if limit is None:
            raise HttpError("GET", f"/containers/{container}/json", 404, "No such container")
        return {"HostConfig": {"Memory": limit}}

    def project(self, name: str) -> list[dict[str, Any]]:
        assert name == "n8n-blue"
        return [{"Ports": [{"PrivatePort": 1}, {"PublicPort": 8443, "PrivatePort": 2}]}]

    def networks(self, labels: dict[str, str | None]) -> list[dict[str, Any]]:
        return [
            {"IPAM": {"Config": [{"Subnet": "10.201.0.16/28"}, {"Subnet": "fd00::/64"}]}},
            {"IPAM": {"Config": None}},
        ]


@pytest.fixture
def host(tmp_path: Path) -> preflight.Host:
    files = {"proc/net/route": ROUTES, "proc/net/tcp": TCP, "proc/net/tcp6": TCP6}
    files |= {"etc/os-release": 'ID=debian\nVERSION_ID="12"\n', "proc/meminfo": "MemTotal:   1048576 kB\n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return preflight.Host(str(tmp_path))


def manager(host: preflight.Host, engine: Any, **params: Any) -> platform_preflight.Manager:
    spec = platform_preflight.build_spec()
    given = {"environment": "blue", "project": "n8n-blue", "disk_free_gb": 0}
    given["data_root"] = f"{host.root}/nowhere/at/all"
    given |= {"slot_subnet": "10.201.0.0/22", "ports": {"edge_port": "8443"}, "memory_reserve_mb": 0}
    return platform_preflight.Manager(
        {name: option.get("default") for name, option in spec.items()} | given | params, host, engine
    )


def test_what_the_environment_itself_holds_is_not_taken(host: preflight.Host) -> None:
    assert manager(host, FakeEngine()).plan() == []


def test_without_an_engine_whoever_listens_is_another(host: preflight.Host) -> None:
    problems = manager(host, None).plan()
    assert [problem.split(":")[0] for problem in problems] == ["edge_port"]


def of_another_interface(host: preflight.Host) -> None:
    (Path(host.root) / "proc/net/route").write_text(ROUTES.replace("br-0123456789ab", "br-lan"))


def test_without_an_engine_its_bridges_may_be_ours_and_no_other_interface(host: preflight.Host) -> None:
    of_another_interface(host)
    problems = manager(host, None).plan()
    assert [problem.split(":")[0] for problem in problems] == ["edge_port", "platform_slot_subnet"]


def test_all_problems_are_listed_at_once(host: preflight.Host) -> None:
    of_another_interface(host)
    bad = manager(
        host,
        None,
        confirm="green",
        size={"main": {"memory_mb": 4096}},
        disk_free_gb=10**6,
        paths={"p": "/mnt/c"},
    )
    assert len(bad.plan()) == 6


def test_limits_of_what_runs_in_other_environments_are_added_up(host: preflight.Host) -> None:
    engine = FakeEngine()
    engine.running = (
        ("blue", 2**40),
        ("green", 600 * 2**20),
        ("green", 400 * 2**20),
        ("red", None),
        ("red", 0),
    )
    checked = manager(host, engine, size={"main": {"memory_mb": 100}})
    assert checked.plan() == []
    (warning,) = checked.warnings
    assert "green 1000 MiB" in warning and "blue" not in warning and "red" not in warning


def test_other_environments_are_asked_for_nothing_where_resources_are_left_out(host: preflight.Host) -> None:
    engine = FakeEngine()
    engine.running = (("green", 2**40),)
    checked = manager(host, engine, size={"main": {"memory_mb": 100}}, resources=False)
    assert checked.plan() == checked.warnings == []


def test_resources_are_left_out_on_demand(host: preflight.Host) -> None:
    assert manager(host, None, resources=False, disk_free_gb=10**6).plan() == []
