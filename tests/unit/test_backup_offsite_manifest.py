"""When a set is said to be in the bucket; the bucket is a stub that takes what it is given."""

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform import backup_manifest as manifests
from ansible.module_utils.n8n_platform.backup import BackupError, Definition
from ansible.module_utils.n8n_platform.backup_offsite import Offsite
from ansible.module_utils.n8n_platform.backup_s3 import S3Error

RUN, EARLIER = "20261122T120000Z", "20261122T110000Z"
UNUSED: Any = None
FULL: dict[str, Any] = {"n8n": {"local": "A", "s3": "B"}}


class Bucket:
    """`fault` is raised instead of taking anything."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.fault: BaseException | None = None

    def put(self, file: Path, key: str) -> None:
        if self.fault:
            raise self.fault
        run = key.split("/")[1]
        self.objects[run] = manifests.parse(file.read_bytes(), key, run)

    def snapshots(self) -> list[dict[str, Any]]:
        return [{"id": f"s3-{run}", "run": run} for run in (EARLIER, RUN)]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    made = Bucket()
    monkeypatch.setattr(Offsite, "_store", lambda *_: made)
    monkeypatch.setattr(
        "ansible.module_utils.n8n_platform.restic.Restic.snapshots", lambda _: made.snapshots()
    )
    return made


@pytest.fixture
def definition(tmp_path: Path) -> Definition:
    values: dict[str, Any] = {
        "environment": "test",
        "project": "p",
        "timezone": "UTC",
        "images": {},
        "items": [],
    }
    roots = {f"{name}_root": str(tmp_path / name) for name in ("volumes", "secrets", "state", "backup")}
    s3 = {"endpoint": "https://s3.example.org", "bucket": "b", "prefix": "x"}
    made = Definition({**values, **roots, "s3": s3, "retention": {}})
    made.staging.mkdir(parents=True)
    return made


def written(definition: Definition, run: str = RUN, **changes: Any) -> dict[str, Any]:
    """A local set whose snapshot is in the bucket."""
    made = {
        "version": 1,
        "run": run,
        "restic": {"local": "L", "s3": f"s3-{run}"},
        "locations": {"local": "here", "s3": None},
        "pgbackrest": FULL,
        "problems": [],
        **changes,
    }
    sealed = manifests.seal(made)
    manifests.write(definition.runs, sealed)
    return sealed


def local(definition: Definition, run: str = RUN) -> dict[str, Any]:
    return manifests.read(definition.runs, run)


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), S3Error({"code": "Timeout"})])
def test_a_put_that_did_not_end_leaves_no_manifest_that_says_it_did(
    definition: Definition, bucket: Bucket, fault: BaseException
) -> None:
    sealed = written(definition)
    bucket.fault = fault
    with pytest.raises((KeyboardInterrupt, BackupError)):
        Offsite(definition, UNUSED).publish(sealed)
    assert local(definition) == sealed
    bucket.fault = None
    assert Offsite(definition, UNUSED).publish(sealed) == bucket.objects[RUN] == local(definition)
    assert local(definition)["locations"]["s3"] == f"s3://b/x/runs/{RUN}/manifest.json"


def test_what_says_that_it_is_in_the_bucket_is_written_when_it_is(
    definition: Definition, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the moment of the put, which nothing outlives that takes the power away."""
    sealed, at_put = written(definition), []
    put = bucket.put
    monkeypatch.setattr(bucket, "put", lambda *given: (at_put.append(local(definition)), put(*given)))
    Offsite(definition, UNUSED).publish(sealed)
    assert at_put == [sealed]
