"""What was accepted is accounted for: through a change of settings, a killed worker and a restart of everything."""

import os
import random
from collections.abc import Callable

import pytest

from tests.support.deployment import Deployment, wait_until
from tests.support.ledger import deploy_test_workflows, dequeued_by
from tests.support.stream import NumberedStream, executions_of

# Requests a second. Two cores finish ten executions a second beside the change itself: what is more waits in the queue
# and has to be waited for.
RATE = 20.0 if os.environ.get("TEST_NIGHTLY") else 5.0


@pytest.fixture(scope="module", autouse=True)
def workflows(core: Deployment) -> None:
    deploy_test_workflows(core)


def stream_through(core: Deployment, act: Callable[[], None], *, all_succeed: bool) -> NumberedStream:
    """Sends while `act` runs and a little longer; every accepted number must have ended in the database."""
    with NumberedStream(core, "/webhook/ledger", RATE) as stream:
        wait_until(lambda: len(stream.accepted) >= 20, "the first accepted requests")
        act()
        mark = len(stream.outcomes)
        wait_until(lambda: len(stream.outcomes) > mark + 60, "sixty more requests")
    assert 404 not in stream.outcomes.values(), stream.summary()

    def unfinished() -> dict[int, list[str] | None]:
        found = executions_of(core, stream)
        return {n: found.get(n) for n in stream.accepted if found.get(n, ["new"])[0] in ("new", "running")}

    wait_until(lambda: not unfinished(), "every accepted request to have ended", seconds=600, every=5)
    found = executions_of(core, stream)
    assert stream.accepted <= set(found), (
        f"accepted, but no execution: {sorted(stream.accepted - set(found))[:10]}"
    )
    doubled = {n: statuses for n, statuses in found.items() if len(statuses) > 1}
    assert not doubled, f"executed more than once: {doubled}"
    if all_succeed:
        wrong = {n: statuses for n, statuses in found.items() if statuses != ["success"]}
        assert not wrong, f"not successful: {wrong}"
    return stream


def test_fifty_executions_spread_over_all_workers(core: Deployment) -> None:
    with NumberedStream(core, "/webhook/second", limit=50) as stream:
        wait_until(lambda: len(stream.outcomes) == 50, "fifty requests")
    assert len(stream.accepted) == 50, stream.summary()
    wait_until(lambda: len(executions_of(core, stream)) == 50, "fifty executions", seconds=120)
    workers = {service for service in core.containers() if service.startswith("n8n-worker-")}
    assert set(dequeued_by(core)) == workers


def test_a_changed_setting_rolls_one_by_one(core: Deployment) -> None:
    before = core.fingerprint()

    def change() -> None:
        core.converge(
            n8n_environment_extra={"N8N_LOG_LEVEL": "warn", "N8N_EXECUTIONS_QUEUE_RECOVERY_INTERVAL": "1"}
        )

    stream = stream_through(core, change, all_succeed=True)
    refused = {n: outcome for n, outcome in stream.outcomes.items() if n not in stream.accepted}
    assert not refused, stream.summary()
    after = core.fingerprint()
    changed = {service for service in after if after[service] != before.get(service)}
    n8n = {service for service in after if service.startswith(("n8n-main", "n8n-webhook-", "n8n-worker-"))}
    assert n8n <= changed
    assert not changed & {"traefik", "openbao", "postgres-n8n", "redis-queue"}, changed


def test_kill_of_a_worker_brings_its_slot_back(core: Deployment) -> None:
    worker = core.containers()["n8n-worker-1"]

    def kill() -> None:
        worker.kill("SIGKILL")
        # The engine's restart policy does not apply to a container killed by hand; it does to a dead process.
        if core.engine.containers.get(worker.id).status == "exited":
            worker.start()
        mark = dequeued_by(core).get("n8n-worker-1", 0)
        wait_until(
            lambda: dequeued_by(core).get("n8n-worker-1", 0) > mark,
            "worker 1 to take a job again",
            seconds=60,
        )

    stream_through(core, kill, all_succeed=False)


@pytest.mark.full
def test_restart_of_each_container(core: Deployment) -> None:
    """Postgres, Redis and OpenBao included, one after the other: what was answered with 2xx is accounted for."""

    def restart_each() -> None:
        for service in sorted(core.containers()):
            if service.startswith(("n8n-worker-", "n8n-runner-")):
                continue
            core.containers()[service].restart(timeout=120)
            wait_until(lambda s=service: core.healthy(s), f"{service} to be healthy again", seconds=120)

    stream_through(core, restart_each, all_succeed=False)


@pytest.mark.full
def test_restart_of_everything_in_any_order(core: Deployment) -> None:
    containers = list(core.containers().values())
    random.Random(20261122).shuffle(containers)

    def restart_all() -> None:
        for container in containers:
            container.kill("SIGKILL")
        for container in containers:
            container.start()
        wait_until(
            lambda: all(core.healthy(service) for service in core.containers()),
            "every container to be healthy",
            seconds=180,
        )

    stream_through(core, restart_all, all_succeed=False)
    assert core.run("verify").rc == 0
