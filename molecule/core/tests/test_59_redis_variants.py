"""Other servers in the place of the default Redis: built, started with the role's own files, verified."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from tests.support.deployment import Deployment, wait_until
from tests.support.depth import smoke_and_full

SERVICE = "redis-queue"
VARIANTS = {"redis-7": "7.", "valkey-8": "8."}


@pytest.fixture(params=smoke_and_full(["redis-7", "valkey-8"], ["redis-7"]))
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(
    core: Deployment, engine: docker.DockerClient, variant: str, tmp_path: Path
) -> Iterator[Container]:
    """The variant with the configuration, access list and limits of core's queue, in a project of its own."""
    run = core.run("../molecule/core/redis_variant", platform_redis=variant, step="build")
    assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-3000:]])
    (reference,) = [e["event_data"]["res"]["msg"] for e in run.events if _is_reference(e)]
    like = core.containers()[SERVICE].attrs
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    sources = {mount["Destination"]: mount["Source"] for mount in like["Mounts"]} | {"/data": str(data)}
    container = engine.containers.run(
        reference,
        like["Config"]["Cmd"],
        detach=True,
        user=like["Config"]["User"],
        read_only=True,
        init=True,
        cap_drop=["ALL"],
        network_mode="none",
        mem_limit=like["HostConfig"]["Memory"],
        tmpfs=like["HostConfig"]["Tmpfs"],
        healthcheck=like["Config"]["Healthcheck"],
        mounts=[
            docker.types.Mount(target, source, type="bind", read_only=target != "/data")
            for target, source in sources.items()
        ],
        labels={
            "com.docker.compose.project": "n8n-test-variants",
            "com.docker.compose.service": SERVICE,
        },
    )
    yield container
    container.remove(force=True)


def _is_reference(event: dict[str, object]) -> bool:
    data = event.get("event_data")
    return isinstance(data, dict) and str(data.get("res", {}).get("msg", "")).startswith(
        "n8n-platform/redis:"
    )


def ask(container: Container, command: str) -> str:
    """The answer to one command of the administrator."""
    login = "REDISCLI_AUTH=$(cat /run/secrets/redis_queue_admin_password) exec redis-cli --user admin "
    done = container.exec_run(["sh", "-c", login + command])
    assert done.exit_code == 0, done.output.decode()
    return str(done.output.decode().strip())


def healthy(container: Container) -> bool:
    container.reload()
    assert container.status == "running", container.logs().decode()[-2000:]
    return bool(container.attrs["State"]["Health"]["Status"] == "healthy")


def test_it_passes_the_roles_checks_and_keeps_its_data_over_a_kill(
    core: Deployment, server: Container, variant: str
) -> None:
    wait_until(lambda: healthy(server), f"{variant} to be healthy")
    flavour, _, _major = variant.partition("-")
    fields = dict(line.split(":", 1) for line in ask(server, "INFO server").splitlines() if ":" in line)
    assert fields[f"{flavour}_version"].startswith(VARIANTS[variant])

    verified = core.run("../molecule/core/redis_variant", platform_redis=variant, step="verify")
    assert verified.rc == 0, verified.failures()

    # Bull writes by scripts, which the append-only file holds as transactions.
    script = json.dumps("for i = 1, 20 do redis.call('RPUSH', KEYS[1], i) redis.call('INCR', KEYS[2]) end")
    ask(server, f"EVAL {script} 2 bull:jobs:wait bull:jobs:id")
    server.kill()
    server.start()
    wait_until(lambda: healthy(server), f"{variant} to be healthy again")
    assert ask(server, "LLEN bull:jobs:wait") == "20"
