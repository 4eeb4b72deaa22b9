"""The disk of the database is full: nothing that was acknowledged is lost, and space is all that it needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.n8n_platform.backup import BackupError, Exit
from ansible.module_utils.n8n_platform.backup_pg_dump import PgDump
from ansible.module_utils.n8n_platform.engine_exec import Inside
from ansible.module_utils.n8n_platform.postgres_dump_restore import DumpRestore, Target

from tests.support.postgres_lab import SERVICE, PostgresLab

BALLAST_MB = 60
# 3.2 MB that compress badly.
FILLING = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 100000))"


@pytest.fixture
def lab(images: dict[str, str]) -> Iterator[PostgresLab]:
    found = PostgresLab(Path("/var/tmp/n8n-test-pg-disk"), "test-pg-disk", images, data_mb=300)
    try:
        yield found.create()
    finally:
        found.remove()


def insert_until_it_is_full(lab: PostgresLab) -> tuple[int, str]:
    """Rows that were acknowledged, and what the first refused one was told."""
    for number in range(1, 200):
        try:
            lab.sql(f"INSERT INTO rows (id, filling) VALUES ({number}, {FILLING})")
        except AssertionError as refused:
            return number - 1, str(refused)
    raise AssertionError("the disk takes no end")


@pytest.mark.full
def test_writes_are_refused_and_with_space_again_every_acknowledged_row_is_there(lab: PostgresLab) -> None:
    ballast = lab.volume / "ballast"
    ballast.write_bytes(bytes(BALLAST_MB << 20))
    rows, said = insert_until_it_is_full(lab)
    assert rows > 5
    assert "No space left on device" in said or "server closed the connection" in said, said

    ballast.unlink()
    lab.compose("restart", "postgres-n8n")
    lab.start()
    # A full set looks at the checksum of every page.
    found = lab.sql("SELECT count(*), min(id), sum(length(filling)) FROM rows")
    assert found == f"{rows}|1|{rows * 3200000}"
    assert lab.back_up("full")["local"]["details"]["type"] == "full"
    lab.sql(f"INSERT INTO rows (id) VALUES ({rows + 1})")


@pytest.mark.full
def test_a_restore_that_finds_no_room_is_refused_before_it_writes(lab: PostgresLab, tmp_path: Path) -> None:
    lab.sql(f"INSERT INTO rows (id, filling) SELECT i, {FILLING} FROM generate_series(1, 2) i")
    kind = PgDump({"name": "dump-n8n", "kind": "pg_dump", "service": SERVICE, "database": "n8n"})
    [dump] = kind.run(lab.context(), tmp_path)
    lab.back_up("full")
    # Of former restores; the next one takes them away when it begins.
    lab.sql("CREATE DATABASE n8n_before_restore")
    (lab.volume / "17/.new.restore").mkdir()
    logical = DumpRestore(Target(Inside(lab.container), lab.volume, "n8n", "postgres"))
    ballast = lab.volume / "ballast"
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(lab.volume).free - 8 * dump["bytes"])

    def there() -> list[str]:
        """What lies in the volume, down to its generations, and the databases."""
        files = [str(path) for depth in ("*", "*/*") for path in lab.volume.glob(depth)]
        return sorted(files) + lab.sql("SELECT datname FROM pg_database ORDER BY 1").split()

    before = there()
    # Log of a gigabyte, which the whole volume has not, may have to be replayed into the physical one.
    for prepare in (lab.recovery().prepare, lambda: logical.prepare(tmp_path / dump["file"], dump["sha256"])):
        with pytest.raises(BackupError, match=f"{lab.volume}: .* MiB free") as refused:
            prepare()
        assert refused.value.code == Exit.NO_SPACE
        assert there() == before
    ballast.unlink()
    assert logical.prepare(tmp_path / dump["file"], dump["sha256"])["tables"] == 1
