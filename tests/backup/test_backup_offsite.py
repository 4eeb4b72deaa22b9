"""The second copy: a real S3 store with least rights and locked versions, which is also away, failing or full."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform import backup_verify
from ansible.module_utils.n8n_platform.backup import BackupError, Exit
from ansible.module_utils.n8n_platform.backup_manifest import local_sets, parse
from ansible.module_utils.n8n_platform.backup_offsite import Offsite
from ansible.module_utils.n8n_platform.backup_service import Answer, Service
from ansible.module_utils.n8n_platform.restic import Restic
from botocore.exceptions import ClientError

from tests.support.backup_lab import BackupLab
from tests.support.deployment import wait_until
from tests.support.depth import smoke_and_full
from tests.support.s3 import S3Store
from tests.support.s3_faults import Fault, FaultProxy

START = datetime(2026, 3, 1, 1, 17, tzinfo=timezone.utc)
COPY_SECONDS = 15
# Of the packs only: what is small arrives, what matters does not.
PACKS: dict[str, Any] = {"methods": ("PUT",), "path": "/restic/data"}
FAULTS = {
    "403": Fault("status", 403, **PACKS),
    "500": Fault("status", 500, **PACKS),
    "503": Fault("status", 503, **PACKS),
    "reset": Fault("reset", **PACKS),
    "stall": Fault("stall", **PACKS),
}
# A smoke run takes one, another one each time.
SEED = int(os.environ.get("TEST_SEED", random.randrange(10**6)))
FAULT = random.Random(SEED).choice([*FAULTS])


@pytest.fixture(scope="module")
def store(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    found = S3Store(tmp_path_factory.mktemp("s3"), images["object_storage"], name="n8n-test-backup-s3")
    found.start(ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    lock = {"ObjectLockEnabled": "Enabled", "Rule": rule}
    found.client().put_object_lock_configuration(Bucket=found.bucket, ObjectLockConfiguration=lock)
    found.client().create_bucket(Bucket=found.bundles)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def proxy(store: S3Store) -> Iterator[FaultProxy]:
    files = store.directory / "secrets"
    pair = files / "object_storage_tls.crt", files / "object_storage_tls.key"
    with FaultProxy(store.endpoint, store.ca_file, *pair, address=store.host) as found:
        yield found


@pytest.fixture(scope="module")
def lab(images: dict[str, str], store: S3Store) -> Iterator[BackupLab]:
    with BackupLab(Path("/var/tmp/n8n-test-backup-s3"), images, name="test-backup-s3") as found:
        take(found, store)
        found.service(START).initialise()
        yield found


def take(lab: BackupLab, store: S3Store) -> None:
    """The lab's bucket from now on."""
    lab.s3 = {
        "endpoint": store.endpoint,
        "bucket": store.bucket,
        "region": store.region,
        "prefix": "lab",
        "uri_style": "path",
        "ca_file": str(store.ca_file),
        "network": "bridge",
    }
    (lab.root / "secrets/host/backup_s3_credentials").write_text(store.credentials_file.read_text())


def service(lab: BackupLab, days: float, **changes: Any) -> Service:
    return lab.service(START + timedelta(days=days), **changes)


def full(lab: BackupLab, days: float, **changes: Any) -> Answer:
    return service(lab, days, **changes).run("full")


def runs(store: S3Store) -> set[str]:
    return {key.split("/")[2] for key in keys(store)}


def good(lab: BackupLab) -> list[str]:
    return [one.run for one in local_sets(lab.backups / "runs") if one.good]


def sound(lab: BackupLab, days: float) -> bool:
    """Nothing is damaged, and in the bucket lies nothing that nobody knows of."""
    checked = service(lab, days)
    answer = checked.verify(full=True)
    assert (answer.code, answer.problems) == (Exit.DONE, [])
    said = Restic(checked.definition, checked.context("full").oneshots, "s3")._do(["check", "--no-lock"], 300)
    return "additional files" not in said.stdout + said.stderr


def keys(store: S3Store, prefix: str = "lab/runs/") -> list[str]:
    found = store.client().list_objects_v2(Bucket=store.bucket, Prefix=prefix)
    return [item["Key"] for item in found.get("Contents", [])]


