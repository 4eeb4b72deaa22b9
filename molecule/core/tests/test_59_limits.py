"""What one execution can do to the others: it takes its own end, and leaves the rest of the platform alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.deployment import Deployment, wait_until
from tests.support.depth import nightly, smoke_and_full
from tests.support.ledger import deploy_test_workflows
from tests.support.n8n_rest import Editor, code, worker_of
from tests.support.stream import NumberedStream, executions_of

READY = "http://127.0.0.1:5678/healthz/readiness"
PROCESSES = ("n8n-main", "n8n-webhook-1", "n8n-worker-1")
ENDLESS = {
    "objects": "const kept = []; for (;;) kept.push(new Array(100000).fill(kept.length));",
    "buffers": "const kept = []; for (;;) kept.push(Buffer.alloc(8 * 1024 * 1024, 1));",
    "output": "const all = []; for (;;) all.push({json: {text: 'x'.repeat(100000) + all.length}});",
}
# More than two cores execute: the queue is never empty.
PER_SECOND = 15
SLOW = "await new Promise((done) => setTimeout(done, 8000)); return [{json: {done: true}}];"


def returned(mib: int) -> str:
    return f"return [{{json: {{text: 'x'.repeat({mib} * 1024 * 1024)}}}}];"


@pytest.mark.parametrize("kind", smoke_and_full(["objects", "buffers", "output"], ["objects"]))
def test_endless_allocation_fails_its_own_execution_only(core: Deployment, editor: Editor, kind: str) -> None:
    """The runner may die of it, with the Code nodes that it has, and comes back; the other slot does not notice, the
    worker stays."""
    before, killed_before = core.fingerprint(), core.killed_for_memory()
    with editor.workflow(code(ENDLESS[kind])) as endless, editor.workflow(code("return [];")) as short:
        identifier = editor.start(endless)
        slot = worker_of(core, identifier)
        with ThreadPoolExecutor(max_workers=6) as pool:
            beside = list(pool.map(lambda _: editor.finished(editor.start(short)), range(6)))
        assert editor.finished(identifier, seconds=120).status == "error"
        elsewhere = [run for run in beside if worker_of(core, run.id) != slot]
        assert elsewhere, "no parallel execution on another slot"
        assert {run.status for run in elsewhere} == {"success"}

        def served_again() -> bool:
            run = editor.finished(editor.start(short))
            return worker_of(core, run.id) == slot and run.status == "success"

        wait_until(served_again, f"slot {slot} to serve a Code node again", seconds=60)
    after = core.fingerprint()
    changed = {service for service in before if after.get(service) != before[service]}
    assert changed <= {f"n8n-runner-{slot}"}
    assert core.killed_for_memory() - killed_before <= {f"n8n-runner-{slot}"}


@pytest.mark.parametrize("mib", smoke_and_full([33, 60, 140], [60]))
def test_too_large_a_result_fails_its_own_execution_only(core: Deployment, editor: Editor, mib: int) -> None:
    """Not even the Code nodes that its own runner executes at the same time notice."""
    before = core.fingerprint()
    with editor.workflow(code(SLOW)) as slow, editor.workflow(code(returned(mib))) as large:
        beside = [editor.start(slow) for _ in range(6)]
        slots = {worker_of(core, identifier) for identifier in beside}
        identifier = editor.start(large)
        failed = editor.finished(identifier, seconds=60)
        assert failed.status == "error"
        assert f"{mib + 1} MiB, 32 are allowed (n8n_workers_payload_max_mib)" in failed.error
        assert worker_of(core, identifier) in slots, "nothing ran beside it on its slot"
        assert [editor.finished(run).status for run in beside] == ["success"] * len(beside)
    assert core.fingerprint() == before


def test_a_result_below_the_limit_is_saved(core: Deployment, editor: Editor) -> None:
    before = core.fingerprint()
    assert editor.run(code(returned(31)), seconds=120).status == "success"
    assert core.fingerprint() == before


@nightly("ten minutes of load")
def test_workers_that_are_full_for_ten_minutes_keep_within_their_memory(core: Deployment) -> None:
    """Two workers with a concurrency of ten each, executions of a second and more."""
    deploy_test_workflows(core)
    killed_before = core.killed_for_memory()
    with NumberedStream(core, "/webhook/second", rate=PER_SECOND, limit=600 * PER_SECOND) as stream:
        wait_until(lambda: len(stream.outcomes) == 600 * PER_SECOND, "ten minutes of requests", 900, every=5)
    succeeded = {number: ["success"] for number in range(600 * PER_SECOND)}
    wait_until(lambda: executions_of(core, stream) == succeeded, "all of them to succeed", 900, every=5)
    assert core.killed_for_memory() == killed_before


def test_readiness_follows_the_database(core: Deployment, editor: Editor) -> None:
    before = core.fingerprint()
    probes = {service: ready_probe(core, service) for service in PROCESSES}
    postgres = core.containers()["postgres-n8n"]
    assert {service: probe() for service, probe in probes.items()} == dict.fromkeys(PROCESSES, 200)
    postgres.pause()
    try:
        for service, probe in probes.items():
            wait_until(lambda p=probe: p() == 503, f"{service} to say 503", seconds=45)
    finally:
        postgres.unpause()
    for service, probe in probes.items():
        wait_until(lambda p=probe: p() == 200, f"{service} to be ready again", seconds=60)
    wait_until(lambda: all(map(core.healthy, core.containers())), "every container to be healthy", seconds=60)
    assert core.fingerprint() == before
    assert editor.run(code("return [];")).status == "success"


def ready_probe(core: Deployment, service: str) -> Callable[[], int]:
    """Asks for readiness from inside the container, as its health check does: the status, 0 without an answer."""
    container = core.containers()[service]

    def probe() -> int:
        command = ["curl", "-s", "-m", "4", "-o", "/dev/null", "-w", "%{http_code}", READY]
        return int(container.exec_run(command).output.decode())

    return probe
