"""What every container may do: CIS Docker Benchmark section 5, read off `docker inspect`."""

import re
import stat
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.support.deployment import Deployment

Inspected = dict[str, Any]

# The benchmark's automated checks of section 5 by number: (title, holds for one container).
CHECKS: dict[str, tuple[str, Callable[[Inspected], bool]]] = {
    "5.1": ("swarm mode is off where one host is all there is", lambda c: c["Swarm"] == "inactive"),
    "5.2": ("an AppArmor profile is set", lambda c: c["AppArmorProfile"] not in ("", "unconfined")),
    "5.3": (
        "SELinux options are set",
        lambda c: any("label" in o for o in c["HostConfig"]["SecurityOpt"] or []),
    ),
    "5.4": (
        "capabilities are restricted",
        lambda c: c["HostConfig"]["CapDrop"] == ["ALL"] and not c["HostConfig"]["CapAdd"],
    ),
    "5.5": ("not privileged", lambda c: not c["HostConfig"]["Privileged"]),
    "5.6": (
        "no sensitive host directory is mounted",
        lambda c: (
            not {"/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr"}
            & {m.get("Source") for m in c["Mounts"]}
        ),
    ),
    "5.7": (
        "no sshd inside",
        lambda c: "sshd" not in str(c["Config"]["Entrypoint"]) + str(c["Config"]["Cmd"]),
    ),
    "5.8": (
        "no privileged port is mapped",
        lambda c: all(
            int(binding["HostPort"]) >= 1024
            for bindings in (c["NetworkSettings"]["Ports"] or {}).values()
            for binding in bindings or []
        ),
    ),
    "5.10": ("not on the host's network", lambda c: c["HostConfig"]["NetworkMode"] != "host"),
    "5.11": ("memory is limited", lambda c: c["HostConfig"]["Memory"] > 0),
    "5.12": ("CPU is limited", lambda c: c["HostConfig"]["NanoCpus"] > 0 or c["HostConfig"]["CpuShares"] > 0),
    "5.13": ("root file system is read-only", lambda c: c["HostConfig"]["ReadonlyRootfs"]),
    "5.14": (
        "ports are bound to one interface",
        lambda c: all(
            binding["HostIp"] not in ("", "0.0.0.0", "::")
            for bindings in (c["NetworkSettings"]["Ports"] or {}).values()
            for binding in bindings or []
        ),
    ),
    "5.15": (
        "restarts at most five times on failure",
        lambda c: (
            c["HostConfig"]["RestartPolicy"]["Name"] in ("no", "on-failure")
            and c["HostConfig"]["RestartPolicy"]["MaximumRetryCount"] <= 5
        ),
    ),
    "5.16": ("own process namespace", lambda c: c["HostConfig"]["PidMode"] != "host"),
    "5.17": ("own IPC namespace", lambda c: c["HostConfig"]["IpcMode"] != "host"),
    "5.20": (
        "no shared mount propagation",
        lambda c: all(m.get("Propagation") != "shared" for m in c["Mounts"]),
    ),
    "5.21": ("own UTS namespace", lambda c: c["HostConfig"]["UTSMode"] != "host"),
    "5.22": (
        "the seccomp profile is on",
        lambda c: not any("seccomp" in o and "unconfined" in o for o in c["HostConfig"]["SecurityOpt"] or []),
    ),
    "5.23": ("no privileged exec", lambda c: not any(e["ProcessConfig"]["privileged"] for e in c["Execs"])),
    "5.25": (
        "cgroup is the engine's",
        lambda c: c["HostConfig"]["CgroupParent"] in ("", "docker", "system.slice"),
    ),
    "5.26": (
        "no new privileges",
        lambda c: bool(
            {"no-new-privileges", "no-new-privileges:true"} & set(c["HostConfig"]["SecurityOpt"] or [])
        ),
    ),
    "5.27": ("health is checked", lambda c: c["State"].get("Health", {}).get("Status") == "healthy"),
    "5.29": ("processes are limited", lambda c: (c["HostConfig"]["PidsLimit"] or 0) > 0),
    "5.31": ("user namespace is not the host's by option", lambda c: c["HostConfig"]["UsernsMode"] != "host"),
    "5.32": (
        "no engine socket",
        lambda c: not any("docker.sock" in str(m.get("Source")) for m in c["Mounts"]),
    ),
}

# Checks that do not hold, with the reason; they are asserted not to hold, so that a mended one leaves this list.
EXCEPTIONS = {
    "5.2": "this kernel has no AppArmor; where there is one the engine's default profile applies by itself",
    "5.3": "Debian and Ubuntu confine by AppArmor, not SELinux",
    "5.15": "unless-stopped: a service has to come back after a restart of the host",
}


@pytest.fixture(scope="module")
def inspected(core: Deployment) -> dict[str, Inspected]:
    swarm = core.engine.info()["Swarm"]["LocalNodeState"]
    return {
        service: {
            **container.attrs,
            "Swarm": swarm,
            "Execs": [
                core.engine.api.exec_inspect(identity) for identity in container.attrs["ExecIDs"] or []
            ],
        }
        for service, container in core.containers().items()
    }


def test_the_table_is_the_benchmarks() -> None:
    assert len(CHECKS) == 26
    assert len(CHECKS) - len(EXCEPTIONS) >= 22


