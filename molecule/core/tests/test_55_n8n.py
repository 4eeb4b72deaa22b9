"""What n8n does and refuses to do: seen from its editor, its webhooks, its database and inside its containers."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.deployment import ROOT, Deployment, wait_until
from tests.support.docs import doc_block
from tests.support.n8n_rest import (
    Editor,
    Execution,
    Node,
    Refused,
    address,
    code,
    events_of,
    execute,
    node,
    webhook,
    worker_of,
)

N8N = ("n8n-main", "n8n-webhook-1", "n8n-worker-1")
DOUBLE = "return [{json: {twice: 2 * $input.first().json.number}}];"


@contextmanager
def published(editor: Editor, *nodes: Node) -> Iterator[tuple[dict[str, Any], Callable[[Any], None]]]:
    """A published webhook workflow, and a function that calls it through the edge with a body."""
    path = f"test-{uuid4().hex}"

    def call(body: Any) -> None:
        sent = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        wait_until(
            lambda: (
                editor.deployment.request("POST", f"/webhook/{path}", body=sent, headers=headers)[0] == 200
            ),
            "the webhook to be taken",
        )

    with editor.workflow(*nodes, trigger=webhook(path)) as workflow:
        editor.publish(workflow)
        yield workflow, call


def executions(editor: Editor, workflow: dict[str, Any], count: int) -> list[Execution]:
    """The workflow's executions, oldest first, once there are `count` and all have ended."""
    query = f"SELECT id FROM execution_entity WHERE \"workflowId\" = '{workflow['id']}' ORDER BY id"
    rows = wait_until(
        lambda: rows if len(rows := editor.deployment.sql(query)) == count else None, f"{count} executions"
    )
    return [editor.finished(identifier) for (identifier,) in rows]


# --- executions


def test_a_manual_run_is_executed_by_a_worker_and_saved(core: Deployment, editor: Editor) -> None:
    run = editor.run(
        node("Input", "set", 3.4, mode="raw", jsonOutput='{"number": 21}', options={}), code(DOUBLE)
    )
    assert (run.status, run.mode) == ("success", "manual"), run.error
    assert f"n8n-worker-{worker_of(core, run.id)}" in core.containers()
    assert events_of(core, run.id)["n8n.node.finished"].startswith("worker-")
    assert run.items("Input") == [{"number": 21}]
    assert run.items("Code") == [{"twice": 42}]


def test_production_runs_are_saved_whether_good_or_bad(core: Deployment, editor: Editor) -> None:
    fragile = (
        "if ($json.body.bad) throw new Error('deliberate'); return {json: {twice: 2 * $json.body.number}};"
    )
    step = node("Code", "code", 2, mode="runOnceForEachItem", jsCode=fragile)
    with published(editor, step) as (workflow, call):
        call({"number": 21})
        call({"bad": True})
        good, bad = executions(editor, workflow, 2)
    assert (good.status, good.mode) == ("success", "webhook"), good.error
    assert good.items("Webhook")[0]["body"] == {"number": 21}
    assert good.items("Code") == [{"twice": 42}]
    assert bad.status == "error"
    assert bad.items("Webhook")[0]["body"] == {"bad": True}
    assert "deliberate" in bad.error
    for run in (good, bad):
        assert events_of(core, run.id)["n8n.queue.job.enqueued"].startswith("webhook-")
        assert worker_of(core, run.id)


def test_a_workflows_own_limit_ends_its_execution(editor: Editor) -> None:
    endless = code("await new Promise((done) => setTimeout(done, 600000)); return [];")
    with editor.workflow(endless, executionTimeout=3) as workflow:
        run = editor.finished(editor.start(workflow), seconds=30)
    assert run.status == "canceled", run.error


# --- pruning

SOFT_DELETE = """
process.chdir('/usr/local/lib/n8n/node_modules/n8n');
const from = (name) => require(require.resolve(name, {paths: [process.cwd()]}));
from('reflect-metadata');
from('./dist/config');
const {Container} = from('@n8n/di');
const {DbConnection} = from('@n8n/db');
const {ExecutionsPruningService} = from('./dist/services/pruning/executions-pruning.service');
const database = Container.get(DbConnection);
database.init()
  .then(() => Container.get(ExecutionsPruningService).softDelete())
  .then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
"""


