"""A drill from the bucket, what it is there to find, and what is refused: by the commands of the docs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import socket
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import platform_drill
import platform_recovery
import pytest
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.recovery import RecoveryError

from tests.support.deployment import ROOT, Deployment
from tests.support.docs import doc_block
from tests.support.metrics import metrics
from tests.support.off_site import ADDRESS, PORT, OffSite
from tests.support.restoring import INVENTORY, Polled, executions, for_core, killed, now, refused, succeeds

PROBED = {"n8n-main", "n8n-worker-1", "n8n-runner-1", "n8n-webhook-1"}
CRON = ROOT / "roles/schedule/tasks/cron.yml"


@pytest.fixture(scope="module")
def scratch(core: Deployment) -> Deployment:
    return Deployment(name=f"{core.name}-scratch", inventory=core.inventory, port_base=core.port_base + 50)


def sets(folder: Path) -> dict[str, str]:
    """Every file of the local repositories but the archive of the source, which goes on, and its digest."""
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


def archived(folder: Path, off_site: OffSite, core: Deployment) -> dict[str, str]:
    """The local archive's files but what is being written, and all of the bucket, each with what tells its content."""
    local = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "pgbackrest/archive").rglob("*")
        if path.is_file() and path.suffix != ".tmp"
    }
    return local | off_site.objects(core.name)


class Copy(Polled):
    """What the copy is like while it lives; while it comes and goes a look may fail."""

    def __init__(self, scratch: Deployment, targets: dict[str, tuple[str, int]], since: str) -> None:
        super().__init__(1)
        self.scratch = scratch
        self.targets = targets
        self.since = since
        self.executed: set[str] = set()
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
            self.executed |= {
                row[0]
                for row in self.scratch.sql(
                    f"SELECT id FROM execution_entity WHERE status = 'success' AND \"startedAt\" > '{self.since}'"
                )
            }
        for service in PROBED & set(containers) - set(self.reached):
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
    """Those of `targets` that take a connection from inside the container. The host is tried on each of its networks,
    too, of which it has the first address: `host-on-<network>`."""
    tried = dict(targets)
    for network, own in container.attrs["NetworkSettings"]["Networks"].items():
        subnet = ip_network(f"{own['IPAddress']}/{own['IPPrefixLen']}", strict=False)
        tried[f"host-on-{network.rpartition('_')[2]}"] = (str(next(subnet.hosts())), targets["host"][1])
    argv = ["node", "-e", CONNECT, *(f"{name} {host} {port}" for name, (host, port) in tried.items())]
    code, output = container.exec_run(argv)
    assert code == 0, output.decode()
    return set(output.decode().split())


@pytest.fixture
def outside(core: Deployment) -> Iterator[dict[str, tuple[str, int]]]:
    """What n8n of the source reaches: its database, a port of this machine, and a store on another network. The machine
    not by an internal network."""
    bridge = core.engine.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
    networks = core.containers()["postgres-n8n"].attrs["NetworkSettings"]["Networks"]
    database = networks[f"{core.project}_data"]["IPAddress"]
    with socket.create_server(("0.0.0.0", 0)) as server:
        targets = {"host": (bridge, server.getsockname()[1]), "database": (database, 5432)}
        targets["store"] = (ADDRESS, PORT)
        found = reached(core.containers()["n8n-main"], targets)
        assert {*targets, "host-on-egress"} <= found and "host-on-data" not in found, found
        yield {**targets, "internet": ("1.1.1.1", 443)}


def calendar_drill(core: Deployment) -> str:
    """The drill of the environment's own calendar."""
    jobs = json.loads((core.data_root / "state/schedule.json").read_text())["jobs"]
    (job,) = [job for job in jobs if job["name"] == "drill"]
    return shlex.join(job["command"])


