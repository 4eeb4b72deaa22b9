"""What was accepted is accounted for: through a change of settings, killed processes and a restart of everything."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from ansible.module_utils.n8n_platform.engine import Engine
from n8n_health import Inspection, verdict

from tests.support.deployment import Deployment, wait_until
from tests.support.depth import nightly
from tests.support.ledger import deploy_test_workflows, dequeued_by, finished_on, runs_of
from tests.support.n8n_rest import Editor, Execution, node, worker_of
from tests.support.stream import NumberedStream, executions_of, nameless_of

# Requests a second. Two cores finish ten executions a second beside the change itself: what is more waits in the queue
# and has to be waited for.
RATE, NIGHTLY_RATE = 5.0, 20.0
RECOVERY = {"N8N_EXECUTIONS_QUEUE_RECOVERY_INTERVAL": "1"}


@pytest.fixture(scope="module", autouse=True)
def workflows(core: Deployment) -> None:
    deploy_test_workflows(core)


def account_for(core: Deployment, stream: NumberedStream) -> dict[int, list[str]]:
    """Waits until every accepted request has ended, exactly once; returns number -> statuses of its execution."""

    def all_ended() -> bool:
        statuses = [status for each in executions_of(core, stream).values() for status in each]
        return not {"new", "running"} & {*statuses, *nameless_of(core, stream)}

    wait_until(all_ended, "every accepted request to have ended", seconds=1800, every=5)
    found, nameless = executions_of(core, stream), nameless_of(core, stream)
    missing = sorted(stream.accepted - set(found))
    assert len(missing) <= len(nameless), f"accepted, but no execution: {missing}; without number: {nameless}"
    assert set(nameless) <= {"error", "crashed"}, nameless
    doubled = {n: statuses for n, statuses in found.items() if len(statuses) > 1}
    assert not doubled, f"executed more than once: {doubled}"
    return found


def stream_through(
    core: Deployment,
    act: Callable[[], None],
    *,
    all_succeed: bool,
    crashes: bool = False,
    rate: float = RATE,
) -> NumberedStream:
    """Sends while `act` runs and a little longer; every accepted request must have ended in the database.

    `crashes`: `act` kills what executes, and n8n says of some that they have crashed.
    """
    with NumberedStream(core, "/webhook/ledger", rate) as stream:
        wait_until(lambda: len(stream.accepted) >= 20, "the first accepted requests")
        act()
        mark = len(stream.outcomes)
        wait_until(lambda: len(stream.outcomes) > mark + 60, "sixty more requests")
    assert 404 not in stream.outcomes.values(), stream.summary()
    found = account_for(core, stream)
    if not crashes:
        crashed = [n for n, statuses in found.items() if "crashed" in statuses]
        assert not crashed and "crashed" not in nameless_of(core, stream), f"crashed: {crashed}"
    if all_succeed:
        wrong = {n: found.get(n) for n in stream.accepted if found.get(n) != ["success"]}
        assert not wrong, f"not successful: {wrong}"
    return stream


# --- all workers take part


def taken_of_fifty(core: Deployment) -> dict[str, int]:
    """Worker -> jobs that it has taken of fifty executions of a second each, by the job events in its log."""
    workers = {service for service in core.containers() if service.startswith("n8n-worker-")}
    before = dequeued_by(core)
    with NumberedStream(core, "/webhook/second", limit=50) as stream:
        wait_until(lambda: len(stream.outcomes) == 50, "fifty requests")
    assert len(stream.accepted) == 50, stream.summary()

    def successes() -> int:
        return sum(statuses == ["success"] for statuses in executions_of(core, stream).values())

    wait_until(lambda: successes() == 50, "fifty successes", seconds=120)

    def taken() -> dict[str, int]:
        now = dequeued_by(core)
        return {worker: now[worker] - before[worker] for worker in workers}

    wait_until(lambda: sum(taken().values()) >= 50, "the events of fifty jobs")
    return taken()


def test_fifty_executions_spread_over_all_workers(core: Deployment) -> None:
    taken = taken_of_fifty(core)
    assert sum(taken.values()) == 50 and min(taken.values()) > 0, taken


@pytest.mark.full
def test_five_workers_take_part(core: Deployment) -> None:
    core.converge(platform_size="{{ platform_profiles.standard | combine({'webhooks': 2, 'workers': 5}) }}")
    taken = taken_of_fifty(core)
    core.converge()
    assert len(taken) == 5
    assert sum(taken.values()) == 50 and min(taken.values()) > 0, taken


# --- a rolling change


@dataclass
class Roll:
    """A changed setting and another image of n8n, and what ran through that: requests, executions of twenty seconds, a
    schedule of five."""

    core: Deployment
    before: dict[str, tuple[str, str]]
    images: dict[str, str]
    stream: NumberedStream = field(init=False)
    slow: NumberedStream = field(init=False)
    scheduled: list[Execution] = field(default_factory=list)

    def carry_out(self) -> None:
        sender = threading.Thread(target=self._send_slow_ones)

        def begin(event: dict[str, Any]) -> None:
            task = event["event_data"].get("task", "")
            if event["event"] == "playbook_on_task_start" and task.endswith("Start and roll the slots"):
                sender.start()

        def change() -> None:
            extra = RECOVERY | {"N8N_LOG_LEVEL": "warn"}
            # Without the packages that the inventory lists it is another image.
            run = self.core.run("site", on_event=begin, n8n_environment_extra=extra, platform_n8n_packages="")
            assert run.rc == 0, "\n".join(run.failures())
            sender.join()

        self.stream = stream_through(self.core, change, all_succeed=True)

    def _send_slow_ones(self) -> None:
        """One every two seconds until the first worker is asked to stop: it has some then, and so has the other."""
        rolling = self.core.data_root / "state/slots-rolling.json"

        def a_worker_leaves() -> bool:
            return rolling.exists() and "worker" in rolling.read_text()

        with NumberedStream(self.core, "/webhook/slow", rate=0.5) as self.slow:
            wait_until(a_worker_leaves, "a worker to be rolled", seconds=300, every=0.1)


def images_of_n8n(core: Deployment) -> dict[str, str]:
    """Of each process by its service."""
    processes = ("n8n-main", "n8n-webhook-", "n8n-worker-")
    return {name: c.attrs["Image"] for name, c in core.containers().items() if name.startswith(processes)}


@pytest.fixture(scope="module")
def roll(core: Deployment) -> Roll:
    editor = Editor(core)
    rule = {"interval": [{"field": "seconds", "secondsInterval": 5}]}
    trigger = node("Schedule", "scheduleTrigger", 1.2, rule=rule)
    with editor.workflow(node("Done", "noOp"), trigger=trigger) as workflow:
        editor.publish(workflow)
        wait_until(lambda: runs_of(core, workflow["id"]), "the schedule's first run")
        rolled = Roll(core, core.fingerprint(), images_of_n8n(core))
        rolled.carry_out()
        editor.follow()
        rolled.scheduled = [editor.finished(run.id) for run in runs_of(core, workflow["id"])]
    return rolled


def test_a_changed_setting_and_image_roll_one_by_one(core: Deployment, roll: Roll) -> None:
    refused = {n: outcome for n, outcome in roll.stream.outcomes.items() if n not in roll.stream.accepted}
    assert not refused, roll.stream.summary()
    after = core.fingerprint()
    changed = {service for service in after if after[service] != roll.before.get(service)}
    images = images_of_n8n(core)
    assert images.keys() == roll.images.keys() <= changed
    assert len(set(images.values())) == 1 and not set(images.values()) & set(roll.images.values())
    assert not changed & {"traefik", "openbao", "postgres-n8n", "redis-cache", "redis-queue"}, changed


def test_what_runs_is_finished_before_its_worker_leaves(core: Deployment, roll: Roll) -> None:
    assert len(roll.slow.accepted) == len(roll.slow.outcomes) >= 6, roll.slow.summary()
    wait_until(
        lambda: all(executions_of(core, roll.slow).get(n) == ["success"] for n in roll.slow.accepted),
        "every execution of twenty seconds to succeed",
        seconds=120,
    )
    (workflow,) = core.sql("SELECT id FROM workflow_entity WHERE name = 'Twenty seconds'")
    runs = runs_of(core, workflow[0])
    log = (core.data_root / "state/slots.log").read_text().splitlines()
    acts = [json.loads(line) for line in log]
    rolls = [act for act in acts if act["act"] == "roll" and act["slot"].startswith("worker-")][-2:]
    cut = [
        run.id
        for act in rolls
        for run in runs
        if run.started < datetime.fromisoformat(act["time"]).timestamp() - act["seconds"] < run.stopped - 1
        and f"worker-{worker_of(core, run.id)}" == act["slot"]
    ]
    assert cut, f"no worker was asked to leave while one of them ran: {rolls}"


def test_a_schedule_outlives_main(core: Deployment, roll: Roll) -> None:
    """Every moment comes exactly once, those while main was away included: they are kept in the database."""
    moments = sorted(
        datetime.fromisoformat(run.items("Schedule")[0]["timestamp"]).timestamp() for run in roll.scheduled
    )
    assert moments == [moments[0] + 5 * n for n in range(len(moments))]
    created = core.containers()["n8n-main"].attrs["Created"]
    assert moments[0] < datetime.fromisoformat(created[:19] + "+00:00").timestamp() < moments[-1]
    assert {run.status for run in roll.scheduled} == {"success"}
    assert {worker_of(core, run.id) for run in roll.scheduled} <= {"1", "2"}


# --- kill and restart


def kill_process(core: Deployment, service: str) -> None:
    """SIGKILL to the container's first process, as the kernel sends it: to the engine it ended by itself."""
    os.kill(core.containers()[service].attrs["State"]["Pid"], signal.SIGKILL)


