"""A drill, a restore in place to a moment, and one that is killed: on this environment, by the commands of the docs."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import ROOT, Deployment, wait_until
from tests.support.docs import doc_block
from tests.support.n8n_rest import Editor

INVENTORY = "../molecule/core/inventory"
nightly = pytest.mark.skipif(not os.environ.get("TEST_NIGHTLY"), reason="ten minutes more: make test-nightly")


@pytest.fixture(scope="module")
def backup(core: Deployment) -> Path:
    """The folder of core's backups. Any set will do: what came after it is in the log."""
    folder = core.backup_root
    if not list(folder.glob("runs/*/manifest.json")):
        run = core.run("backup")
        assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])
    return folder


@pytest.fixture(scope="module")
def scratch(core: Deployment) -> Deployment:
    return Deployment(name=f"{core.name}-scratch", inventory=core.inventory, port_base=core.port_base + 100)


@pytest.fixture
def canary(core: Deployment) -> None:
    """A credential whose content only n8n's key opens."""
    body = {"name": "Canary", "type": "httpHeaderAuth", "data": {"name": "X-Canary", "value": "sings"}}
    Editor(core).rest("POST", "/credentials", body)


def for_core(text: str, core: Deployment, **changes: str) -> str:
    """A command of the docs for this environment."""
    text = text.strip().replace("ENV=production", f"ENV={INVENTORY}")
    text = text.replace("platform_confirm=production", f"platform_confirm={core.name}")
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def start(command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "-euc", f"exec {command}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def succeeds(command: str) -> str:
    process = start(command)
    output, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, output[-6000:]
    return output


def killed(command: str, when: Callable[[], Any], what: str) -> None:
    """Starts a command and kills it as soon as `when` is true."""
    process = start(command)
    try:
        wait_until(lambda: when() or process.poll() is not None, what, 900, every=0.2)
        assert process.poll() is None, process.communicate()[0][-6000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def refused(command: str) -> str:
    process = start(command)
    output, _ = process.communicate(timeout=900)
    assert process.returncode != 0
    return output


def executions(core: Deployment) -> set[str]:
    return {row[0] for row in core.sql("SELECT id FROM execution_entity WHERE status = 'success'")}


def now(core: Deployment) -> str:
    """The database's clock, which a point in time is compared with."""
    ((text,),) = core.sql(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    )
    return text


def sets(folder: Path) -> dict[str, str]:
    """Every file of the repositories but the archive of the source, which goes on, and its digest."""
    paths = [
        *(folder / "restic").rglob("*"),
        *(folder / "pgbackrest/backup").rglob("*"),
        *(folder / "runs").rglob("*"),
    ]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.is_file() and not path.is_symlink() and "/locks/" not in str(path)
    }


class Polled(threading.Thread):
    """Repeats `look` each `every` seconds while the block lasts; `failures` holds what it raised."""

    def __init__(self, every: float) -> None:
        super().__init__(daemon=True)
        self.every = every
        self.failures: list[str] = []
        self._over = threading.Event()

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(60)

    def run(self) -> None:
        while not self._over.wait(self.every):
            try:
                self.look()
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")

    def look(self) -> None:
        raise NotImplementedError


class Copy(Polled):
    """What the copy is like while it lives; while it comes and goes a look may fail."""

    def __init__(self, scratch: Deployment, targets: dict[str, tuple[str, int]]) -> None:
        super().__init__(1)
        self.scratch = scratch
        self.targets = targets
        self.networks: set[str] = set()
        self.open_networks: set[str] = set()
        self.settings: dict[str, str] = {}
        self.published: set[str] = set()
        self.reached: dict[str, set[str]] = {}

    def look(self) -> None:
        containers = self.scratch.containers()
        label = {"label": f"com.docker.compose.project={self.scratch.project}"}
        for network in self.scratch.engine.networks.list(filters=label):
            name = str(network.attrs["Labels"]["com.docker.compose.network"])
            members = {
                service
                for service, container in containers.items()
                if str(network.name) in container.attrs["NetworkSettings"]["Networks"]
            }
            if any(service.startswith("n8n-") for service in members):
                self.networks.add(name)
                self.open_networks |= set() if network.attrs["Internal"] else {name}
        if "n8n-main" in containers:
            self.published |= {
                row[0] for row in self.scratch.sql("SELECT name FROM workflow_entity WHERE active")
            }
        for service in {"n8n-main", "n8n-worker-1", "n8n-webhook-1"} & set(containers) - set(self.reached):
            self.settings |= dict(
                self.scratch.sql("SELECT name, setting FROM pg_settings WHERE name LIKE 'archive_%'")
            )
            self.reached[service] = reached(containers[service], self.targets)


CONNECT = """
const [, ...targets] = process.argv;
for (const target of targets) {
  const [name, host, port] = target.split(' ');
  const socket = require('net').connect({host, port: Number(port)});
  const end = (word) => { if (word) console.log(name); socket.destroy(); };
  socket.setTimeout(3000, () => end());
  socket.on('connect', () => end(true)).on('error', () => end());
}
"""


def reached(container: Any, targets: dict[str, tuple[str, int]]) -> set[str]:
    """Those of `targets` that take a connection from inside the container."""
    argv = ["node", "-e", CONNECT, *(f"{name} {host} {port}" for name, (host, port) in targets.items())]
    code, output = container.exec_run(argv)
    assert code == 0, output.decode()
    return set(output.decode().split())


@pytest.fixture
def outside(core: Deployment) -> Iterator[dict[str, tuple[str, int]]]:
    """What n8n of the source reaches: its database, and a port of this machine."""
    bridge = core.engine.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
    networks = core.containers()["postgres-n8n"].attrs["NetworkSettings"]["Networks"]
    database = networks[f"{core.project}_data"]["IPAddress"]
    with socket.create_server((bridge, 0)) as server:
        targets = {"host": (bridge, server.getsockname()[1]), "database": (database, 5432)}
        assert reached(core.containers()["n8n-main"], targets) == set(targets)
        yield {**targets, "internet": ("1.1.1.1", 443)}


def drilled(core: Deployment) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((core.data_root / "state/backup-state.json").read_text())["drill"]
    return found


def test_a_drill_restores_compares_decrypts_and_leaves_nothing(
    core: Deployment,
    scratch: Deployment,
    backup: Path,
    canary: None,
    outside: dict[str, tuple[str, int]],
) -> None:
    assert core.smoke()[0] == 200
    before, runs = sets(backup), core.fingerprint()
    with Copy(scratch, outside) as copy:
        output = succeeds(for_core(doc_block("drill"), core))
    assert core.fingerprint() == runs
    assert sets(backup) == before, "a drill writes nothing into the repositories"
    assert "sings" not in output
    drill = drilled(core)
    assert drill["ok"] is True and drill["seconds"] > 0 and drill["loss_seconds"] >= 0
    assert "last_drill_ok" in (core.data_root / "state/metrics/backup.prom").read_text()
    assert copy.networks and copy.open_networks == set(), "no n8n process of the copy has a way out"
    everybody = {"n8n-main": set(), "n8n-worker-1": set(), "n8n-webhook-1": set()}
    assert copy.reached == everybody, copy.failures
    assert copy.settings["archive_command"] in ("", "/bin/true"), "the copy archives nothing"
    assert copy.published <= {"Platform smoke test"}, "no trigger of the source fires in the copy"
    assert scratch.containers(stopped=True) == {} and not scratch.data_root.exists()


class Sender(Polled):
    """Somebody who goes on calling a webhook."""

    def __init__(self, core: Deployment) -> None:
        super().__init__(0.5)
        self.core = core
        self.answers: list[tuple[int, str]] = []

    def look(self) -> None:
        status, headers = self.core.smoke()
        self.answers.append((status, headers.get("retry-after", "")))


def test_deleted_rows_are_back_senders_may_try_again_and_what_came_later_is_accounted_for(
    core: Deployment, backup: Path
) -> None:
    assert core.smoke()[0] == 200
    wait_until(lambda: executions(core), "the execution to be saved")
    before = executions(core)
    moment = now(core)
    core.sql("DELETE FROM execution_entity")
    assert executions(core) == set()
    command = for_core(doc_block("restore-in-place"), core, **{"2026-11-22T10:00:00Z": moment})
    with Sender(core) as sender:
        output = succeeds(command)
    assert before <= executions(core), output[-2000:]
    assert sender.failures == [], "the edge answers all the time"
    assert {status for status, _ in sender.answers} == {200, 503}
    assert all(retry.isdigit() for status, retry in sender.answers if status == 503)
    assert core.smoke()[0] == 200
    (report,) = sorted((backup / "restores").glob("*/lost-jobs.json"))[-1:]
    lost = json.loads(report.read_text())
    assert set(lost) == {"version", "created", "executions", "jobs"}
    assert not (core.data_root / "state/restore.json").exists()
    assert not (core.data_root / "state/recovery").exists()
    verified = core.run("verify")
    assert verified.rc == 0, verified.failures()


@pytest.mark.full
def test_a_restore_killed_on_the_way_leaves_the_former_state_runnable(core: Deployment, backup: Path) -> None:
    before = executions(core)
    command = for_core(doc_block("restore-in-place"), core, **{"2026-11-22T10:00:00Z": now(core)})
    # Stopped for the switch: the moment at which most is open.
    killed(command, lambda: "n8n-main" not in core.containers(), "n8n to be stopped")
    status, headers = core.smoke()
    assert status == 503 and headers["retry-after"].isdigit()
    succeeds(for_core(doc_block("restore-back"), core))
    assert before <= executions(core)
    assert core.smoke()[0] == 200
    assert not (core.data_root / "state/restore.json").exists()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ("-e restore_target=in_place", "platform_confirm"),
        ("-e restore_time=2020-01-01T00:00:00Z", "before the end of the first backup"),
        pytest.param("-e restore_time=2026-11-22T10:00:00", "has no zone", marks=pytest.mark.full),
        pytest.param("-e restore_run=20200101T000000Z", "there is no run", marks=pytest.mark.full),
    ],
)
def test_what_cannot_be_restored_is_refused_and_nothing_is_touched(
    core: Deployment, scratch: Deployment, backup: Path, variables: str, says: str
) -> None:
    before = core.fingerprint()
    assert says in refused(f"make restore ENV={INVENTORY} ARGS='{variables}'")
    assert core.fingerprint() == before
    assert scratch.containers(stopped=True) == {} and not scratch.data_root.exists()
    assert not (core.data_root / "state/restore.json").exists()


