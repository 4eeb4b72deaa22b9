"""The whole platform on a fresh server: from nothing, again, stopped, rebooted, taken away."""

from __future__ import annotations

import json

from tests.support.deployment import wait_until

EDGE = {28540, 28543}
PORTS_OF_SERVICES = {"postgres-n8n": 5432, "redis-queue": 6379, "n8n-main": 5678, "openbao": 8200}


def smoke(host) -> int:
    body = json.dumps({"numbers": [1, 2, 3]}).encode()
    try:
        return host.request(
            "POST", "/webhook/platform-smoke", body=body, headers={"Content-Type": "application/json"}
        )[0]
    except OSError:
        return 0


def succeeds(host, playbook: str, **extra):
    run = host.run(playbook, **extra)
    assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])
    return run


def test_one_run_from_nothing(served) -> None:
    assert served.inside("command -v docker dockerd")[0] != 0
    served.converge()
    assert smoke(served) == 200
    log = served.inside("cat /var/cache/n8n-platform/images/build.log")[1]
    assert (
        f"Downloaded newer image for {served.extra['container_images_registry']}/n8n-platform/n8n@sha256:"
        in log
    )
    assert served.inside("command -v mmdebstrap")[0] != 0, "pulled images need no tools for building"


def test_a_second_run_changes_nothing(served) -> None:
    before = served.fingerprint()
    run = served.converge()
    assert run.changed == 0, run.changed_tasks()
    assert served.fingerprint() == before


def test_verify_status_logs_and_support(served) -> None:
    before = served.fingerprint()
    for playbook in ("verify", "status", "logs"):
        run = succeeds(served, playbook)
        assert run.changed == 0, (playbook, run.changed_tasks())
    succeeds(served, "support")
    bundle = f"{served.data_root}/support/{served.project}.tar.gz"
    assert served.inside(f"tar -tzf {bundle} | grep -q .")[0] == 0
    assert served.fingerprint() == before


def test_only_the_edge_answers_from_outside(served) -> None:
    code, listening = served.inside("ss -Hltn | awk '{print $4}' | sed 's/.*://' | sort -un")
    assert code == 0
    candidates = {int(port) for port in listening.split()} | set(PORTS_OF_SERVICES.values())
    assert served.open_ports(sorted(candidates)) == EDGE | {22}


def test_containers_do_not_answer_a_neighbour_that_has_a_route(served) -> None:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    for service, port in PORTS_OF_SERVICES.items():
        addresses = served.inside(f"docker inspect --format '{form}' {served.project}-{service}-1")[1].split()
        assert addresses
        for address in addresses:
            assert not served.answers_through(address, port), (service, address)


def test_stopped_it_answers_for_maintenance(served) -> None:
    succeeds(served, "stop")
    status, headers, _ = served.request("GET", "/")
    assert status == 503
    assert int(headers["retry-after"]) > 0
    assert set(served.fingerprint()) == {"traefik"}
    served.converge()
    assert smoke(served) == 200


def test_a_reboot_brings_everything_back(served) -> None:
    before = {service: ident for service, (ident, _) in served.fingerprint().items()}
    served.machine.restart(timeout=60)
    served.wait_for_ssh()
    wait_until(lambda: smoke(served) == 200, "n8n after a reboot", 180, every=2)
    assert {service: ident for service, (ident, _) in served.fingerprint().items()} == before
    assert served.inside(f"systemctl is-active {served.project}-due.timer")[0] == 0
    assert "N8N-TEST-HOST" in served.inside("iptables -S DOCKER-USER")[1]
    wait_until(lambda: unhealthy(served) == [], "all containers to be healthy", 120, every=2)
    succeeds(served, "verify")


def unhealthy(host) -> list[str]:
    """Containers that are not healthy; OpenBao is only while it is unsealed."""
    return host.inside("docker ps --all --format '{{.Names}} {{.Status}}' | grep -v '(healthy)'")[1].split(
        "\n"
    )[:-1]


def test_destroy_leaves_nothing(served) -> None:
    served.destroy()
    assert served.inside("docker ps -aq")[1] == ""
    assert served.inside(f"test -e {served.data_root} -o -e /var/backups/n8n-platform/{served.name}")[0] != 0
    assert "N8N-" not in served.inside("iptables-save")[1]
    assert served.inside(f"systemctl cat {served.project}-due.timer")[0] != 0
    assert served.open_ports([22, *sorted(EDGE)]) == {22}
