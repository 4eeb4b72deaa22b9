"""The verdict on n8n, with a fake engine and a fake n8n."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import n8n_health
import pytest
from ansible.module_utils.n8n_platform.engine import EngineError
from ansible.module_utils.n8n_platform.http import HttpError
from n8n_server import FakeN8n, running

SERVICES = [
    "postgres-n8n",
    "redis-queue",
    "n8n-main",
    "n8n-webhook-1",
    "n8n-worker-1",
    "n8n-runner-1",
    "n8n-worker-2",
    "n8n-runner-2",
]
SLOTS = {
    "n8n-webhook-1": "webhook-1",
    "n8n-worker-1": "worker-1",
    "n8n-runner-1": "worker-1",
    "n8n-worker-2": "worker-2",
    "n8n-runner-2": "worker-2",
}


class FakeEngine:
    def __init__(self) -> None:
        self.states = dict.fromkeys(SERVICES, "healthy")
        self.down = False

    def project(self, project: str) -> list[dict[str, Any]]:
        if self.down:
            raise HttpError("GET", "/containers/json", 0, "no answer")
        return [{"Id": service} for service in self.states]

    def inspect(self, container: str) -> dict[str, Any]:
        state = self.states[container]
        running_state = {"Status": "running", "Health": {"Status": state}}
        labels = {"com.docker.compose.service": container}
        if container == "once":
            labels["com.docker.compose.oneoff"] = "True"
        if container in SLOTS:
            labels["io.n8n-platform.slot"] = SLOTS[container]
        alive = state in ("healthy", "unhealthy", "starting")
        return {
            "Id": container,
            "Name": container,
            "Config": {"Labels": labels},
            "State": running_state if alive else {"Status": state},
        }

    def address(self, container: str, network: str) -> str:
        if network != "p_edge":
            raise EngineError("no address")
        return "127.0.0.1"


@pytest.fixture
def n8n(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeN8n]:
    monkeypatch.setattr(n8n_health, "POLL_SECONDS", 0.01)
    with running(FakeN8n()) as fake:
        monkeypatch.setattr(n8n_health, "PORT", int(fake.url.rpartition(":")[2]))
        yield fake


def look(engine: FakeEngine, **more: Any) -> dict[str, Any]:
    params = {
        "project": "p",
        "data_stores": ["postgres-n8n", "redis-queue"],
        "workers_minimum": 1,
        "webhooks_minimum": 1,
        "disk_path": "/",
        "disk_free_percent_minimum": 0,
        "patience": 0.2,
        **more,
    }
    return n8n_health.verdict(n8n_health.Inspection(params, engine).run())  # type: ignore[arg-type]


def test_a_healthy_environment_has_no_problem(n8n: FakeN8n) -> None:
    result = look(FakeEngine(), workers_minimum=2)
    assert result["problems"] == [] and result["healthy"]
    names = {check["name"] for check in result["checks"]}
    assert {"container postgres-n8n", "slot worker-2", "endpoint n8n-main", "queue", "disk"} <= names


@pytest.mark.parametrize(
    ("service", "state", "problem"),
    [
        ("postgres-n8n", "unhealthy", "container postgres-n8n: unhealthy"),
        ("redis-queue", "exited", "container redis-queue: exited"),
        ("n8n-main", "unhealthy", "container n8n-main: unhealthy"),
        ("n8n-runner-1", "exited", "slot worker-1: n8n-runner-1 exited, n8n-worker-1 healthy"),
        ("n8n-webhook-1", "unhealthy", "webhook slots: 0 healthy, 1 wanted"),
    ],
)
def test_a_sick_container_is_named(n8n: FakeN8n, service: str, state: str, problem: str) -> None:
    engine = FakeEngine()
    engine.states[service] = state
    assert problem in look(engine)["problems"]


def test_whatever_else_the_project_runs_is_looked_at_but_not_what_runs_once(n8n: FakeN8n) -> None:
    engine = FakeEngine()
    engine.states |= {"traefik": "unhealthy", "object-storage": "healthy", "once": "exited"}
    result = look(engine)
    assert result["problems"] == ["container traefik: unhealthy"]
    names = {check["name"] for check in result["checks"]}
    assert "container object-storage" in names and "container once" not in names


def test_a_missing_container_is_named(n8n: FakeN8n) -> None:
    engine = FakeEngine()
    del engine.states["redis-queue"]
    assert "container redis-queue: missing" in look(engine)["problems"]


def test_a_stopped_slot_is_no_problem_as_long_as_enough_run(n8n: FakeN8n) -> None:
    engine = FakeEngine()
    engine.states.update({"n8n-worker-2": "exited", "n8n-runner-2": "exited"})
    assert look(engine)["healthy"]
    assert look(engine, workers_minimum=2)["problems"] == ["worker slots: 1 healthy, 2 wanted"]


def test_an_endpoint_that_is_not_ready_is_named(n8n: FakeN8n) -> None:
    n8n.not_ready = 100
    assert any(p.startswith("endpoint n8n-main: ") for p in look(FakeEngine())["problems"])


class Queue:
    """Counters as main reports them, one pair (waiting, completed) per question."""

    def __init__(self, *samples: tuple[float, float]) -> None:
        self.samples = list(samples)

    def metrics(self) -> dict[str, float]:
        waiting, completed = self.samples.pop(0) if len(self.samples) > 1 else self.samples[0]
        return {
            "n8n_scaling_mode_queue_jobs_waiting": waiting,
            "n8n_scaling_mode_queue_jobs_completed": completed,
        }


def queue_check(queue: Any) -> dict[str, Any]:
    inspection = n8n_health.Inspection({"project": "p", "patience": 0.1}, FakeEngine())  # type: ignore[arg-type]
    inspection._queue(queue)
    return inspection.checks[0]


def test_waiting_jobs_of_which_one_is_finished_are_fine(n8n: FakeN8n) -> None:
    assert queue_check(Queue((5, 10), (5, 10), (4, 11)))["ok"]


def test_waiting_jobs_of_which_none_is_finished_are_a_problem(n8n: FakeN8n) -> None:
    check = queue_check(Queue((5, 10)))
    assert not check["ok"] and "5 waiting and none finished" in check["detail"]


def test_metrics_without_queue_counters_are_a_problem() -> None:
    class Silent:
        def metrics(self) -> dict[str, float]:
            return {}

    assert "no queue counters" in queue_check(Silent())["detail"]


def test_too_little_disk_and_a_silent_engine_are_named(n8n: FakeN8n) -> None:
    problems = look(FakeEngine(), disk_free_percent_minimum=101)["problems"]
    assert [p.split(":")[0] for p in problems] == ["disk"]
    engine = FakeEngine()
    engine.down = True
    assert [p.split(":")[0] for p in look(engine)["problems"]] == ["engine"]