def by_cron(command: str) -> str:
    """The command with no more of an environment than cron gives."""
    (path,) = re.findall(r"^ +(PATH=.+)$", CRON.read_text(), re.MULTILINE)
    return f"env -i HOME=/root {path} {command}"


def places(command: str) -> set[str]:
    """The paths that ansible-playbook is called by and with."""
    _, _, words = command.partition("ansible-playbook ")
    return {os.path.normpath(ROOT / word) for word in shlex.split(words) if "/" in word}


def test_the_documented_drill_is_the_one_of_the_calendar(core: Deployment) -> None:
    printed = succeeds(for_core(doc_block("drill"), core).replace("make ", "make --dry-run ", 1))
    assert places(printed.splitlines()[-1]) == places(calendar_drill(core)) != set()


def drilled(core: Deployment) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((core.data_root / "state/backup-state.json").read_text())["drill"]
    return found


@pytest.mark.full
def test_a_drill_that_fails_takes_its_copy_away_and_says_why(
    core: Deployment, scratch: Deployment, backup: Path
) -> None:
    refused(by_cron(calendar_drill(core)) + " -e restore_run=20200101T000000Z")
    drill = drilled(core)
    assert drill["ok"] is False and "there is no run 20200101T000000Z" in drill["problem"]
    assert scratch.containers(stopped=True) == {} and not scratch.data_root.exists()
    assert not scratch.backup_root.exists()


def test_a_drill_from_the_bucket_restores_compares_decrypts_and_leaves_nothing(
    core: Deployment,
    scratch: Deployment,
    backup: Path,
    off_site: OffSite,
    outside: dict[str, tuple[str, int]],
) -> None:
    assert core.smoke()[0] == 200
    before, log, runs = sets(backup), archived(backup, off_site, core), core.fingerprint()
    with Copy(scratch, outside, now(core)) as copy:
        output = succeeds(by_cron(calendar_drill(core)))
    assert "from the s3 repository" in output
    assert core.fingerprint() == runs
    assert sets(backup) == before, "a drill writes nothing into the repositories"
    after = archived(backup, off_site, core)
    assert {name: after.get(name) for name in log} == log, "nothing there has changed or is gone"
    written = set(after) - set(log)
    ((timeline,),) = core.sql("SELECT lpad(to_hex(timeline_id), 8, '0') FROM pg_control_checkpoint()")
    assert written, "the source goes on archiving"
    strange = {name for name in written if f"/{timeline.upper()}" not in name or "/archive/" not in name}
    assert not strange, "only the source's own log is new in the archives"
    assert "sings" not in output
    drill, found = drilled(core), metrics(core)
    assert drill["ok"] is True and found["last_drill_ok"] == 1
    assert found["last_drill_duration_seconds"] == drill["seconds"] > 0
    assert found["last_drill_loss_seconds"] == drill["loss_seconds"] >= 0
    assert 0 <= time.time() - found["last_drill_timestamp_seconds"] < 600
    assert copy.executed, f"n8n of the copy executes the smoke workflow: {copy.failures}"
    assert copy.networks and copy.open_networks == set(), "no n8n process of the copy has a way out"
    assert copy.reached == {service: set() for service in PROBED}, copy.failures
    assert copy.settings["archive_command"] in ("", "/bin/true"), "the copy archives nothing"
    assert copy.published <= {"Platform smoke test"}, "no trigger of the source fires in the copy"
    assert scratch.containers(stopped=True) == {} and not scratch.data_root.exists()
    assert not scratch.backup_root.exists()