def databases(core: Deployment) -> set[str]:
    return {row[0] for row in core.sql("SELECT datname FROM pg_database WHERE NOT datistemplate")}


@nightly
def test_from_a_logical_restore_there_is_a_way_back_after_its_switch(core: Deployment, backup: Path) -> None:
    manifests = [json.loads(path.read_text()) for path in sorted(backup.glob("runs/*/manifest.json"))]
    run = [made["run"] for made in manifests if "dump-n8n" in {item["name"] for item in made["items"]}][-1]
    assert core.smoke()[0] == 200
    wait_until(lambda: executions(core), "the execution to be saved")
    before = executions(core)
    options = f"-e platform_confirm={core.name} -e restore_kind=logical -e restore_run={run}"
    command = f"make restore ENV={INVENTORY} ARGS='-e restore_target=in_place {options}'"
    record = core.data_root / "state/recovery/dump-n8n.json"
    switched = lambda: record.exists() and json.loads(record.read_text()).get("former")  # noqa: E731
    killed(command, switched, "the databases to be switched")
    assert "n8n_before_restore" in databases(core)
    succeeds(for_core(doc_block("restore-back"), core))
    assert databases(core) == {"n8n", "postgres"}
    assert before <= executions(core)
    assert core.smoke()[0] == 200

    succeeds(command)
    assert not before <= executions(core), "the dump is older than the last execution"
    assert core.smoke()[0] == 200
    assert databases(core) == {"n8n", "n8n_before_restore", "postgres"}


@nightly
def test_a_copy_from_the_bucket_goes_on_where_it_was_killed(
    core: Deployment, scratch: Deployment, backup: Path, outside: dict[str, tuple[str, int]]
) -> None:
    if not json.loads((core.data_root / "state/backup.json").read_text()).get("s3"):
        pytest.skip("this environment has no bucket")
    before, runs = sets(backup), core.fingerprint()
    command = f"make restore ENV={INVENTORY} ARGS='-e restore_from=s3 %s'"
    fetched = scratch.data_root / "state/recovery/steps/fetched"
    try:
        killed(command % "", fetched.exists, "the files to be fetched")
        said = refused(command % "-e restore_time=2026-11-22T10:00:00Z")
        assert "restore_time: " in said and "was begun" in said
        succeeds(command % "")
        assert reached(scratch.containers()["n8n-main"], outside) == set()
        assert executions(core) <= executions(scratch)
    finally:
        succeeds(command % "-e restore_target=remove")
    assert scratch.containers(stopped=True) == {} and not scratch.data_root.exists()
    assert (sets(backup), core.fingerprint()) == (before, runs)
