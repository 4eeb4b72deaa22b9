"""The second copy: a real S3 store with least rights, which is also away for a while."""

import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform.backup import BackupError, Exit
from ansible.module_utils.n8n_platform.backup_manifest import local_sets, parse
from ansible.module_utils.n8n_platform.backup_service import Answer, Service

from tests.support.backup_lab import BackupLab, built_images
from tests.support.engine import engine
from tests.support.s3 import S3Store

__all__ = ["engine"]

START = datetime(2026, 3, 1, 1, 17, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def images(engine: object, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return built_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def store(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    with S3Store(tmp_path_factory.mktemp("s3"), images["object_storage"], name="n8n-test-backup-s3") as found:
        yield found


@pytest.fixture(scope="module")
def lab(images: dict[str, str], store: S3Store) -> Iterator[BackupLab]:
    with BackupLab(Path("/var/tmp/n8n-test-backup-s3"), images, name="test-backup-s3") as found:
        found.s3 = {
            "endpoint": store.endpoint,
            "bucket": store.bucket,
            "region": store.region,
            "prefix": "lab",
            "uri_style": "path",
            "ca_file": str(store.ca_file),
            "network": "bridge",
        }
        target = found.root / "secrets/host/backup_s3_credentials"
        target.write_text(store.credentials_file.read_text())
        found.service(START).initialise()
        yield found


def service(lab: BackupLab, days: float, **changes: Any) -> Service:
    return lab.service(START + timedelta(days=days), **changes)


def full(lab: BackupLab, days: float, **changes: Any) -> Answer:
    return service(lab, days, **changes).run("full")


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
    store.client().create_bucket(Bucket=f"{store.bucket}-keys")
    lab_credentials = lab.root / "secrets/host/backup_s3_credentials"
    least = lab_credentials.read_text()
    text = least
    for ours, powerful in zip(store.keys["default"], store.keys["admin"], strict=True):
        text = text.replace(ours, powerful)
    lab_credentials.write_text(text)
    destination = f"s3://{store.bucket}-keys/{lab.name}"
    answer = full(lab, 0.03, bundle={"recipients": [lab.recipient], "destination": destination})
    lab_credentials.write_text(least)
    assert answer.code == Exit.DONE, answer.problems
    found = store.client().list_objects_v2(Bucket=f"{store.bucket}-keys")["Contents"]
    assert [item["Key"] for item in found] == [f"{lab.name}/{lab.name}-{answer.manifest['run']}.age"]


def test_a_store_that_is_away_costs_the_copy_and_nothing_else(lab: BackupLab, store: S3Store) -> None:
    before = keys(store)
    store._container.stop(timeout=5)
    started = time.monotonic()
    answer = full(lab, 1)
    assert time.monotonic() - started < 180
    assert answer.code == Exit.NOT_OFFSITE
    assert "off-site: S3 head" in answer.problems[0]
    assert answer.manifest["locations"]["s3"] is None
    assert [one.run for one in local_sets(lab.backups / "runs") if one.good][-1] == answer.manifest["run"]
    metrics = (lab.state / "metrics/backup.prom").read_text()
    assert f'last_run_exit_code{{environment="{lab.name}"}} {int(Exit.NOT_OFFSITE)}' in metrics

    store.start()
    lab.s3["endpoint"] = store.endpoint
    later = full(lab, 1.1)
    assert later.code == Exit.DONE, later.problems
    runs = {key.split("/")[2] for key in keys(store)}
    assert {answer.manifest["run"], later.manifest["run"]} <= runs, "the next run brings what is missing"
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


@pytest.mark.full
def test_on_day_31_goes_what_no_kept_set_needs(lab: BackupLab, store: S3Store) -> None:
    for day in (20, 26, 29.5):
        assert full(lab, day).code == Exit.DONE
    assert len(local_sets(lab.backups / "runs")) == 3, "day 8 has taken the older ones from here"
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
    there = service(lab, 31.06)
    assert there.verify(full=True).code in (Exit.DONE, Exit.LATE)
