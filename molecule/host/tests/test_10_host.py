"""The host's roles on a fresh server, over SSH as an ordinary user: engine, baseline, firewall."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
import testinfra
from testinfra.host import Host

from tests.support.deployment import Run

PLAYBOOK = "../molecule/host/converge"
EDGE, HIDDEN, FOREIGN, OWN = 28543, 28999, 28777, 28666


def converge(nested, **extra) -> Run:
    run = nested.run(PLAYBOOK, **extra)
    assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])
    return run


def probe_image() -> bytes:
    """A root file system of links alone: a container borrows /usr from its host."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("usr", "etc", "tmp"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        for name in ("bin", "sbin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
    return archive.getvalue()


def publish(nested, name: str, network: str, port: int) -> None:
    options = f"--name {name} --restart unless-stopped --network {network} -p {port}:{port} -v /usr:/usr:ro"
    code, output = nested.inside(f"docker run -d {options} probe python3 -m http.server {port}")
    assert code == 0, output


@pytest.fixture(scope="module")
def host(nested) -> Host:
    """What is on it, as root sees it; in place of testinfra's own fixture, which is this machine."""
    return testinfra.get_host(f"docker://{nested.container_name}")


@pytest.fixture(scope="module")
def published(nested) -> None:
    """Two ports of the environment's own project and one of somebody else's container."""
    nested.put("/root/probe.tar", probe_image())
    label = f"--label com.docker.compose.project={nested.project}"
    for command in (
        "docker import /root/probe.tar probe",
        f"docker network create {label} {nested.project}_edge",
    ):
        code, output = nested.inside(command)
        assert code == 0, output
    publish(nested, "edge", f"{nested.project}_edge", EDGE)
    publish(nested, "hidden", f"{nested.project}_edge", HIDDEN)
    publish(nested, "foreign", "bridge", FOREIGN)


def test_a_dry_run_on_a_bare_host_changes_nothing(nested, host) -> None:
    run = nested.run(PLAYBOOK, check=True)
    assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])
    assert not host.exists("dockerd")
    assert not host.file("/etc/docker").exists
    assert not host.file(f"/etc/sysctl.d/60-{nested.project}.conf").exists


def test_a_fresh_host_gets_a_working_engine(nested, host) -> None:
    converge(nested)
    code, version = nested.inside(
        "docker version --format '{{.Server.Version}}' && docker compose version --short"
    )
    assert code == 0, version
    packages = ("docker.io", "docker-cli", "docker-compose", "docker-buildx", "iptables")
    assert [name for name in packages if not host.package(name).is_installed] == []
    assert host.service("docker").is_enabled and host.service("docker").is_running
    assert host.service(f"{nested.project}-firewall").is_enabled
    assert "max-size" in host.file("/etc/docker/daemon.json").content_string
    assert host.sysctl("vm.overcommit_memory") == 1


def test_only_root_changes_what_is_set_for_the_host(nested, host) -> None:
    own = f"60-{nested.project}.conf"
    modes = {
        "/etc/docker/daemon.json": 0o644,
        f"/etc/sysctl.d/{own}": 0o644,
        f"/etc/systemd/journald.conf.d/{own}": 0o644,
        f"/etc/systemd/system/{nested.project}-firewall.service": 0o644,
        f"{nested.data_root}/state/firewall.sh": 0o700,
    }
    files = {path: host.file(path) for path in modes}
    assert {path: file.mode for path, file in files.items()} == modes
    assert {(file.user, file.group) for file in files.values()} == {("root", "root")}


def test_the_journal_keeps_to_its_limit(nested, host) -> None:
    """By what the journal's server said at its start: messages of that kind bear the limit in force, in bytes."""
    limits = host.file(f"/etc/systemd/journald.conf.d/60-{nested.project}.conf").content_string
    assert {"SystemMaxUse=1024M", "RuntimeMaxUse=1024M"} <= set(limits.splitlines())
    said = nested.inside("journalctl -o json -n 1 MESSAGE_ID=ec387f577b844b8fa948f33cad9a75e6")[1]
    assert json.loads(said)["MAX_USE"] == str(1024 * 2**20), said


def test_a_second_run_changes_nothing(nested) -> None:
    run = converge(nested)
    assert run.changed == 0, run.changed_tasks()


def test_what_another_environment_set_is_refused_and_kept(nested, host) -> None:
    other = "/etc/sysctl.d/60-n8n-other.conf"
    nested.put(other, b"vm.overcommit_memory=2\n")
    run = nested.run(PLAYBOOK)
    assert run.rc != 0
    assert f"vm.overcommit_memory is to be 1 here and 2 in {other}" in "\n".join(run.failures())
    assert host.file(other).content_string == "vm.overcommit_memory=2\n"
    assert nested.inside(f"rm {other}")[0] == 0


def test_only_the_edge_answers_from_outside(nested, published) -> None:
    everything = [EDGE, HIDDEN, FOREIGN]
    assert nested.open_ports(everything) == set(everything)
    run = converge(nested)
    assert "configure | Let only the edge answer from outside" in " ".join(run.changed_tasks())
    assert nested.open_ports(everything) == {EDGE, FOREIGN}


def test_the_host_itself_and_its_containers_reach_out(nested, published) -> None:
    assert (
        nested.inside(f"python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {HIDDEN}), 3)'")[
            0
        ]
        == 0
    )
    outward = f'import socket; socket.create_connection(("{nested.address}", 22), 3)'
    assert nested.inside(f"docker exec edge python3 -c '{outward}'")[0] == 0


def test_the_rules_survive_a_restart_of_the_engine(nested, published) -> None:
    nested.inside("iptables -F DOCKER-USER && systemctl restart docker")
    nested.wait_for("docker exec edge true && docker exec hidden true")
    assert nested.open_ports([EDGE, HIDDEN]) == {EDGE}


def test_the_rules_come_back_with_the_host(nested, published) -> None:
    nested.machine.restart(timeout=30)
    nested.wait_for_ssh()
    nested.wait_for("docker exec edge true && docker exec hidden true && docker exec foreign true")
    assert nested.open_ports([EDGE, HIDDEN, FOREIGN]) == {EDGE, FOREIGN}
    assert converge(nested).changed == 0


def test_input_is_managed_only_when_asked_for(nested, published) -> None:
    nested.machine.exec_run(["python3", "-m", "http.server", str(OWN)], detach=True)
    nested.wait_for(f"ss -ltn | grep -q :{OWN}")
    assert nested.open_ports([22, OWN]) == {22, OWN}
    # An empty list: SSH stays open because this run comes through it.
    converge(nested, host_baseline_manage_input=True, host_baseline_input_ports=[])
    assert nested.open_ports([22, OWN, EDGE, HIDDEN]) == {22, EDGE}
    converge(nested)
    assert nested.open_ports([22, OWN]) == {22, OWN}


def test_remove_takes_it_away(nested, host, published) -> None:
    run = nested.run("../molecule/host/remove")
    assert run.rc == 0, run.stdout[-4000:]
    assert nested.open_ports([EDGE, HIDDEN, FOREIGN]) == {EDGE, HIDDEN, FOREIGN}
    assert "N8N-" not in nested.inside("iptables-save")[1]
    assert not host.service(f"{nested.project}-firewall").exists
    assert nested.inside(f"grep -rl . /etc --include='60-{nested.project}*'")[1] == ""
    again = nested.run("../molecule/host/remove")
    assert again.rc == 0 and again.changed == 0
