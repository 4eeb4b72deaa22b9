"""The logical dump: whole, restorable by itself, and put in the database's place without losing it on the way."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform.backup import BackupError, Exit
from ansible.module_utils.n8n_platform.backup_pg_dump import PgDump
from ansible.module_utils.n8n_platform.engine_exec import Inside
from ansible.module_utils.n8n_platform.postgres_dump_restore import DumpRestore, Target

from tests.support.deployment import wait_until
from tests.support.depth import smoke_and_full
from tests.support.docs import doc_block
from tests.support.postgres_lab import SERVICE, PostgresLab

KIND = PgDump({"name": "dump-n8n", "kind": "pg_dump", "service": SERVICE, "database": "n8n"})
HASH = "SELECT md5(string_agg(id || filling, ',' ORDER BY id)) FROM rows"


@pytest.fixture(scope="module")
def lab(images: dict[str, str]) -> Iterator[PostgresLab]:
    found = PostgresLab(Path("/var/tmp/n8n-test-pg-dump"), "test-pg-dump", images)
    try:
        found.create()
        found.sql("CREATE ROLE n8n_owner")
        found.sql("ALTER TABLE rows OWNER TO n8n_owner")
        found.sql("INSERT INTO rows (id, filling) SELECT i, md5(i::text) FROM generate_series(1, 5000) i")
        yield found
    finally:
        found.remove()


@pytest.fixture(scope="module")
def dump(lab: PostgresLab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The artefact, with the dump's `path` and the `hash` of what is in it."""
    staging = tmp_path_factory.mktemp("staging")
    [artefact] = KIND.run(lab.context(), staging)
    return {**artefact, "path": staging / artefact["file"], "hash": lab.sql(HASH)}


def worker(lab: PostgresLab) -> DumpRestore:
    return DumpRestore(Target(Inside(lab.container), lab.volume, "n8n", "n8n_owner"))