def test_both_halves_of_a_slot_come_back_from_kill_9(core: Deployment) -> None:
    before = core.containers()

    def kill() -> None:
        for service in ("n8n-worker-1", "n8n-runner-1"):
            kill_process(core, service)
            since = core.sql("SELECT now()")[0][0]
            wait_until(
                lambda moment=since: finished_on(core, "One second", "worker-1", moment),
                f"slot 1 to serve a Code node after the kill of {service}",
                seconds=60,
            )

    # Those of a second are at work when the kill comes.
    with NumberedStream(core, "/webhook/second", rate=2) as at_work:
        stream_through(core, kill, all_succeed=False, crashes=True)
    account_for(core, at_work)
    after = core.containers()
    for service in ("n8n-worker-1", "n8n-runner-1"):
        assert after[service].id == before[service].id
        assert after[service].attrs["RestartCount"] > before[service].attrs["RestartCount"]
    for service in ("n8n-worker-2", "n8n-runner-2"):
        assert after[service].attrs["State"]["StartedAt"] == before[service].attrs["State"]["StartedAt"]


@pytest.mark.full
def test_a_queue_that_stands_still_is_said(core: Deployment) -> None:
    workers = [c for service, c in core.containers().items() if service.startswith("n8n-worker-")]
    options = {"data_stores": ["postgres-n8n", "redis-queue"], "workers_minimum": 0, "webhooks_minimum": 1}
    params = options | {"project": core.project, "disk_path": str(core.data_root), "patience": 25}
    params["disk_free_percent_minimum"] = 1

    def queue() -> dict[str, Any]:
        checks = Inspection(params, Engine()).run()
        return next(check for check in checks if check["name"] == "queue")

    for worker in workers:
        worker.pause()
    try:
        # Redis still hands each paused worker as many as it asked for before: its concurrency.
        with NumberedStream(core, "/webhook/ledger", limit=30) as stream:
            wait_until(lambda: len(stream.outcomes) == 30, "thirty requests")
        found = wait_until(lambda: None if (check := queue())["ok"] else check, "the queue to be said", 90)
        assert "none finished within 25 s" in found["detail"]
    finally:
        for worker in workers:
            worker.unpause()
    account_for(core, stream)
    wait_until(lambda: verdict(Inspection(params, Engine()).run())["healthy"], "n8n to be healthy again", 120)


