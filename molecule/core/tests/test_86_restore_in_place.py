"""Restores in place: to a moment, of volumes that were lost, one that fails and one that is killed, as the docs say."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import Deployment, wait_until
from tests.support.depth import nightly
from tests.support.docs import doc_block
from tests.support.off_site import MARKED_KEY, MARKER, mark_volumes
from tests.support.restoring import (
    INVENTORY,
    Sender,
    executions,
    for_core,
    killed,
    now,
    one_more,
    refused,
    released,
    start,
    succeeds,
)

# Which the documented commands restore to.
MOMENT = "2026-11-22T10:00:00Z"
# What is promised for a database of 5 GB; this one is small.
RESTORE_SECONDS = 10 * 60
FAR_FUTURE = 4_000_000_000_000
JOBS = ("bull:jobs:990001", "bull:jobs:990002")


def newest_run(backup: Path) -> str:
    return sorted(path.parent.name for path in backup.glob("runs/*/manifest.json"))[-1]


def former_data(core: Deployment) -> set[str]:
    """Generations of the database that are not in use."""
    volume = core.data_root / "volumes/postgres-n8n"
    current = (volume / "current").read_text().strip()
    found = {str(path.relative_to(volume)) for path in volume.glob("[0-9]*/[0-9]*")}
    assert current in found
    return found - {current}


def former_queue(core: Deployment) -> Path:
    return core.data_root / "volumes/redis-queue.before-restore"


@pytest.fixture
def deleted(core: Deployment, backup: Path) -> Iterator[tuple[set[str], str, str]]:
    """Executions that somebody has deleted, the moment before that, and one of them that had waited without a job. The
    queue holds JOBS: one for later, and one that nobody has taken yet."""
    found = one_more(core)
    ((workflow,),) = core.sql("SELECT id FROM workflow_entity WHERE name = 'Platform smoke test'")
    waiting = core.sql(
        'INSERT INTO execution_entity (finished, mode, status, "workflowId", "createdAt") '
        f"VALUES (false, 'trigger', 'new', '{workflow}', now()) RETURNING id"
    )[0][0]
    # Bull's score of a delayed job: milliseconds times 4096.
    for job, key, *score in (("990001", "delayed", str(FAR_FUTURE * 4096)), ("990002", "paused")):
        data = json.dumps({"executionId": f"7{job}", "workflowId": workflow})
        core.redis("HSET", f"bull:jobs:{job}", "data", data)
        core.redis("ZADD" if score else "LPUSH", f"bull:jobs:{key}", *score, job)
        core.redis("ZADD", "bull:jobs:priority", "100", job)
    moment = now(core)
    core.sql("DELETE FROM execution_entity")
    assert executions(core) == set()
    yield found, moment, waiting
    core.redis("DEL", "bull:jobs:delayed", "bull:jobs:paused", *JOBS)
    core.redis("ZREM", "bull:jobs:priority", "990001", "990002")


def test_a_failure_on_the_way_puts_everything_back_then_the_rows_are_back_and_what_came_later_is_accounted_for(
    core: Deployment, backup: Path, deleted: tuple[set[str], str, str]
) -> None:
    before, moment, waiting = deleted
    command = for_core(doc_block("restore-in-place"), core, **{MOMENT: moment})
    report = backup / "restores" / newest_run(backup) / "lost-jobs.json"

    # After the switch, with the restored data in use, the report cannot be written: a folder has its name.
    report.unlink(missing_ok=True)
    report.mkdir(parents=True)
    with Sender(core) as sender:
        output = refused(command)
    report.rmdir()
    assert "Nothing was restored" in output and "lost-jobs.json" in output, output[-3000:]
    assert before.isdisjoint(executions(core)), "the data from before are in use"
    assert core.redis("EXISTS", *JOBS) == "2", "so is the queue"
    assert core.smoke()[0] == 200
    assert not (core.data_root / "state/restore.json").exists()
    assert not (core.data_root / "state/recovery").exists()

    with sender.again() as sender:
        output = succeeds(command)
    assert before <= executions(core), output[-2000:]
    assert sender.failures == [], "the edge answers all the time"
    assert {status for status, _ in sender.answers} == {200, 503}
    assert all(retry.isdigit() for status, retry in sender.answers if status == 503)
    assert core.smoke()[0] == 200
    lost = json.loads(report.read_text())
    assert waiting in {entry["execution"] for entry in lost["executions"]}
    assert {"990001", "990002"} <= {entry["job"] for entry in lost["jobs"]}
    assert core.redis("EXISTS", *JOBS, "bull:jobs:delayed", "bull:jobs:paused") == "0"
    assert core.redis("ZREM", "bull:jobs:priority", "990001", "990002") == "0", "later jobs would overtake"
    assert json.loads(report.with_name("report.json").read_text())["seconds"] <= RESTORE_SECONDS
    assert former_data(core) and former_queue(core).is_dir(), "data and queue from before stay"
    assert not (core.data_root / "state/restore.json").exists()
    assert not (core.data_root / "state/recovery").exists()
    verified = core.run("verify")
    assert verified.rc == 0, verified.failures()


@pytest.mark.full
def test_one_that_fails_before_its_switch_leaves_nothing_and_backups_go_on(
    core: Deployment, backup: Path
) -> None:
    manifest = json.loads((backup / "runs" / newest_run(backup) / "manifest.json").read_text())
    [label] = {entry["local"] for entry in manifest["pgbackrest"].values()}
    volume, state = core.data_root / "volumes/postgres-n8n", core.data_root / "state"
    before = executions(core)
    # The list of sets still has it.
    gone = backup / "pgbackrest/backup/n8n" / label
    aside = gone.rename(backup / label)
    try:
        output = refused(for_core(doc_block("restore-in-place"), core, **{MOMENT: now(core)}))
    finally:
        aside.rename(gone)
    assert "Nothing was changed" in output and label in output, output[-3000:]
    assert executions(core) == before and core.smoke()[0] == 200
    left = [state / "restore.json", state / "recovery", *volume.glob("*/.new.restore")]
    assert [path for path in left if path.exists()] == []
    made = core.run("backup", backup_type="incr")
    assert made.rc == 0, made.failures()


LOST = ("n8n-home", "n8n-data", "n8n-scripts", "redis-queue", "openbao", "postgres-n8n")


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.full
def test_every_volume_is_lost_and_one_command_brings_all_of_them_back(core: Deployment, backup: Path) -> None:
    files, key = mark_volumes(core), secrets.token_hex(8)
    core.redis("SET", MARKED_KEY, key)
    before = one_more(core)
    kept = former_data(core)
    for kind, left in (("incr", kept), ("diff", set())):
        made = core.run("backup", backup_type=kind)
        assert made.rc == 0, made.failures()
        assert former_data(core) == left, (
            "the next good daily backup removes what the last restore has replaced"
        )
    assert not former_queue(core).exists()

    assert newest_run(backup) in succeeds(for_core(doc_block("status"), core))

    volumes = core.data_root / "volumes"
    core.containers()["postgres-n8n"].kill()
    for name in LOST:
        empty(volumes / name)
    server = core.containers(stopped=True)["postgres-n8n"]
    server.restart()
    wait_until(lambda: b"there are backups of it" in server.logs(tail=20), "an empty server to be refused")
    assert not (volumes / "postgres-n8n/current").exists()

    succeeds(for_core(doc_block("restore-lost"), core))
    assert before <= executions(core)
    for folder, digest in files.items():
        path = volumes / folder / MARKER
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, folder
        assert path.stat().st_uid == 1000
    assert core.redis("GET", MARKED_KEY) == key
    assert core.smoke()[0] == 200
    again = core.converge()
    assert again.changed == 0, again.changed_tasks()


@nightly("two minutes for each")
@pytest.mark.parametrize("name", ["n8n-data", "redis-queue", "openbao"])
def test_one_that_is_lost_alone_comes_back_alone(core: Deployment, backup: Path, name: str) -> None:
    files, key = mark_volumes(core), secrets.token_hex(8)
    core.redis("SET", MARKED_KEY, key)
    made = core.run("backup", backup_type="incr")
    assert made.rc == 0, made.failures()
    later = one_more(core)
    server = core.containers().get(name)
    if server:
        server.kill()
    empty(core.data_root / "volumes" / name)
    if server:
        server.restart()

    options = f"-e restore_target=in_place -e platform_confirm={core.name} -e restore_parts={name}"
    succeeds(f"make restore ENV={INVENTORY} ARGS='{options}'")
    assert later <= executions(core), "the database is not as of the run"
    found = {folder: core.data_root / "volumes" / folder / MARKER for folder in files}
    assert {folder: hashlib.sha256(path.read_bytes()).hexdigest() for folder, path in found.items()} == files
    assert core.redis("GET", MARKED_KEY) == key
    assert core.smoke()[0] == 200
    again = core.converge()
    assert again.changed == 0, again.changed_tasks()


@pytest.mark.full
def test_a_restore_killed_on_the_way_leaves_the_former_state_runnable(core: Deployment, backup: Path) -> None:
    before = executions(core)
    command = for_core(doc_block("restore-in-place"), core, **{MOMENT: now(core)})
    # Stopped for the switch: the moment at which most is open.
    killed(command, lambda: "n8n-main" not in core.containers(), "n8n to be stopped")
    released(core)
    status, headers = core.smoke()
    assert status == 503 and headers["retry-after"].isdigit()
    succeeds(for_core(doc_block("restore-back"), core))
    assert before <= executions(core)
    assert core.smoke()[0] == 200
    assert not (core.data_root / "state/restore.json").exists()


@pytest.mark.full
def test_one_killed_after_its_switch_goes_on_and_who_went_back_too_far_comes_forward_again(
    core: Deployment, backup: Path
) -> None:
    current = core.data_root / "volumes/postgres-n8n/current"
    earlier, used = now(core), current.read_text()
    before = one_more(core)
    later = now(core)
    command = for_core(doc_block("restore-in-place"), core, **{MOMENT: earlier})
    killed(command, lambda: current.read_text() != used, "the data to be switched")
    released(core)
    assert core.smoke()[0] == 503
    succeeds(command)
    assert not before <= executions(core), "they are as of before the last one"
    assert core.smoke()[0] == 200

    named = re.search(r"restore_timeline=(\d+)", refused(command.replace(earlier, later)))
    assert named, "what reaches a moment of the other history"
    changes = {MOMENT: later, "restore_timeline=1": named.group()}
    succeeds(for_core(doc_block("restore-too-far"), core, **changes))
    assert before <= executions(core) and core.smoke()[0] == 200
    verified = core.run("verify")
    assert verified.rc == 0, verified.failures()


@pytest.mark.full
def test_from_the_bucket_with_nothing_kept_and_nobody_else_meanwhile(core: Deployment, backup: Path) -> None:
    before = one_more(core)
    options = f"-e restore_target=in_place -e platform_confirm={core.name} -e restore_from=s3"
    command = f"make restore ENV={INVENTORY} ARGS='{options} -e restore_discard_previous=true'"
    first = start(command)
    wait_until(
        lambda: (core.data_root / "state/restore.json").exists() or first.poll(), "the first to begin", 300
    )
    said = refused(command)
    assert f"{core.name} is in use by another run" in said and "playbooks/restore.yml" in said, said[-2000:]
    output, _ = first.communicate(timeout=1800)
    assert first.returncode == 0, output[-6000:]
    assert before <= executions(core) and core.smoke()[0] == 200
    assert former_data(core) == set() and not former_queue(core).exists(), "what was before is gone at once"
    made = core.run("backup", backup_type="incr")
    assert made.rc == 0, made.failures()


def databases(core: Deployment) -> set[str]:
    return {row[0] for row in core.sql("SELECT datname FROM pg_database WHERE NOT datistemplate")}


@nightly("ten minutes more")
def test_from_a_logical_restore_there_is_a_way_back_after_its_switch(core: Deployment, backup: Path) -> None:
    manifests = [json.loads(path.read_text()) for path in sorted(backup.glob("runs/*/manifest.json"))]
    run = [made["run"] for made in manifests if "dump-n8n" in {item["name"] for item in made["items"]}][-1]
    before = one_more(core)
    options = f"-e platform_confirm={core.name} -e restore_kind=logical -e restore_run={run}"
    command = f"make restore ENV={INVENTORY} ARGS='-e restore_target=in_place {options}'"
    record = core.data_root / "state/recovery/dump-n8n.json"
    switched = lambda: record.exists() and json.loads(record.read_text()).get("former")  # noqa: E731
    killed(command, switched, "the databases to be switched")
    released(core)
    assert "n8n_before_restore" in databases(core)
    succeeds(for_core(doc_block("restore-back"), core))
    assert databases(core) == {"n8n", "postgres"}
    assert before <= executions(core)
    assert core.smoke()[0] == 200

    succeeds(command)
    assert not before <= executions(core), "the dump is older than the last execution"
    assert core.smoke()[0] == 200
    assert databases(core) == {"n8n", "n8n_before_restore", "postgres"}
