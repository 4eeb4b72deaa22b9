"""The disk of the database is full: nothing that was acknowledged is lost, and space is all that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres_lab import PostgresLab

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
