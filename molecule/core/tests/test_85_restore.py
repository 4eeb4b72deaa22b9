"""A drill, a restore in place to a moment, and one that is killed: on this environment, by the commands of the docs."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import ROOT, Deployment, wait_until
from tests.support.docs import doc_block
from tests.support.n8n_rest import Editor

pytestmark = pytest.mark.skipif(
    not os.environ.get("TEST_NIGHTLY"),
    reason="each step was seen to work by hand on another environment, this file was not yet run as it stands: "
    "make test-nightly",
)

SMOKE = json.dumps({"numbers": [1, 2, 3]}).encode()
INVENTORY = "../molecule/core/inventory"


@pytest.fixture(scope="module")
def backup(core: Deployment) -> Path:
    """The folder of core's backups, with a run that is younger than what the tests of this file look for."""
    run = core.run("backup")
    assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])
    return Path("/var/backups/n8n-platform") / core.name


@pytest.fixture(scope="module")
def scratch(core: Deployment) -> Deployment:
    return Deployment(name=f"{core.name}-scratch", inventory=core.inventory, port_base=core.port_base + 100)


@pytest.fixture(scope="module")
def canary(core: Deployment) -> Iterator[str]:
    """A credential whose content only n8n's key opens."""
    editor = Editor(core)
    body = {"name": "Canary", "type": "httpHeaderAuth", "data": {"name": "X-Canary", "value": "sings"}}
    made = editor.rest("POST", "/credentials", body)
    yield made["id"]


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


def call(core: Deployment) -> int:
    headers = {"Content-Type": "application/json"}
    return core.request("POST", "/webhook/platform-smoke", body=SMOKE, headers=headers)[0]


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


class Watch:
    """What the copy is like while it lives."""

    def __init__(self, scratch: Deployment) -> None:
        self.scratch = scratch
        self.open_networks: set[str] = set()
        self.settings: dict[str, str] = {}
        self.published: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _look(self) -> None:
        while not self._over.wait(1):
            try:
                self._once()
            except Exception as error:  # it comes and goes while we look
                self.error = error

    def _once(self) -> None:
        label = {"label": f"com.docker.compose.project={self.scratch.project}"}
        containers = self.scratch.containers()
        for network in self.scratch.engine.networks.list(filters=label):
            name = str(network.attrs["Labels"]["com.docker.compose.network"])
            members = {
                service
                for service, container in containers.items()
                if str(network.name) in container.attrs["NetworkSettings"]["Networks"]
            }
            if not network.attrs["Internal"] and any(service.startswith("n8n-") for service in members):
                self.open_networks.add(name)
        if "n8n-main" in containers:
            self.settings |= dict(
                self.scratch.sql("SELECT name, setting FROM pg_settings WHERE name LIKE 'archive_%'")
            )
            self.published |= {
                row[0] for row in self.scratch.sql("SELECT name FROM workflow_entity WHERE active")
            }


def drilled(core: Deployment) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((core.data_root / "state/backup-state.json").read_text())["drill"]
    return found


def test_a_drill_restores_compares_decrypts_and_leaves_nothing(
    core: Deployment, scratch: Deployment, backup: Path, canary: str
) -> None:
    assert call(core) == 200
    before, runs = sets(backup), core.fingerprint()
    with Watch(scratch) as watch:
        output = succeeds(for_core(doc_block("drill"), core))
    assert core.fingerprint() == runs
    assert sets(backup) == before, "a drill writes nothing into the repositories"
    assert "sings" not in output
    drill = drilled(core)
    assert drill["ok"] is True and drill["seconds"] > 0 and drill["loss_seconds"] >= 0
    assert "last_drill_ok" in (core.data_root / "state/metrics/backup.prom").read_text()
    assert watch.open_networks == set(), "no n8n process of the copy has a way out"
    assert watch.settings, "the copy was never seen"
    assert (
        watch.settings["archive_command"] in ("", "/bin/true", "(disabled)")
        or watch.settings["archive_mode"] == "off"
    )
    assert watch.published <= {"Platform smoke test"}, "no trigger of the source fires in the copy"
    assert scratch.containers(stopped=True) == {} and not scratch.data_root.exists()


def test_deleted_rows_are_back_and_what_came_later_is_accounted_for(core: Deployment, backup: Path) -> None:
    for _ in range(3):
        assert call(core) == 200
    wait_until(lambda: len(executions(core)) >= 3, "the executions to be saved")
    before = executions(core)
    moment = now(core)
    core.sql("DELETE FROM execution_entity")
    assert executions(core) == set()
    assert call(core) == 200
    command = for_core(doc_block("restore-in-place"), core, **{"2026-11-22T10:00:00Z": moment})
    output = succeeds(command)
    assert before <= executions(core), output[-2000:]
    assert call(core) == 200
    (report,) = sorted((backup / "restores").glob("*/lost-jobs.json"))[-1:]
    lost = json.loads(report.read_text())
    assert set(lost) == {"version", "created", "executions", "jobs"}
    assert not (core.data_root / "state/restore.json").exists()
    assert not (core.data_root / "state/recovery").exists()
    verified = core.run("verify")
    assert verified.rc == 0, verified.failures()


def test_a_restore_killed_on_the_way_leaves_the_former_state_runnable(core: Deployment, backup: Path) -> None:
    before = executions(core)
    command = for_core(doc_block("restore-in-place"), core, **{"2026-11-22T10:00:00Z": now(core)})
    process = start(command)
    try:
        # Stopped for the switch: the moment at which most is open.
        wait_until(lambda: "n8n-main" not in core.containers(), "n8n to be stopped", 900, every=0.2)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    succeeds(for_core(doc_block("restore-back"), core))
    assert before <= executions(core)
    assert call(core) == 200
    assert not (core.data_root / "state/restore.json").exists()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ("-e restore_target=in_place", "platform_confirm"),
        ("-e restore_time=2026-11-22T10:00:00", "has no zone"),
        ("-e restore_time=2020-01-01T00:00:00Z", "before the end of the first backup"),
        ("-e restore_run=20200101T000000Z", "there is no run"),
    ],
)
def test_what_cannot_be_restored_is_refused_and_nothing_is_touched(
    core: Deployment, scratch: Deployment, backup: Path, variables: str, says: str
) -> None:
    before = core.fingerprint()
    process = start(f"make restore ENV={INVENTORY} ARGS='{variables}'")
    output, _ = process.communicate(timeout=900)
    assert process.returncode != 0
    assert says in output
    assert core.fingerprint() == before
    assert scratch.containers(stopped=True) == {}