@pytest.mark.parametrize("number", CHECKS)
def test_cis_section_5(inspected: dict[str, Inspected], number: str) -> None:
    title, holds = CHECKS[number]
    failing = [service for service, container in inspected.items() if not holds(container)]
    if number in EXCEPTIONS:
        if number == "5.2" and not failing:
            pytest.skip("this host has AppArmor: nothing to except")
        assert failing, f"{number} ({title}) holds now: take it off the exceptions"
    else:
        assert not failing, f"{number} ({title}) does not hold for {', '.join(sorted(failing))}"


def test_no_device_and_no_default_bridge(inspected: dict[str, Inspected]) -> None:
    for container in inspected.values():
        assert not container["HostConfig"]["Devices"]
        assert "bridge" not in container["NetworkSettings"]["Networks"]


def test_nobody_is_root(inspected: dict[str, Inspected]) -> None:
    users = {service: container["Config"]["User"] for service, container in inspected.items()}
    assert all(user.split(":")[0].isdigit() and int(user.split(":")[0]) > 0 for user in users.values()), users


def test_only_the_edge_publishes_ports(inspected: dict[str, Inspected]) -> None:
    publishing = {
        service for service, c in inspected.items() if any((c["NetworkSettings"]["Ports"] or {}).values())
    }
    assert publishing == {"traefik"}


def test_a_runner_reaches_its_own_worker_only(inspected: dict[str, Inspected]) -> None:
    for service, container in inspected.items():
        if service.startswith("n8n-runner-"):
            number = service.rpartition("-")[2]
            assert [name.rpartition("_")[2] for name in container["NetworkSettings"]["Networks"]] == [
                f"slot-{number}"
            ]


def test_databases_secrets_and_users_code_have_no_way_out(
    core: Deployment, inspected: dict[str, Inspected]
) -> None:
    slots = [f"slot-{name.rpartition('-')[2]}" for name in inspected if name.startswith("n8n-runner-")]
    assert slots
    networks = {
        name: core.engine.networks.get(f"{core.project}_{name}").attrs["Internal"]
        for name in ("data", "secrets", *slots, "egress")
    }
    assert networks == {**dict.fromkeys(networks, True), "egress": False}


def test_limits_are_those_of_the_release(core: Deployment, inspected: dict[str, Inspected]) -> None:
    release = yaml.safe_load((core.data_root / "releases/current/compose.yaml").read_text(encoding="utf-8"))

    def wanted(service: str) -> tuple[int, int, int]:
        limits = release["services"][service]["deploy"]["resources"]["limits"]
        mib = int(limits["memory"].removesuffix("M"))
        return mib * 1024**2, round(float(limits["cpus"]) * 10**9), limits["pids"]

    host = {service: container["HostConfig"] for service, container in inspected.items()}
    found = {service: (h["Memory"], h["NanoCpus"], h["PidsLimit"]) for service, h in host.items()}
    assert found == {service: wanted(service) for service in inspected}
    # Main is what the profile standard says of it.
    assert found["n8n-main"][:2] == (2048 * 1024**2, 2 * 10**9)


def test_v8_collects_before_the_limit_kills(inspected: dict[str, Inspected]) -> None:
    capped = 0
    for service, container in inspected.items():
        text = "\n".join(container["Config"]["Env"])
        heap = re.search(
            r"(?:--max-old-space-size|N8N_RUNNERS_MAX_OLD_SPACE_SIZE)=(\d+)$", text, re.MULTILINE
        )
        if service.startswith("n8n-"):
            assert heap, f"{service} has no cap"
            assert 200 <= int(heap[1]) < 0.9 * container["HostConfig"]["Memory"] / 1024**2, service
            capped += 1
    assert capped >= 7


# What lies on the host, whose it is and who else may look: (owner and group, mode).
VOLUMES = {
    "n8n-home": (1000, 0o700),
    "n8n-data": (1000, 0o750),
    "n8n-data/exports": (1000, 0o750),
    "n8n-data/files": (1000, 0o750),
    "n8n-scripts": (1000, 0o755),
    "n8n-events": (1000, 0o750),
    "openbao": (2004, 0o700),
    "openbao-audit": (2004, 0o700),
    "postgres-n8n": (2001, 0o700),
    "redis-cache": (2002, 0o700),
    "redis-queue": (2002, 0o700),
}


def test_owners_and_modes_of_the_volumes(core: Deployment) -> None:
    root = core.data_root / "volumes"
    assert {path.name for path in root.iterdir()} == {name for name in VOLUMES if "/" not in name}
    stats = {name: (root / name).stat() for name in VOLUMES}
    assert {name: (s.st_uid, s.st_gid, s.st_mode & 0o7777) for name, s in stats.items()} == {
        name: (owner, owner, mode) for name, (owner, mode) in VOLUMES.items()
    }
    # Nobody but root gets as far as a volume.
    assert root.stat().st_mode & 0o777 == 0o700


def test_a_secret_file_is_for_its_service_alone(core: Deployment, inspected: dict[str, Inspected]) -> None:
    root = core.data_root / "secrets"
    users = {service: container["Config"]["User"] for service, container in inspected.items()}
    stats = {str(path.relative_to(root)): path.lstat() for path in root.glob("*/*")}
    found = {name: (f"{s.st_uid}:{s.st_gid}", s.st_mode) for name, s in stats.items()}
    assert {"host/n8n_owner_password", "n8n-main/n8n_encryption_key", "traefik/traefik_tls.key"} <= set(found)
    assert found == {
        name: ({**users, "host": "0:0"}[name.partition("/")[0]], stat.S_IFREG | 0o400) for name in found
    }
    assert {path.stat().st_mode & 0o7777 for path in (root, *root.iterdir())} == {0o700}