def test_a_set_lies_in_both_places(lab: BackupLab, store: S3Store) -> None:
    answer = full(lab, 0)
    assert (answer.code, answer.problems) == (Exit.DONE, [])
    assert answer.manifest
    run = answer.manifest["run"]
    assert answer.manifest["locations"]["s3"] == f"s3://{store.bucket}/lab/runs/{run}/manifest.json"
    there = store.client().get_object(Bucket=store.bucket, Key=f"lab/runs/{run}/manifest.json")["Body"].read()
    assert parse(there, "the bucket", run) == answer.manifest
    checked = service(lab, 0.01).verify(full=True)
    assert (checked.code, checked.problems) == (Exit.DONE, [])


def test_the_keys_are_nowhere_in_the_bucket_of_the_data(lab: BackupLab, store: S3Store) -> None:
    assert not [key for key in keys(store, "") if key.endswith(".age")]
    with pytest.raises(BackupError, match="must not hold its keys"):
        bundle = {"recipients": [lab.recipient], "destination": f"s3://{store.bucket}/keys"}
        full(lab, 0.02, bundle=bundle)


def test_the_bundle_goes_to_another_bucket(lab: BackupLab, store: S3Store) -> None:
    answer = full(lab, 0.03, bundle=elsewhere(lab, store))
    assert answer.code == Exit.DONE, answer.problems
    client, name = store.client(), f"{lab.name}-{answer.manifest['run']}.age"
    found = client.list_objects_v2(Bucket=store.bundles)["Contents"]
    assert [item["Key"] for item in found] == [f"{lab.name}/{name}"]

    place = {"Bucket": store.bundles, "Key": f"{lab.name}/{name}"}
    there = client.get_object(**place)
    content = there["Body"].read()
    client.put_object(**place, Body=flipped(content), Metadata=there["Metadata"])
    checked = service(lab, 0.04).verify(full=False)
    assert checked.code == Exit.DAMAGED, checked.problems
    [problem] = checked.problems
    assert name in problem and problem.endswith(" is damaged")
    context, made = service(lab, 0.05).context("full"), local_sets(lab.backups / "runs")
    bundles = partial(backup_verify._bundles, context, made, 1, 7)
    client.delete_object(**place)
    assert [problem.replace("damaged", "missing")] == bundles()
    client.put_object(**place, Body=content, Metadata=there["Metadata"])
    assert bundles() == []
    # What follows knows no store but its own.
    shutil.rmtree(lab.backups / "runs" / answer.manifest["run"])


def test_a_set_whose_bundle_goes_nowhere_is_in_the_bucket(lab: BackupLab, store: S3Store) -> None:
    gone = lab.root / "mount/bundles"
    answer = full(lab, 0.06, bundle={"recipients": [lab.recipient], "destination": str(gone)})
    assert (answer.code, len(answer.problems)) == (Exit.NOT_OFFSITE, 1)
    assert answer.problems[0].startswith("keys: ") and answer.manifest["run"] in runs(store)


def elsewhere(lab: BackupLab, store: S3Store) -> dict[str, Any]:
    """What sends bundles of keys to a bucket of their own."""
    return {"recipients": [lab.recipient], "destination": f"s3://{store.bundles}/{lab.name}"}