def test_pruning_goes_by_age_and_not_by_count(core: Deployment, editor: Editor) -> None:
    """n8n's own pruning code on 10 001 young executions and one of 169 h.

    n8n runs it every hour and at no other occasion, so a second process inside the main container calls it, with
    the settings and the database of the running one.
    """
    with editor.workflow(code("return [];")) as workflow:

        def insert(count: int, age: str) -> None:
            core.sql(
                'WITH made AS (INSERT INTO execution_entity (finished, mode, "startedAt", "stoppedAt", status,'
                f" \"workflowId\", \"createdAt\") SELECT true, 'webhook', moment, moment, 'success',"
                f" '{workflow['id']}', moment FROM (SELECT now() - interval '{age}' AS moment) AS m,"
                f" generate_series(1, {count}) RETURNING id)"
                ' INSERT INTO execution_data ("executionId", "workflowData", data)'
                " SELECT id, '{}', '[]' FROM made"
            )

        insert(10_001, "1 hour")
        insert(1, "167 hours")
        insert(1, "169 hours")
        execute(core, "n8n-main", "node", "-e", SOFT_DELETE)
        left = core.sql(
            'SELECT count(*) FILTER (WHERE "deletedAt" IS NULL AND "stoppedAt" > now() - interval \'168 hours\'),'
            ' count(*) FILTER (WHERE "deletedAt" IS NULL AND "stoppedAt" < now() - interval \'168 hours\'),'
            f" count(*) FROM execution_entity WHERE \"workflowId\" = '{workflow['id']}'"
        )
        core.sql(f"DELETE FROM execution_entity WHERE \"workflowId\" = '{workflow['id']}'")
    assert left == [["10002", "0", "10003"]]
    settings = core.environment("n8n-main")
    assert (settings["EXECUTIONS_DATA_PRUNE"], settings["EXECUTIONS_DATA_MAX_AGE"]) == ("true", "168")


# --- files


@pytest.mark.parametrize("service", N8N)
def test_scripts_are_readable_and_not_writable(core: Deployment, service: str) -> None:
    script = core.data_root / "volumes/n8n-scripts" / f"probe-{uuid4().hex}.sh"
    script.write_text("echo of the host\n")
    os.chown(script, 1000, 1000)  # so that it is the mount that refuses, not the file's mode
    try:
        inside = f"/root/.n8n/scripts/{script.name}"
        assert execute(core, service, "id", "-u").strip() == "1000"
        assert execute(core, service, "bash", inside).strip() == "of the host"
        refused = execute(core, service, "bash", "-c", f"echo changed >> {inside}", code=1)
        assert "Read-only file system" in refused
    finally:
        script.unlink()


@pytest.mark.parametrize("folder", ["/data/exports", "/data/files", "/home/node/.n8n"])
def test_what_main_writes_lies_in_the_environments_volumes(core: Deployment, folder: str) -> None:
    """A bind mount of the host's folder: a container that is made anew finds what the former one wrote."""
    volume = {"data": "n8n-data", "home": "n8n-home"}[folder.split("/")[1]]
    inside = f"{folder}/probe-{uuid4().hex}"
    execute(core, "n8n-main", "bash", "-c", f"echo kept > {inside}")
    try:
        found = list((core.data_root / "volumes" / volume).rglob(Path(inside).name))
        assert [path.read_text() for path in found] == ["kept\n"]
        if volume == "n8n-data":
            assert execute(core, "n8n-worker-2", "cat", inside) == "kept\n"
    finally:
        execute(core, "n8n-main", "rm", inside)


# --- image


def test_the_image_has_what_the_platform_promises(core: Deployment) -> None:
    container = core.containers()["n8n-main"]
    imported = "import sys, redis, boto3; assert sys.version_info >= (3, 13), sys.version"
    execute(core, "n8n-main", "python3", "-c", imported)
    assert execute(core, "n8n-main", "curl", "--version").startswith("curl ")
    assert int(execute(core, "n8n-main", "cat", "/etc/debian_version").split(".")[0]) >= 13
    assert container.image.attrs["Config"]["User"] == "1000:1000"
    assert container.image.attrs["Config"]["Healthcheck"]["Test"]


def test_the_list_of_variables_is_what_the_installed_n8n_reads(core: Deployment, tmp_path: Path) -> None:
    """The documented command reads the package in the image; the committed list is what it makes of it."""
    places = {
        "<image>": str(core.containers()["n8n-main"].attrs["Config"]["Image"]),
        "roles/n8n/files": str(tmp_path),
    }
    command = doc_block("n8n-environment").replace("<version>", "made")
    for written, here in places.items():
        command = command.replace(written, here)
    subprocess.run(["bash", "-euc", command], cwd=ROOT, check=True)
    made = json.loads((tmp_path / "environment-made.json").read_text(encoding="utf-8"))
    committed = ROOT / f"roles/n8n/files/environment-{made['version']}.json"
    assert made == json.loads(committed.read_text(encoding="utf-8"))