def held_session(lab: PostgresLab, database: str) -> subprocess.Popen[bytes]:
    """psql that sleeps in the database, which the server has seen."""
    argv = ["docker", "exec", lab.container, "psql", "-U", "postgres", "-d", database]
    session = subprocess.Popen(
        [*argv, "-c", "SELECT pg_sleep(60)"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    there = (
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND query LIKE '%pg_sleep(60)'"
    )
    wait_until(lambda: lab.sql(there, "postgres") == "1", f"a session of {database}", 20)
    return session


def databases(lab: PostgresLab) -> list[str]:
    return lab.sql("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1", "postgres").split()


def test_it_is_small_private_and_of_the_forecast_s_size_at_most(
    lab: PostgresLab, dump: dict[str, Any]
) -> None:
    assert dump["path"].stat().st_mode & 0o777 == 0o600
    assert 0 < dump["bytes"] < KIND.forecast(lab.context())
    assert dump["details"]["tables"] == 1 and len(dump["sha256"]) == 64


def test_it_can_be_restored_by_itself_without_the_platform(lab: PostgresLab, dump: dict[str, Any]) -> None:
    server = "initdb -D /tmp/d -U postgres > /dev/null && pg_ctl -D /tmp/d -w -l /tmp/log -o '-k /tmp -h \"\"' start"
    restore = doc_block("dump-by-itself").strip().replace("dump-n8n.dump", "/dump")
    look = f'psql -XqAtd n8n -c "{HASH}"'
    script = f"set -e; export PGHOST=/tmp PGUSER=postgres; {server} > /dev/null; {restore}; {look}"
    argv = [
        "docker",
        "run",
        "--rm",
        "--network",
        "none",
        "--user",
        "0",
        "--mount",
        f"type=bind,source={dump['path']},target=/in",
    ]
    inside = (
        'cp /in /dump && chown 2001 /dump && exec setpriv --reuid 2001 --regid 2001 --clear-groups sh -c "$0"'
    )
    argv += ["--entrypoint", "sh", lab.images["postgres"], "-c", inside, script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1:] == [dump["hash"]], done.stderr


def test_a_restore_puts_it_in_the_database_s_place_and_keeps_the_former_one(
    lab: PostgresLab, dump: dict[str, Any]
) -> None:
    lab.sql("DELETE FROM rows WHERE id > 10")
    restore = worker(lab)
    assert restore.prepare(dump["path"], dump["sha256"])["tables"] == 1
    assert lab.sql("SELECT count(*) FROM rows") == "10", "the database in use was touched"
    session = held_session(lab, "n8n")
    assert restore.switch() == "n8n_before_restore"
    assert session.wait(30) != 0
    assert lab.sql(HASH) == dump["hash"]
    assert lab.sql("SELECT count(*) FROM rows", "n8n_before_restore") == "10"
    owner = "SELECT pg_get_userbyid(datdba) || ' ' || has_database_privilege('public', oid, 'CONNECT') FROM pg_database"
    assert lab.sql(f"{owner} WHERE datname = 'n8n'") == "n8n_owner false"
    # It goes even while somebody looks into it.
    session = held_session(lab, "n8n_before_restore")
    assert KIND.completed(lab.context()) == [
        "removed database n8n_before_restore, which a restore has replaced"
    ]
    assert session.wait(30) != 0
    assert KIND.completed(lab.context()) == []
    assert databases(lab) == ["n8n", "postgres"]
    assert not (lab.volume / ".restore").exists()


@pytest.mark.parametrize("switched", [True, False])
def test_the_way_back_leads_to_the_database_from_before(
    lab: PostgresLab, dump: dict[str, Any], switched: bool
) -> None:
    lab.sql("INSERT INTO rows (id) VALUES (9000)")
    before = lab.sql(HASH)
    restore = worker(lab)
    restore.prepare(dump["path"], dump["sha256"])
    if switched:
        # Killed before it could say so, it is called again.
        assert restore.switch() == restore.switch() == "n8n_before_restore"
        assert lab.sql(HASH) == dump["hash"]
    else:
        lab.sql("ALTER DATABASE n8n ALLOW_CONNECTIONS false", "postgres")
    restore.back()
    restore.back()
    assert lab.sql(HASH) == before
    assert databases(lab) == ["n8n", "postgres"]
    lab.sql("DELETE FROM rows WHERE id = 9000")


@pytest.mark.parametrize("at", smoke_and_full([0.0, 0.5, 0.99], [0.5]))
def test_a_flipped_byte_is_refused_and_the_database_stays(
    lab: PostgresLab, dump: dict[str, Any], tmp_path: Path, at: float
) -> None:
    content = bytearray(dump["path"].read_bytes())
    content[int(len(content) * at)] ^= 1
    bad = tmp_path / "bad.dump"
    bad.write_bytes(content)
    before = lab.sql(HASH)
    with pytest.raises(BackupError, match="checksum") as refused:
        worker(lab).prepare(bad, dump["sha256"])
    assert refused.value.code == Exit.DAMAGED
    assert lab.sql(HASH) == before and databases(lab) == ["n8n", "postgres"]


def test_a_dump_that_ends_early_leaves_the_database_as_it_is(
    lab: PostgresLab, dump: dict[str, Any], tmp_path: Path
) -> None:
    short = tmp_path / "short.dump"
    short.write_bytes(dump["path"].read_bytes()[: dump["bytes"] // 2])
    before = lab.sql(HASH)
    restore = worker(lab)
    with pytest.raises(BackupError) as refused:
        restore.prepare(short)
    assert refused.value.code == Exit.DAMAGED and lab.sql(HASH) == before
    restore.discard_new()
    assert databases(lab) == ["n8n", "postgres"]


def test_a_switch_that_fails_leaves_the_database_open(lab: PostgresLab) -> None:
    before = lab.sql(HASH)
    with pytest.raises(BackupError, match="n8n_restore"):
        worker(lab).switch()
    assert lab.sql(HASH) == before


def test_a_dump_that_takes_too_long_is_ended_and_leaves_no_file(lab: PostgresLab, tmp_path: Path) -> None:
    lock = ["-c", "BEGIN", "-c", "LOCK TABLE rows IN ACCESS EXCLUSIVE MODE", "-c", "SELECT pg_sleep(20)"]
    argv = ["docker", "exec", lab.container, "psql", "-U", "postgres", "-d", "n8n", *lock]
    blocker = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    locked = (
        "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'rows'::regclass"
    )
    wait_until(lambda: lab.sql(locked) == "1", "the lock", 20)
    with pytest.raises(BackupError, match="time limit"):
        KIND.run(lab.context(timeouts={"pg_dump": 3}), tmp_path)
    assert list(tmp_path.iterdir()) == []
    sleeper = "query LIKE '%pg_sleep(20)%' AND pid <> pg_backend_pid()"
    lab.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {sleeper}")
    blocker.wait(30)
