"""Weeks of sets at other times than ours, and a repository without room: what goes, what stays, what is said."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ansible.module_utils.n8n_platform.backup import BackupError, Exit

from tests.support.packages import program
from tests.support.postgres_lab import ITEM, PostgresLab

FIRST = datetime(2026, 1, 5, 2, 0, tzinfo=UTC)


class Clock:
    """The time in the container, the server's and pgBackRest's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.set(0)

    def set(self, day: float) -> datetime:
        """Goes on from there."""
        now = datetime.fromtimestamp(FIRST.timestamp() + day * 86400, UTC)
        offset = int(now.timestamp() - datetime.now(UTC).timestamp())
        (self.folder / "now").write_text(f"{offset:+d}\n")
        return now


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    program("faketime", "faketime")
    folder = tmp_path_factory.mktemp("clock")
    folder.chmod(0o755)
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    shutil.copy(library, folder / library.name)
    return Clock(folder)


@pytest.fixture(scope="module")
def lab(images: dict[str, str], clock: Clock) -> Iterator[PostgresLab]:
    found = PostgresLab(
        Path("/var/tmp/n8n-test-pg-days"),
        "test-pg-days",
        images,
        repository_mb=200,
        environment={
            "LD_PRELOAD": "/clock/libfaketime.so.1",
            "FAKETIME_TIMESTAMP_FILE": "/clock/now",
            "FAKETIME_NO_CACHE": "1",
        },
        mounts=[f"{clock.folder}:/clock:ro"],
    )
    try:
        yield found.create()
    finally:
        found.remove()


def sets(lab: PostgresLab) -> list[str]:
    return [backup.label for backup in ITEM.repositories(lab.context())["local"].backups]


def segments(lab: PostgresLab) -> list[str]:
    return lab.client().segments("local", "17-1")


def make(lab: PostgresLab, clock: Clock, day: float, type_: str) -> str:
    lab.sql("INSERT INTO rows (id) SELECT coalesce(max(id), 0) + 1 FROM rows")
    made = lab.back_up(type_, now=clock.set(day))["local"]
    assert made["details"]["type"] == type_
    return str(made["label"])


def test_on_day_eight_and_day_thirty_one_goes_what_no_kept_set_needs(lab: PostgresLab, clock: Clock) -> None:
    first, with_it, second = (
        make(lab, clock, day, type_) for day, type_ in ((0, "full"), (0.5, "incr"), (1, "full"))
    )
    third = make(lab, clock, 2, "full")
    early, rows_then = clock.set(2.2), lab.sql("SELECT count(*) FROM rows")

    def prune(day: float, days: int, dry_run: bool) -> list[str]:
        retention = {"local_days": days, "offsite_days": days, "minimum_sets": 2}
        return ITEM.prune(lab.context(now=clock.set(day), retention=retention), "local", dry_run)

    assert prune(7.9, 7, dry_run=False) == []
    listed = prune(8.1, 7, dry_run=True)
    assert sets(lab) == [first, with_it, second, third]
    oldest = ITEM.repositories(lab.context())["local"].backups[2].wal_start
    assert listed == [f"set {first}", f"set {with_it}", f"WAL before {oldest}"]
    assert prune(8.1, 7, dry_run=False) == listed
    assert sets(lab) == [second, third] and segments(lab)[0] == oldest
    assert prune(8.1, 7, dry_run=False) == []

    fourth = make(lab, clock, 8.2, "full")
    assert prune(31.9, 30, dry_run=False) == []
    assert prune(32.1, 30, dry_run=False)[0] == f"set {second}"
    assert sets(lab) == [third, fourth]
    assert ITEM.verify(lab.context()) == []
    expected = lab.sql("SELECT count(*) FROM rows")
    # A moment near the beginning of what is left, then the newest again, which lies on the timeline from before.
    lab.restore(time=early, timeline="1")
    assert lab.sql("SELECT count(*) FROM rows") == rows_then != expected
    lab.restore(label=third, timeline="1")
    assert lab.sql("SELECT count(*) FROM rows") == expected


def test_a_clock_that_went_backwards_overwrites_no_set(lab: PostgresLab, clock: Clock) -> None:
    before = sets(lab)
    with pytest.raises(BackupError):
        lab.back_up("full", now=clock.set(-30))
    clock.set(33)
    assert sets(lab) == before and ITEM.verify(lab.context()) == []


def test_a_full_repository_is_said_and_loses_nothing_older(lab: PostgresLab, clock: Clock) -> None:
    clock.set(34)
    lab.switch_wal()
    before, expected = sets(lab), lab.sql("SELECT count(*) FROM rows")
    filler = lab.backups / "pgbackrest/filler"
    free = shutil.disk_usage(filler.parent).free
    subprocess.run(["fallocate", "-l", str(free - (2 << 20)), str(filler)], check=True)
    try:
        with pytest.raises(BackupError) as full:
            lab.back_up("full", now=clock.set(34.1), timeouts={"default": 120})
        assert full.value.code == Exit.NO_SPACE, full.value
        assert sets(lab) == before
    finally:
        os.unlink(filler)
    lab.switch_wal()
    made = lab.back_up("full", now=clock.set(34.2))["local"]
    assert sets(lab) == [*before, made["label"]]
    assert ITEM.verify(lab.context()) == []
    folders = {path.name for path in (lab.backups / "pgbackrest/backup/n8n").iterdir() if path.is_dir()}
    assert folders == {*sets(lab), "backup.history", "latest"}, "something half-written stayed"
    lab.restore(label=before[-1])
    assert lab.sql("SELECT count(*) FROM rows") == expected
