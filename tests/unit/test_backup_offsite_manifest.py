"""When a set is said to be in the bucket; the bucket is a stub that takes what it is given."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform import backup_manifest as manifests
from ansible.module_utils.n8n_platform.backup import BackupError, Context, Definition
from ansible.module_utils.n8n_platform.backup_offsite import Offsite
from ansible.module_utils.n8n_platform.backup_run import Run
from ansible.module_utils.n8n_platform.backup_s3 import S3Error

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
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


def published(definition: Definition, sealed: dict[str, Any]) -> dict[str, Any]:
    return Run(Context(definition, UNUSED, UNUSED, RUN, NOW, "full", print))._publish(sealed)


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


def test_a_set_without_its_bundle_of_keys_is_in_the_bucket_too(
    definition: Definition, bucket: Bucket
) -> None:
    problem = "keys: /mnt/bundles is not there"
    made = published(definition, written(definition, problems=[problem]))
    assert made == bucket.objects[RUN] == local(definition)
    assert made["locations"]["s3"] and made["problems"] == [problem]


@pytest.mark.parametrize(
    "missing",
    [
        {"restic": {"local": "L", "s3": None}, "problems": ["off-site: no"]},
        {"pgbackrest": {"n8n": {"local": "A", "s3": None}}, "problems": ["postgres-n8n: no"]},
    ],
)
def test_a_set_whose_data_are_not_all_there_is_not(
    definition: Definition, bucket: Bucket, missing: dict[str, Any]
) -> None:
    sealed = written(definition, **missing)
    assert published(definition, sealed) == local(definition) == sealed
    assert bucket.objects == {}


def test_a_bucket_that_refuses_the_manifest_hides_no_other_problem(
    definition: Definition, bucket: Bucket
) -> None:
    bucket.fault = S3Error({"code": "AccessDenied"})
    made = published(definition, written(definition, problems=["keys: gone"]))
    assert [text.split(":")[0] for text in made["problems"]] == ["keys", "off-site"]
    assert local(definition) == made


def test_what_is_brought_later_keeps_what_is_still_wrong_with_it(
    definition: Definition, bucket: Bucket
) -> None:
    written(definition, EARLIER, problems=["keys: gone", "off-site: away"], restic={"local": "L", "s3": None})
    published(definition, written(definition))
    assert bucket.objects[EARLIER] == local(definition, EARLIER)
    assert bucket.objects[EARLIER]["problems"] == ["keys: gone"]