def flipped(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_a_store_that_is_away_costs_the_copy_and_nothing_else(lab: BackupLab, store: S3Store) -> None:
    before = keys(store)
    store._container.stop(timeout=5)
    started = time.monotonic()
    answer = full(lab, 1, bundle=elsewhere(lab, store))
    assert time.monotonic() - started < 180
    assert answer.code == Exit.NOT_OFFSITE
    assert [" ".join(problem.split()[:3]) for problem in answer.problems[:2]] == [
        "keys: S3 put",
        "off-site: S3 head",
    ]
    assert answer.manifest["locations"]["s3"] is None
    assert good(lab)[-1] == answer.manifest["run"]
    metrics = (lab.state / "metrics/backup.prom").read_text()
    assert f'last_run_exit_code{{environment="{lab.name}"}} {int(Exit.NOT_OFFSITE)}' in metrics

    store.start()
    lab.s3["endpoint"] = store.endpoint
    later = full(lab, 1.1)
    assert later.code == Exit.DONE, later.problems
    assert {answer.manifest["run"], later.manifest["run"]} <= runs(store), (
        "the next run brings what is missing"
    )
    assert len(keys(store)) == len(before) + 2


def test_a_manifest_that_was_changed_in_the_bucket_is_found(lab: BackupLab, store: S3Store) -> None:
    key = keys(store)[-1]
    content = store.client().get_object(Bucket=store.bucket, Key=key)["Body"].read()
    manifest = json.loads(content)
    store.client().put_object(Bucket=store.bucket, Key=key, Body=content.replace(b'"full"', b'"incr"'))
    found = service(lab, 1.2).verify(full=True)
    store.client().put_object(Bucket=store.bucket, Key=key, Body=content)
    assert found.code == Exit.DAMAGED
    assert [line for line in found.problems if manifest["run"] in line and "checksum" in line], found.problems


def test_a_pack_that_was_changed_in_the_bucket_is_found(lab: BackupLab, store: S3Store) -> None:
    key = max(keys(store, "lab/restic/data/"))
    content = store.client().get_object(Bucket=store.bucket, Key=key)["Body"].read()
    store.client().put_object(Bucket=store.bucket, Key=key, Body=flipped(content))
    found = service(lab, 1.21).verify(full=True)
    store.client().put_object(Bucket=store.bucket, Key=key, Body=content)
    assert found.code == Exit.DAMAGED
    pack = key.split("/")[-1]
    assert [line for line in found.problems if line.startswith("s3: restic:") and pack[:8] in line], (
        found.problems
    )
    assert not [line for line in found.problems if line.startswith("local:")]
    assert service(lab, 1.22).verify(full=True).problems == []


@pytest.mark.parametrize("fault", smoke_and_full(FAULTS, [FAULT]))
def test_a_copy_that_fails_half_way_ends_in_time_and_the_next_run_is_clean(
    lab: BackupLab, store: S3Store, proxy: FaultProxy, fault: str
) -> None:
    days = 1.3 + 0.01 * [*FAULTS].index(fault)
    before = runs(store)
    lab.s3["endpoint"] = proxy.endpoint
    proxy.fault = FAULTS[fault]
    started = time.monotonic()
    answer = full(lab, days, timeouts={"default": 300, "offsite": COPY_SECONDS})
    took = time.monotonic() - started
    lab.s3["endpoint"] = store.endpoint
    assert proxy.fault.met, "the copy met no fault"
    assert (answer.code, len(answer.problems)) == (Exit.NOT_OFFSITE, 1)
    assert "off-site: restic copy (s3)" in answer.problems[0]
    # Keys, snapshot and manifest have limits of their own.
    assert took < 1.1 * COPY_SECONDS + 20, took
    assert good(lab)[-1] == answer.manifest["run"] and answer.manifest["locations"]["s3"] is None
    assert runs(store) == before, "a set that is not there is not said to be"

    # restic was stopped, and has left its locks.
    pruned = service(lab, days + 0.004).prune(dry_run=False)
    assert (pruned.code, pruned.problems) == (Exit.DONE, [])

    later = full(lab, days + 0.005)
    assert (later.code, later.problems) == (Exit.DONE, [])
    assert runs(store) == before | {answer.manifest["run"], later.manifest["run"]}
    assert sound(lab, days + 0.006)


@pytest.mark.full
def test_a_run_killed_while_it_copies_loses_nothing_and_the_next_one_is_clean(
    lab: BackupLab, store: S3Store, proxy: FaultProxy
) -> None:
    there, here = runs(store), good(lab)
    lab.s3["endpoint"] = proxy.endpoint
    proxy.fault = fault = replace(FAULTS["stall"], met=0)
    run = multiprocessing.get_context("fork").Process(target=full, args=(lab, 1.36))
    run.start()
    wait_until(lambda: fault.met, "the copy to be under way", 120, every=0.05)
    os.kill(run.pid or 0, signal.SIGKILL)
    run.join()
    assert run.exitcode == -signal.SIGKILL, "the run was over before it could be killed"
    lab.s3["endpoint"], proxy.fault = store.endpoint, None
    assert runs(store) == there and good(lab)[: len(here)] == here

    later = full(lab, 1.365)
    assert (later.code, later.problems) == (Exit.DONE, [])
    assert runs(store) > there and later.manifest["run"] in runs(store)
    assert good(lab)[-1] == later.manifest["run"] and sound(lab, 1.37)


@pytest.mark.full
def test_a_bucket_that_is_full_costs_the_copy_and_nothing_older(
    lab: BackupLab, store: S3Store, images: dict[str, str], tmp_path: Path
) -> None:
    name, filler = "n8n-test-backup-full", "/var/lib/seaweedfs/filler"
    with S3Store(tmp_path / "s3", images["object_storage"], name=name, data_mb=96) as small:
        take(lab, small)
        service(lab, 1.4).initialise()
        first = full(lab, 1.4)
        assert first.code == Exit.DONE, first.problems
        older = runs(small)
        (lab.home / "nodes/more.bin").write_bytes(os.urandom(8 << 20))
        # What is left takes the store's own notes, but no pack.
        fill = f"dd if=/dev/zero of={filler} bs=1M; truncate --size=-2M {filler}"
        small.container.exec_run(["sh", "-c", fill])
        assert small.container.exec_run(["test", "-s", filler]).exit_code == 0
        answer = full(lab, 1.41, timeouts={"default": 300, "offsite": COPY_SECONDS})
        assert (answer.code, len(answer.problems)) == (Exit.NOT_OFFSITE, 1), answer.problems
        assert small.endpoint in answer.problems[0] or "(s3)" in answer.problems[0], answer.problems
        assert good(lab)[-1] == answer.manifest["run"]
        assert runs(small) == older and all(one.good for one in sets_of(lab, 1.42))

        small.container.exec_run(["rm", filler])
        wait_until(lambda: takes(small), "room in the bucket", 120)
        later = full(lab, 1.43)
        assert (later.code, later.problems) == (Exit.DONE, [])
        assert runs(small) == older | {answer.manifest["run"], later.manifest["run"]}
        assert sound(lab, 1.44)
        # Their copies go with this store; the other one knows nothing of them.
        for run in runs(small):
            shutil.rmtree(lab.backups / "runs" / run)
    (lab.home / "nodes/more.bin").unlink()
    take(lab, store)


def sets_of(lab: BackupLab, days: float) -> list[Any]:
    """Read anew from the bucket."""
    asked = service(lab, days)
    return Offsite(asked.definition, asked.context("full").oneshots).sets(fresh=True)


def takes(store: S3Store) -> bool:
    try:
        store.client().put_object(Bucket=store.bucket, Key="room", Body=b"x")
    except ClientError:
        return False
    return True


def test_on_day_31_goes_what_no_kept_set_needs(lab: BackupLab, store: S3Store) -> None:
    for day in (20, 29.5):
        assert full(lab, day).code == Exit.DONE
    assert len(local_sets(lab.backups / "runs")) == 2, "day 8 has taken the older ones from here"
    before = set(keys(store))
    first = sorted(before)[0]
    young = service(lab, 29.9).prune(dry_run=True)
    assert not [removal for removal in young.removals if removal.repository == "s3"]

    listed = service(lab, 31.05).prune(dry_run=True)
    assert set(keys(store)) == before
    removed = service(lab, 31.05).prune(dry_run=False)
    assert removed.lines == listed.lines
    gone = before - set(keys(store))
    assert {
        f"lab/runs/{each.name}/manifest.json" for each in listed.removals if each.what == "manifest"
    } == gone
    assert first in gone
    # Under the lock that is a marker: the bytes stay until the life cycle rule may take them.
    versions = store.client().list_object_versions(Bucket=store.bucket, Prefix=first)
    assert [marker["IsLatest"] for marker in versions["DeleteMarkers"]] == [True] and versions["Versions"]
    there = service(lab, 31.06)
    assert there.verify(full=True).code in (Exit.DONE, Exit.LATE)


def test_what_cannot_be_removed_is_said_and_the_set_is_good(lab: BackupLab, store: S3Store) -> None:
    before, credentials = set(keys(store)), lab.root / "secrets/host/backup_s3_credentials"
    right = credentials.read_text()
    credentials.write_text(right.replace(store.keys["prune"][1], "0" * 40))
    answer = full(lab, 62)
    credentials.write_text(right)
    assert answer.code == Exit.NOT_PRUNED and answer.problems[-1].startswith("prune: "), answer.problems
    assert store.keys["prune"][0] not in str(answer.problems)
    assert good(lab)[-1] == answer.manifest["run"] and answer.manifest["run"] in runs(store)
    assert before < set(keys(store)), "nothing went"
    # The next one makes up for it.
    assert full(lab, 62.1).code == Exit.DONE
    assert not before & set(keys(store)) - {max(before)}