# --- metrics

ON_MAIN = (
    "n8n_workflow_started_total",
    "n8n_workflow_success_total",
    "n8n_workflow_failed_total",
    "n8n_workflow_execution_duration_seconds_count",
    "n8n_scaling_mode_queue_jobs_waiting",
    "n8n_scaling_mode_queue_jobs_active",
    "n8n_scaling_mode_queue_jobs_completed",
    "n8n_queue_job_enqueued_total",
    "n8n_audit_workflow_executed_total",
    "n8n_cache_hits_total",
    "n8n_cache_misses_total",
    "n8n_db_pool_connections_active",
    "n8n_db_pool_connections_max",
    "n8n_http_request_duration_seconds_count",
    "n8n_process_resident_memory_bytes",
)
# A webhook processor counts the executions it has put into the queue, main those of its editor and schedules.
ON_WEBHOOK = (
    "n8n_workflow_success_total",
    "n8n_workflow_failed_total",
)
# Labelled with the path that a caller asks for: anybody could add series without end.
NOWHERE = "n8n_webhook_request_duration_seconds_count"
ON_WORKER = ("n8n_queue_job_dequeued_total", "n8n_node_finished_total", "n8n_db_pool_connections_max")


def samples(core: Deployment, service: str) -> dict[str, float]:
    """Metric -> sum over its labels, of one n8n process."""
    text = execute(core, service, "curl", "-fsS", "http://127.0.0.1:5678/metrics")
    summed: dict[str, float] = {}
    for name, value in re.findall(r"^(n8n_\w+)(?:\{.*\})? (\S+)$", text, re.MULTILINE):
        summed[name] = summed.get(name, 0.0) + float(value)
    return summed


def test_metrics_after_one_good_and_one_failing_run(core: Deployment, editor: Editor) -> None:
    def counted(*services: str) -> dict[str, float]:
        total: dict[str, float] = {}
        for service in services:
            for name, value in samples(core, service).items():
                total[name] = total.get(name, 0.0) + value
        return total

    webhooks = [service for service in core.containers() if service.startswith("n8n-webhook-")]
    workers = [service for service in core.containers() if service.startswith("n8n-worker-")]
    before, before_webhooks = counted("n8n-main"), counted(*webhooks)
    assert editor.run(code("return [];")).status == "success"
    assert editor.run(code("throw new Error('deliberate');")).status == "error"
    failing = code("if ($input.first().json.body.bad) throw new Error('deliberate'); return [];")
    with published(editor, failing) as (workflow, call):
        call({})
        call({"bad": True})
        executions(editor, workflow, 2)
        after, after_webhooks = counted("n8n-main"), counted(*webhooks)
    assert not [name for name in ON_MAIN if name not in after]
    assert not [name for name in ON_WEBHOOK if name not in after_webhooks]
    assert NOWHERE not in after_webhooks
    assert not [name for name in ON_WORKER if name not in counted(*workers)]
    for name in ("n8n_workflow_success_total", "n8n_workflow_failed_total"):
        assert after[name] - before.get(name, 0) == 1, name
        assert after_webhooks[name] - before_webhooks.get(name, 0) == 1, name
    assert after["n8n_db_pool_connections_max"] == 4
    assert after["n8n_process_resident_memory_bytes"] > 0


# --- isolation

CONNECT = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 2).close()
        print(target)
    except OSError:
        pass
"""


@pytest.fixture
def service_of_the_host() -> Iterator[int]:
    """The port of something that listens on all of the host's addresses."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 3).close()
        yield port


def host_by_its_slot(core: Deployment, slot: str) -> str:
    """The host as the network of a slot has it: an internal network has no way out, but a first address."""
    network = core.engine.networks.get(f"{core.project}_slot-{slot}")
    return str(next(ip_network(network.attrs["IPAM"]["Config"][0]["Subnet"]).hosts()))


