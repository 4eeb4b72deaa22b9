"""How long an environment is away when all of its containers are killed at once and started again, as after a crash
of the host."""

from __future__ import annotations

import time
from http.client import HTTPException

from bench.load import PATH, finished
from bench.samples import Sample, load, save
from tests.support.deployment import Deployment, wait_until
from tests.support.ledger import deploy_test_workflows


def measure(deployment: Deployment, form: str, rounds: int) -> None:
    deploy_test_workflows(deployment)
    samples = []
    for _ in range(rounds):
        samples.append(sample(deployment))
        print(samples[-1], flush=True)
    save("restart", form, {"killed": samples}, containers=len(deployment.containers()))


def sample(deployment: Deployment) -> Sample:
    """Seconds from the start of the first container to the first webhook that is answered, and to the end of its
    execution."""
    names = [str(container.name) for container in deployment.containers().values()]
    before = finished(deployment)
    for name in names:
        deployment.engine.containers.get(name).kill()
    busy, started = load(), time.monotonic()
    for name in names:
        deployment.engine.containers.get(name).start()
    wait_until(lambda: answered(deployment), "an answer", 600, every=0.2)
    answer = time.monotonic() - started
    wait_until(lambda: finished(deployment) > before, "its execution", 600, every=0.2)
    done = time.monotonic() - started
    wait_until(lambda: all_healthy(deployment), "all containers", 600)
    healthy = time.monotonic() - started
    return {
        "answer_seconds": round(answer, 1),
        "execution_seconds": round(done, 1),
        "healthy_seconds": round(healthy, 1),
        "load": busy,
    }


def answered(deployment: Deployment) -> bool:
    try:
        status, _, _ = deployment.request("POST", PATH, body=b'{"number": "restart"}', timeout=5)
    except (OSError, HTTPException):
        return False
    return status == 200


def all_healthy(deployment: Deployment) -> bool:
    states = [container.attrs["State"] for container in deployment.containers().values()]
    return all(state.get("Health", {"Status": "healthy"})["Status"] == "healthy" for state in states)
