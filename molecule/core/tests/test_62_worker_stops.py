"""A worker that is told to stop while it is taking a job."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from docker.models.containers import Container

from tests.support.deployment import Deployment, wait_until
from tests.support.ledger import deploy_test_workflows
from tests.support.stream import NumberedStream, executions_of

# n8n without roles/n8n/files/finish-first.js is gone after one.
PATIENCE_SECONDS = 8


@contextmanager
def locked(core: Deployment, table: str) -> Iterator[None]:
    """Nobody reads the table while the block lasts."""
    container = str(core.containers()["postgres-n8n"].name)
    psql = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "n8n"]
    command = ["docker", "exec", "-i", container, *psql]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin and holder.stdout
        holder.stdin.write(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT 'locked';\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "locked\n"
        yield
        holder.stdin.close()


@contextmanager
def read_only(core: Deployment) -> Iterator[None]:
    """What writes into the queue waits for its answer while the block lasts."""
    core.redis("CLIENT", "PAUSE", "120000", "WRITE")
    try:
        yield
    finally:
        core.redis("CLIENT", "UNPAUSE")


def addresses_of(worker: Container) -> list[str]:
    return [network["IPAddress"] for network in worker.attrs["NetworkSettings"]["Networks"].values()]


@contextmanager
def told_to_stop(worker: Container) -> Iterator[threading.Thread]:
    """The thread that waits for its end; at the end of the block it has ended by itself."""
    stop = threading.Thread(target=worker.stop, kwargs={"timeout": 120})
    stop.start()
    try:
        yield stop
    finally:
        stop.join(150)
    assert not stop.is_alive(), "it does not end"
    worker.reload()
    assert worker.attrs["State"]["ExitCode"] == 0


@pytest.fixture
def only_worker(core: Deployment) -> Iterator[str]:
    """The service of the one worker that takes jobs."""
    deploy_test_workflows(core)
    first, *others = sorted(service for service in core.containers() if service.startswith("n8n-worker-"))
    slots = [first, *others, *(name for name in core.containers() if name.startswith("n8n-runner-"))]
    try:
        for service in others:
            core.containers()[service].stop(timeout=60)
        yield first
    finally:
        for service in slots:
            core.containers(stopped=True)[service].start()
        for service in slots:
            wait_until(lambda s=service: core.healthy(s), f"{service} to be healthy again", 180)


@pytest.mark.parametrize("path", ["/webhook/ledger", "/webhook/second"], ids=["node", "Code node"])
def test_it_finishes_a_job_that_it_has_not_read_yet(core: Deployment, only_worker: str, path: str) -> None:
    worker = core.containers()[only_worker]
    waits = f"""SELECT count(*) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND query LIKE '%execution_entity%'
        AND host(client_addr) = ANY('{{{",".join(addresses_of(worker))}}}')"""
    worker.pause()
    try:
        with NumberedStream(core, path, limit=1) as stream:
            wait_until(lambda: stream.accepted, "the request to be accepted")
        with ExitStack() as stopped, locked(core, "execution_entity"):
            worker.unpause()
            wait_until(lambda: core.sql(waits) != [["0"]], "the worker to read the execution")
            end = stopped.enter_context(told_to_stop(worker))
            end.join(PATIENCE_SECONDS)
            assert end.is_alive(), "it has left its job"
    finally:
        worker.reload()
        if worker.status == "paused":
            worker.unpause()
    wait_until(lambda: executions_of(core, stream) == {0: ["success"]}, "the execution to succeed")


def test_it_finishes_what_comes_with_the_end_of_another(core: Deployment) -> None:
    """A backlog: the answer to the end of one job is the next one, and arrives when the queue has been paused."""
    worker = str(core.containers()["n8n-worker-1"].name)
    program = (Path(__file__).parent / "stopping_worker.js").read_text(encoding="utf-8")
    command = ["docker", "exec", "-i", worker, "node", "-e", program, f"test-{uuid4().hex[:8]}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stopping:
        assert stopping.stdin and stopping.stdout
        assert stopping.stdout.readline() == "processing the first job\n"
        with read_only(core):
            stopping.stdin.write("go on\n")
            stopping.stdin.flush()
            assert stopping.stdout.readline() == "paused\n"
        assert stopping.communicate("go on\n", timeout=60)[0] == "done 1,2\n"