def test_a_drill_would_find_other_content_a_missing_row_and_a_credential_that_does_not_open(
    core: Deployment,
) -> None:
    defaults = {name: option.get("default") for name, option in platform_drill.build_spec().items()}

    def look(state: str, **params: Any) -> Any:
        manager = platform_drill.Manager({**defaults, "project": core.project, **params}, Engine(timeout=300))
        return manager.apply(state)

    reference = look("marked")["reference"]
    assert look("compared", reference=reference) == {}
    table = reference["tables"]["workflow_entity"]
    for change, says in (
        ({"hash": "1"}, "but other content"),
        ({"rows": table["rows"] + 1}, "the source had"),
    ):
        changed = {**reference, "tables": {**reference["tables"], "workflow_entity": {**table, **change}}}
        with pytest.raises(platform_drill.DrillError, match=f"workflow_entity .*{says}"):
            look("compared", reference=changed)
    assert look("decrypted")["credentials"] >= 1, "there is always the platform's own"
    core.sql(
        "INSERT INTO credentials_entity (id, name, type, data) VALUES ('garbage', 'Garbage', 'httpHeaderAuth', 'x')"
    )
    try:
        with pytest.raises(platform_drill.DrillError, match="credentials could be decrypted"):
            look("decrypted")
    finally:
        core.sql("DELETE FROM credentials_entity WHERE id = 'garbage'")


@pytest.mark.parametrize("kind", ["wrong", "truncated", "empty", "missing", "with a newline"])
def test_a_key_that_is_not_the_backup_s_is_refused_before_anything_is_written(
    core: Deployment, backup: Path, tmp_path: Path, kind: str
) -> None:
    source = json.loads((core.data_root / "state/backup.json").read_text())
    key = core.secret("n8n-main", "n8n_encryption_key")
    given = {"wrong": key[::-1], "truncated": key[:-1], "empty": "", "with a newline": f"{key}\n"}
    if kind in given:
        file = tmp_path / "secrets/n8n-main/n8n_encryption_key"
        file.parent.mkdir(parents=True)
        file.write_text(given[kind])
    source["secrets_root"] = str(tmp_path / "secrets")
    (tmp_path / "backup.json").write_text(json.dumps(source))
    before = sorted(tmp_path.rglob("*"))
    params = {name: option.get("default") for name, option in platform_recovery.build_spec().items()}
    params |= {"source_environment": core.name, "definition": str(tmp_path / "backup.json")}
    places = {"directory": "recovery", "volumes_root": "volumes", "data_root": "data"}
    params |= {name: str(tmp_path / folder) for name, folder in places.items()}
    manager = platform_recovery.Manager(params, Engine(), datetime.now(timezone.utc))
    if kind == "with a newline":
        assert manager.plan()
    else:
        with pytest.raises(RecoveryError, match="n8n_encryption_key: "):
            manager.plan()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ("-e restore_target=in_place", "platform_confirm"),
        ("-e restore_time=2020-01-01T00:00:00Z", "before the end of the first backup"),
        pytest.param(
            "-e restore_target=in_place -e platform_confirm=test-core -e restore_parts=n8n-hom",
            "holds no n8n-hom, only databases, ",
            marks=pytest.mark.full,
        ),
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


@pytest.mark.full
@pytest.mark.parametrize("place", ["", "-e restore_from=s3"], ids=["here", "bucket"])
def test_a_copy_goes_on_where_it_was_killed(
    core: Deployment, scratch: Deployment, backup: Path, outside: dict[str, tuple[str, int]], place: str
) -> None:
    before, runs = sets(backup), core.fingerprint()
    command = for_core(doc_block("restore-copy"), core) + f" ARGS='{place} %s'"
    fetched = scratch.data_root / "state/recovery/steps/fetched"
    try:
        killed(command % "", fetched.exists, "the files to be fetched")
        said = refused(command % "-e restore_time=2026-11-22T10:00:00Z")
        assert "restore_time: " in said and "was begun" in said
        succeeds(command % "")
        assert reached(scratch.containers()["n8n-main"], outside) == set()
        assert executions(core) <= executions(scratch)
    finally:
        succeeds(for_core(doc_block("restore-remove"), core))
    assert scratch.containers(stopped=True) == {} and not scratch.data_root.exists()
    assert (sets(backup), core.fingerprint()) == (before, runs)