DATA_STORES = ("postgres-n8n", "redis-cache", "redis-queue")


def restart_each(core: Deployment, services: list[str]) -> None:
    """One after the other, as an operator would."""
    assert services
    for service in services:
        core.containers()[service].restart(timeout=120)
        wait_until(lambda s=service: core.healthy(s), f"{service} to be healthy again", seconds=120)


@pytest.mark.full
def test_restart_of_each_container_that_keeps_no_data(core: Deployment) -> None:
    """n8n's, the runners', the edge and OpenBao: what was answered with 2xx succeeds."""
    services = sorted(set(core.containers()) - set(DATA_STORES))
    stream_through(core, lambda: restart_each(core, services), all_succeed=True)


@nightly("half an hour of backlog")
def test_twenty_requests_a_second_through_a_change_and_restarts(core: Deployment) -> None:
    """With thousands waiting in the queue, of which every process that stops has taken some."""

    def act() -> None:
        core.converge(n8n_environment_extra={"N8N_LOG_LEVEL": "warn"})
        restart_each(core, sorted(set(core.containers()) - set(DATA_STORES)))

    stream_through(core, act, all_succeed=True, rate=NIGHTLY_RATE)
    core.converge()


@pytest.mark.full
def test_restart_of_each_data_store(core: Deployment) -> None:
    """What was answered with 2xx is accounted for: an execution may fail that needs the store just then."""
    stream_through(core, lambda: restart_each(core, list(DATA_STORES)), all_succeed=False)


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

    stream_through(core, restart_all, all_succeed=False, crashes=True)
    assert core.run("verify").rc == 0