@pytest.mark.parametrize("slot", ["1", "2"])
def test_a_runner_reaches_its_own_workers_broker_and_nothing_else(
    core: Deployment, slot: str, service_of_the_host: int
) -> None:
    other = {"1": "2", "2": "1"}[slot]
    # Every address of every container, whatever network it is on, and the same by name.
    ports = {"postgres-n8n": 5432, "redis-queue": 6379, "openbao": 8200, "traefik": 8443}
    targets = {
        f"{host}:{port}"
        for service, container in core.containers().items()
        for network in container.attrs["NetworkSettings"]["Networks"].values()
        for host in (service, network["IPAddress"])
        for port in (ports.get(service, 5678), 5679)
        if not service.startswith("n8n-runner-")
    }
    gateway = core.engine.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
    outside = {
        f"{gateway}:{core.https_port}",
        f"{gateway}:22",
        f"{host_by_its_slot(core, slot)}:{service_of_the_host}",
        "1.1.1.1:443",
        "8.8.8.8:53",
        "169.254.169.254:80",
    }
    own = {f"n8n-worker-{slot}", address(core, f"n8n-worker-{slot}", f"slot-{slot}")}
    assert f"n8n-worker-{other}:5679" in targets
    answering = set(execute(core, f"n8n-runner-{slot}", "python3", "-c", CONNECT, *targets, *outside).split())
    assert {f"{host}:5679" for host in own} <= answering
    # The worker's own health and metrics port is on its one network with the runner.
    assert answering <= {f"{host}:{port}" for host in own for port in (5678, 5679)}


METADATA = "http://169.254.169.254/latest/meta-data/"
FORBIDDEN = (
    METADATA,
    "http://redis-queue:6379/",
    "http://postgres-n8n:5432/",
    "http://n8n-main:5678/metrics",
    "http://localhost:5679/",
    "http://[::ffff:127.0.0.1]:5678/",
    "http://0x7f000001:5678/",
)


def test_requests_to_inner_addresses_are_refused(core: Deployment, editor: Editor) -> None:
    redis = f"http://{address(core, 'redis-queue', 'data')}:6379/"

    def attempt(url: str) -> tuple[str, bool]:
        run = editor.run(node("HTTP Request", "httpRequest", 4.2, url=url, options={"timeout": 5000}))
        return run.status, "Server-Side Request Forgery" in run.error

    with ThreadPoolExecutor(max_workers=4) as pool:
        urls = (*FORBIDDEN, redis)
        outcomes = dict(zip(urls, pool.map(attempt, urls), strict=True))
    assert outcomes == dict.fromkeys(outcomes, ("error", True))


def test_users_code_sees_no_environment_and_no_modules(editor: Editor) -> None:
    denied = "access to env vars denied"
    assert denied in editor.run(code("return [{json: {host: $env.DB_POSTGRESDB_HOST}}];")).error
    expression = "={{ JSON.stringify({host: $env.DB_POSTGRESDB_HOST}) }}"
    assert denied in editor.run(node("Set", "set", 3.4, mode="raw", jsonOutput=expression, options={})).error
    assert "disallowed" in editor.run(code("return [{json: {root: require('fs').readdirSync('/')}}];")).error
    escape = "return [{json: {process: (function () {}).constructor('return typeof process')()}}];"
    assert editor.run(code(escape)).items("Code") == [{"process": "undefined"}]


def test_files_outside_the_allowed_folder_are_refused(core: Deployment, editor: Editor) -> None:
    files, exports = core.data_root / "volumes/n8n-data/files", core.data_root / "volumes/n8n-data/exports"
    allowed, link = files / f"{uuid4().hex}.txt", files / f"{uuid4().hex}.link"
    beside = exports / f"{uuid4().hex}.txt"
    for file in (allowed, beside):
        file.write_text("words")
    link.symlink_to("/run/secrets/n8n_encryption_key")

    def read(path: str) -> Execution:
        return editor.run(node("Read", "readWriteFile", 1, operation="read", fileSelector=path, options={}))

    try:
        assert read(f"/data/files/{allowed.name}").status == "success"
        for path in (
            "/run/secrets/n8n_encryption_key",
            "/home/node/.n8n/config",
            f"/data/exports/{beside.name}",
            "/data/files/../../run/secrets/n8n_encryption_key",
            f"/data/files/{link.name}",
        ):
            run = read(path)
            assert run.status == "error", path
            assert "not allowed" in run.error, (path, run.error)
    finally:
        for file in (allowed, beside, link):
            file.unlink()


@pytest.mark.parametrize("kind", ["executeCommand", "localFileTrigger", "ssh", "git"])
def test_excluded_nodes_neither_run_nor_get_published(editor: Editor, kind: str) -> None:
    excluded = node("Excluded", kind, command="id")
    with (
        editor.workflow(excluded) as workflow,
        pytest.raises(Refused, match=f"Unrecognized node type: n8n-nodes-base.{kind}"),
    ):
        editor.start(workflow)
    with editor.workflow(excluded, trigger=webhook(uuid4().hex)) as workflow, pytest.raises(Refused):
        editor.publish(workflow)
